"""What changes under an open handle, and what must not get in: other processes, late marks, odd input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from counting import CountingEmbedder
from places import Place

from shelflist import Chunk, Document
from shelflist.core.errors import CollectionNotFound, InvalidInput, TenantForbidden, UnsupportedIndex
from shelflist.core.types import SearchParams


def test_a_field_that_another_handle_declares_is_known_at_once(directory: Place) -> None:
    one, two = directory.open(), directory.open()
    one.sync("p", [Chunk("first text", {"page": 3})])
    two.add_field("page", int)
    assert one.count("page == 3") == 1 and one.count("page == 4") == 0
    one.sync("q", [Chunk("second text", {"page": 4})])
    assert two.count("page == 4") == 1
    report = one.sync("r", [Chunk("third text", {"page": "three"})])
    assert report.failed == 1 and "page" in report.failures[0].error


def test_a_collection_dropped_elsewhere_says_so(directory: Place) -> None:
    one, two = directory.open(), directory.open()
    one.sync("p", [Chunk("some text")])
    two.drop()
    for use in (lambda: one.search("text"), lambda: one.sync("q", [Chunk("more")]), one.status):
        with pytest.raises(CollectionNotFound, match="was dropped"):
            use()
    again = directory.open()
    assert again.count() == 0
    with pytest.raises(CollectionNotFound, match="was dropped"):
        one.sync("q", [Chunk("more")])


def test_a_mark_that_comes_while_a_sync_embeds_is_not_lost(place: Place) -> None:
    docs = place.open()
    docs.sync("p", [Chunk("kept one"), Chunk("kept two")])

    embed = place.embedder.embed_documents

    def marks_first(texts: Any) -> Any:
        place.embedder.embed_documents = embed  # type: ignore[method-assign]
        assert docs.mark_stale("p") == 2
        return embed(texts)

    place.embedder.embed_documents = marks_first  # type: ignore[method-assign]
    docs.sync("p", [Chunk("kept one"), Chunk("kept two"), Chunk("added")])
    assert docs.count() == 3
    assert [chunk["index_status"] for chunk in docs.show("p")["chunks"]] == ["indexed"] * 3
    assert docs.verify()["ok"]


@pytest.mark.parametrize("revision", [0, -1, "5", 1.0, True, 2**63])
def test_a_revision_is_a_positive_int(place: Place, revision: Any) -> None:
    docs = place.open()
    with pytest.raises(InvalidInput, match="revision"):
        docs.sync("p", [Chunk("text")], revision=revision)
    assert docs.documents() == [] and docs.count() == 0
    docs.sync("p", [Chunk("text")], revision=1)
    assert docs.documents()[0]["revision"] == 1 and docs.count() == 1


def test_one_odd_document_does_not_end_the_pass(place: Place) -> None:
    odd: list[Any] = [
        {"document_id": "dict"},
        Document("", [Chunk("no id")]),
        Document("\ud800", [Chunk("bad id")]),
        Document("section", [Chunk("text", section="\ud800")]),
        Document("number", [Chunk("text", section=5)]),  # type: ignore[arg-type]
        Document("strategy", [Chunk("text", chunk_strategy="\ud800")]),
        Document("chunk", ["text"]),  # type: ignore[list-item]
        Document("revision", [Chunk("text")], revision=0),
    ]
    report = place.open().sync_all([Document("before", [Chunk("good")]), *odd, Document("after", [Chunk("good too")])])
    assert report.documents_added == 2
    assert report.failed == report.documents_failed == len(odd)
    assert [one["document_id"] for one in place.open().documents()] == (["after", "before"] if place.outlives else [])


def test_text_in_place_of_chunks_or_documents_is_named(place: Place) -> None:
    docs = place.open()
    with pytest.raises(InvalidInput, match="Chunker"):
        docs.sync("p", "text")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="open_source"):
        docs.sync_all("folder")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="query"):
        docs.search("\ud800")
    with pytest.raises(InvalidInput, match="source"):
        docs.sync("p", [Chunk("text")], source="\ud800")


def test_work_on_the_whole_collection_is_not_a_tenants(alone: Place) -> None:
    saas = alone.open(tenancy="required", fields={"n": int})
    acme = saas.tenant("acme")
    acme.sync("p", [Chunk("text")])
    for use in (acme.verify, acme.repair, acme.purge, acme.drop, lambda: acme.add_field("m", int)):
        with pytest.raises(TenantForbidden, match="whole collection"):
            use()
    assert acme.count() == 1 and saas.verify()["ok"]
    assert acme.recall() == 1.0
    with pytest.raises(InvalidInput):
        saas.tenant("umbrella").recall()
    with pytest.raises(InvalidInput, match="Unicode"):
        saas.tenant("\ud800")


def test_a_setting_of_an_index_that_is_not_there_is_refused(place: Place) -> None:
    docs = place.open()
    docs.sync("p", [Chunk("text")])
    kinds = docs._parts.store.capabilities.index_kinds
    for kind, params in (("hnsw", SearchParams(ef_search=100)), ("ivf", SearchParams(nprobe=8))):
        if kind in kinds:
            assert len(docs.search("text", params=params)) == 1
        else:
            with pytest.raises(UnsupportedIndex, match=r"ef_search|nprobe"):
                docs.search("text", params=params)
    assert len(docs.search("text", params=SearchParams(exact=True))) == 1


def test_a_reranker_needs_the_text(place: Place) -> None:
    docs = place.open()
    docs.sync("p", [Chunk("text")])
    vector = np.asarray(place.embedder.embed_query("text"))
    with pytest.raises(InvalidInput, match="reranker"):
        docs.search(vector, rerank=lambda query, hits: [1.0] * len(hits))
    with pytest.raises(InvalidInput, match="min_score"):
        docs.search("text", min_score="x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="limt"):
        docs.search_many(["text"], limt=3)


class ShortSighted(CountingEmbedder):
    max_tokens = 3


def test_a_text_longer_than_the_model_reads_is_named(place: Place) -> None:
    place.embedder = ShortSighted()
    docs = place.open()
    report = docs.sync("long.md", [Chunk("one two three"), Chunk("one two three four five six")])
    assert report.added == 2
    assert len(report.warnings) == 1 and "long.md" in report.warnings[0] and "position 1" in report.warnings[0]
    assert report.tokens == sum(chunk["token_count"] for chunk in docs.show("long.md")["chunks"]) > 3
    assert docs.sync("short.md", [Chunk("one two")]).warnings == []


def test_a_text_whose_vector_is_there_is_counted_too(place: Place) -> None:
    place.embedder = ShortSighted()
    docs = place.open()
    docs.sync("first.md", [Chunk("one two three four")])
    report = docs.sync("second.md", [Chunk("one two three four"), Chunk("five")])
    assert (report.embedded, report.cached, report.tokens) == (1, 1, 1)
    assert [chunk["token_count"] for chunk in docs.show("second.md")["chunks"]] == [4, 1]
    assert "second.md" in report.warnings[0]
