"""A copy from a directory into a store behind a server and back, to be run with each store as the `place` between."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting import unit
from places import Place, place_of

import shelflist
from shelflist import Chunk, Collection, CopyReport, Document, SearchParams
from shelflist.core.errors import CopyDiffers
from shelflist.core.types import Progress
from shelflist.engine.exact import prepared
from shelflist.indexing import copy as copy_module

FIELDS = {"n": int, "tags": list[str], "title": str}
PAGES = 60
EXACT = SearchParams(exact=True)


def page(number: int, *texts: str) -> Document:
    metadata = {"n": number, "tags": ["even" if number % 2 == 0 else "odd"], "free": {"at": [number]}}
    texts = texts or tuple(f"page {number} tells of part {part}" for part in range(2))
    return Document(f"page-{number}", [Chunk(text, metadata=metadata) for text in texts])


@pytest.fixture
def source(folder: Path) -> Any:
    """Sixty pages of two chunks in a directory, one of them deleted and one marked stale."""
    origin = place_of("file", folder / "origin")
    collection = origin.open(fields=FIELDS)
    collection.sync_all((page(number) for number in range(PAGES)), source="pages")
    collection.delete("page-7")
    collection.mark_stale("page-8")
    yield collection
    origin.close()


def copy_into(source: Collection, place: Place, **options: Any) -> CopyReport:
    return shelflist.copy(source.url, place.url, source.name, to_ledger=place.ledger, **options)


def told(collection: Collection) -> dict[str, Any]:
    """Ids, texts and metadata of every chunk, but those of the page that is marked stale."""
    return {
        one["document_id"]: [
            {key: chunk[key] for key in ("chunk_id", "content", "metadata", "position")}
            for chunk in collection.show(one["document_id"])["chunks"]
        ]
        for one in collection.documents()
        if one["document_id"] != "page-8"
    }


def vectors_by_point(collection: Collection, points: list[bytes]) -> dict[bytes, Any]:
    parts = collection._parts
    found = parts.store.vectors(parts.spec, points)
    return {one: prepared(found[one], parts.spec.metric) for one in sorted(found)}


def require_same(copy: Collection, original: Collection) -> None:
    assert told(copy) == told(original)
    assert copy.count() == original.count() and copy.verify()["ok"]
    parts = original._parts
    sampled = sorted(point for point, status in parts.store.scan(parts.spec) if status == "indexed")[::5]
    mine, theirs = vectors_by_point(original, sampled), vectors_by_point(copy, sampled)
    assert mine.keys() == theirs.keys() and len(mine) >= 20
    for point, vector in mine.items():
        np.testing.assert_allclose(theirs[point], vector, rtol=1e-4, atol=1e-5)
    for number in (3, 21, 58):
        query = unit(f"a question of {number}")
        for where in (None, f'n >= {number - 2} and "odd" in tags'):
            asked = {"params": EXACT, "limit": 7, "where": where}
            found = copy.search(query, **asked)
            wanted = original.search(query, **asked)
            assert [hit.chunk_id for hit in found] == [hit.chunk_id for hit in wanted] and wanted
            assert [hit.distance for hit in found] == pytest.approx([hit.distance for hit in wanted], abs=1e-4)
        keyword = copy.search(f"page {number}", mode="keyword", where=f"n == {number}")
        assert {hit.document_id for hit in keyword} == {f"page-{number}"}


def test_a_copy_there_and_back_again(source: Collection, place: Place, folder: Path) -> None:
    report = copy_into(source, place)
    assert (report.documents, report.chunks, report.marked) == (PAGES - 2, 2 * PAGES - 4, ["page-8"])
    assert report.vectors_checked >= 2 * PAGES - 4 and report.answers_checked == 20
    copy = place.open(create=False)
    require_same(copy, source)

    source.sync("page-8", page(8, "page 8 is back").chunks, source="pages")
    source.delete("page-9")
    report = copy_into(source, place)
    assert (report.documents_added, report.documents_removed, report.documents_unchanged) == (1, 1, PAGES - 3)
    assert contents_of(copy, 8) == ["page 8 is back"] and contents_of(copy, 9) == []

    back = place_of("file", folder / "back")
    report = shelflist.copy(place.url, back.url, "docs", ledger=place.ledger)
    assert (report.documents, report.chunks) == (PAGES - 2, 2 * PAGES - 5)
    require_same(back.open(create=False), source)
    assert place.embedder.texts == back.embedder.texts == [], "a copy embeds nothing"
    back.close()


def contents_of(collection: Collection, number: int) -> list[str]:
    return sorted(hit.content for hit in collection.search(unit("x"), limit=9, where=f"n == {number}"))


def test_a_copy_of_tenants_and_given_vectors(place: Place, folder: Path) -> None:
    origin, back = place_of("file", folder / "origin"), place_of("file", folder / "back")
    given = origin.given(tenancy="required", metric="l2")
    for tenant in ("acme", "other"):
        rows = np.random.default_rng(len(tenant)).standard_normal((9, 4))
        given.tenant(tenant).sync("x", [Chunk(f"{tenant} {i}", embedding=row) for i, row in enumerate(rows)])
    assert shelflist.copy(origin.url, place.url, "given", to_ledger=place.ledger).chunks == 18
    assert shelflist.copy(place.url, back.url, "given", ledger=place.ledger).chunks == 18
    query = np.ones(4, dtype=np.float32)
    for there in (place, back):
        copy = there.open("given", create=False, embedder=None)
        assert copy.verify()["ok"]
        for tenant in ("acme", "other"):
            mine, theirs = (one.tenant(tenant).search(query, limit=20, params=EXACT) for one in (given, copy))
            assert [hit.chunk_id for hit in theirs] == [hit.chunk_id for hit in mine] and len(mine) == 9
            assert [hit.distance for hit in theirs] == pytest.approx([hit.distance for hit in mine], rel=1e-4)
    origin.close()
    back.close()


class Interrupted(Exception):
    pass


def test_an_interrupted_copy_goes_on_where_it_was(
    source: Collection, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_module, "_CHUNKS_PER_WRITE", 20)

    def interrupt(step: Progress) -> None:
        if step.done >= 40:
            raise Interrupted

    with pytest.raises(Interrupted):
        copy_into(source, place, progress=interrupt)
    stored: list[bytes] = []
    kind = type(place.open(create=False)._parts.store)
    upsert = kind.upsert

    def noted(self: Any, spec: Any, points: Any) -> Any:
        result = upsert(self, spec, points)
        stored.extend(result.stored)
        return result

    monkeypatch.setattr(kind, "upsert", noted)
    report = copy_into(source, place)
    # What was stored before the interruption is not written again, and what was not is written once.
    assert report.unchanged >= 40 and report.added + report.unchanged == 2 * PAGES - 4
    assert len(stored) == len(set(stored)) == report.added
    require_same(place.open(create=False), source)
    assert place.embedder.texts == []


@pytest.mark.parametrize(
    ("altered", "said"),
    [(False, "1 chunks are not in the store"), (True, "1 chunks have another vector in the store")],
    ids=["lost", "altered"],
)
def test_a_copy_with_a_point_that_is_wrong_is_not_called_whole(
    source: Collection, place: Place, altered: bool, said: str
) -> None:
    def spoil(step: Progress) -> None:
        if step.stage == "verifying" and not spoilt:
            parts = place.open(create=False)._parts
            point, _ = next(iter(parts.store.scan(parts.spec)))
            (whole,) = parts.store.get(parts.spec, [point])
            spoilt.append(point)
            parts.store.delete(parts.spec, [point])
            if altered:
                parts.store.upsert(parts.spec, [replace(whole, vector=-whole.vector)])
            parts.store.flush(parts.spec)

    spoilt: list[bytes] = []
    with pytest.raises(CopyDiffers, match=said) as caught:
        copy_into(source, place, progress=spoil)
    assert spoilt and spoilt[0].hex() in str(caught.value)
    with pytest.raises(CopyDiffers, match=said):
        copy_into(source, place)
    copy = place.open(create=False)
    copy.repair()
    assert place.embedder.texts == []
    assert copy_into(source, place).chunks == 2 * PAGES - 4
    require_same(copy, source)
