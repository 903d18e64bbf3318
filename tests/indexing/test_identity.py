"""Names that follow from content: equal input, equal name; any different input, another name."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shelflist import Chunk, Document
from shelflist.core.errors import ChunkTooLarge, EmptyText, InvalidInput
from shelflist.core.types import MAX_CHUNK_BYTES
from shelflist.indexing.identity import (
    canonical,
    chunk_id,
    digest,
    document_name,
    hash_of,
    metadata_hash,
    point_id,
    require_text,
    vector_bytes,
)

UID = bytes(range(16))
HASH = hash_of(b"text")


def name_of(uid: bytes, tenant: str | None, document_id: str, text_hash: bytes, occurrence: int) -> bytes:
    return chunk_id(uid, document_name(tenant, document_id), text_hash, occurrence)


def test_metadata_section_and_strategy_do_not_run_together() -> None:
    names = [
        metadata_hash({}, None, None),
        metadata_hash({}, "", None),
        metadata_hash({}, None, ""),
        metadata_hash({}, "ab", "c"),
        metadata_hash({}, "a", "bc"),
        metadata_hash({"n": 1}, None, None),
        metadata_hash({"n": "1"}, None, None),
        metadata_hash({"n": True}, None, None),
    ]
    assert len(set(names)) == len(names)
    assert metadata_hash({"a": 1, "b": 2}, "s", None) == metadata_hash({"b": 2, "a": 1}, "s", None)


def test_a_chunk_id_is_a_uuid_5() -> None:
    found = uuid.UUID(bytes=name_of(UID, None, "doc", HASH, 0))
    assert (found.version, found.variant) == (5, uuid.RFC_4122)


def test_every_part_of_a_chunk_id_counts() -> None:
    base: tuple[Any, ...] = (UID, "acme", "doc", HASH, 0)
    others: list[tuple[Any, ...]] = [
        (bytes(16), "acme", "doc", HASH, 0),
        (UID, None, "doc", HASH, 0),
        (UID, "", "doc", HASH, 0),
        (UID, "acmed", "oc", HASH, 0),
        (UID, "acm", "edoc", HASH, 0),
        (UID, "acme", "doc", hash_of(b"text "), 0),
        (UID, "acme", "doc", HASH, 1),
    ]
    names = [name_of(*base), *(name_of(*other) for other in others)]
    assert len(set(names)) == len(names)
    assert name_of(*base) == names[0]


def test_no_tenant_the_empty_tenant_and_a_tenant_are_three() -> None:
    assert len({name_of(UID, tenant, "d", HASH, 0) for tenant in (None, "", "None", "-1")}) == 4


@given(st.none() | st.text(max_size=5), st.text(max_size=5), st.none() | st.text(max_size=5), st.text(max_size=5))
def test_tenant_and_document_never_run_together(
    tenant: str | None, document: str, other_tenant: str | None, other_document: str
) -> None:
    same = (tenant, document) == (other_tenant, other_document)
    assert (name_of(UID, tenant, document, HASH, 0) == name_of(UID, other_tenant, other_document, HASH, 0)) == same


def test_every_part_of_a_point_id_counts() -> None:
    chunk = name_of(UID, None, "d", HASH, 0)
    names = {
        point_id(chunk, b"m" * 32, None, 1),
        point_id(chunk, b"m" * 32, None, 2),
        point_id(chunk, b"n" * 32, None, 1),
        point_id(chunk, b"m" * 32, b"e" * 32, 1),
        point_id(chunk, b"m" * 32, b"", 1),
        point_id(name_of(UID, None, "d", HASH, 1), b"m" * 32, None, 1),
    }
    assert len(names) == 6
    assert point_id(chunk, b"m" * 32, None, 1) in names


def whole(*chunks: Chunk) -> bytes:
    found = digest(Document("d", chunks)).whole
    assert found is not None
    return found


def test_a_digest_sees_every_change_that_the_ledger_keeps() -> None:
    base = Chunk("text", {"n": 1})
    variants = [
        (),
        (base,),
        (base, base),
        (Chunk("text "),),
        (Chunk("text"),),
        (Chunk("text", {"n": 2}),),
        (Chunk("text", {"n": "1"}),),
        (Chunk("text", {"n": True}),),
        (Chunk("text", {"n": None}),),
        (Chunk("text", {"m": 1}),),
        (Chunk("text", {"n": 1}, section="A"),),
        (Chunk("text", {"n": 1}, section=""),),
        (Chunk("text", {"n": 1}, chunk_strategy="A"),),
        (Chunk("text", {"n": 1}, embedding=[1.0]),),
        (Chunk("text", {"n": 1}, embedding=[1.0, 0.0]),),
        (Chunk("te"), Chunk("xt")),
        (Chunk("t"), Chunk("ext")),
        (Chunk("ext"), Chunk("t")),
    ]
    assert len({whole(*variant) for variant in variants}) == len(variants)
    assert whole(Chunk("text", {"n": 1})) == whole(base)


def test_a_digest_names_each_text_and_each_vector_that_was_brought() -> None:
    found = digest(Document("d", [Chunk("text"), Chunk("x", embedding=[1, 2])]))
    assert found.texts == [hash_of(b"text"), hash_of(b"x")]
    assert found.vectors == [None, hash_of(np.array([1, 2], dtype=np.float32).tobytes())]


def test_a_digest_does_not_depend_on_order_of_keys_nor_on_the_kind_of_sequence() -> None:
    assert whole(Chunk("x", {"a": 1, "b": [1, 2]})) == whole(Chunk("x", {"b": (1, 2), "a": 1}))
    assert whole(Chunk("x", embedding=[1, 2])) == whole(Chunk("x", embedding=np.array([1, 2], dtype=np.float32)))
    at = datetime(2024, 1, 1, tzinfo=UTC)
    assert whole(Chunk("x", {"at": at})) != whole(Chunk("x", {"at": at.replace(day=2)}))
    assert whole(Chunk("x", {"at": at})) == whole(Chunk("x", {"at": at}))


@given(
    st.dictionaries(
        st.text(max_size=3), st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3), max_size=4
    )
)
def test_canonical_is_the_same_for_any_order(metadata: dict[str, Any]) -> None:
    assert canonical(metadata) == canonical(dict(reversed(list(metadata.items()))))
    assert canonical({**metadata, "another key": 1}) != canonical(metadata)


@pytest.mark.parametrize("content", ["", " ", "\n\t "])
def test_text_of_nothing(content: str) -> None:
    with pytest.raises(EmptyText):
        require_text(content)


@pytest.mark.parametrize("content", [".", "\n.", "\u3000", "\x00"])
def test_text_of_little(content: str) -> None:
    require_text(content)  # raises if it is refused


def test_the_longest_text_and_one_byte_more() -> None:
    require_text("x" * MAX_CHUNK_BYTES)
    require_text("é" * (MAX_CHUNK_BYTES // 2))
    with pytest.raises(ChunkTooLarge, match="1,000,001"):
        require_text("é" * (MAX_CHUNK_BYTES // 2) + "x")


@pytest.mark.parametrize("content", [None, 3, b"bytes", "\ud800"])
def test_text_that_is_no_text_is_named_by_its_position(content: Any) -> None:
    found = digest(Document("d", [Chunk("fine"), Chunk(content), Chunk("fine")]))
    assert (found.whole, found.texts, list(found.refused)) == (None, [hash_of(b"fine"), b"", hash_of(b"fine")], [1])
    assert re.search(r"text|Unicode", str(found.refused[1])) and isinstance(found.refused[1], InvalidInput)
    assert digest(Document("d", [Chunk("fine")])).refused == {}


@pytest.mark.parametrize("embedding", ["text", [[1.0], [1.0, 2.0]], {"a": 1}, object()])
def test_a_vector_that_is_no_row_of_numbers(embedding: Any) -> None:
    with pytest.raises(InvalidInput, match="numbers"):
        vector_bytes(embedding)
