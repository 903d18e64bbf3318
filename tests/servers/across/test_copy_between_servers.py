"""A copy from one server straight into another, Postgres and Chroma, each way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chroma_engine import server_url
from copy_tests import EXACT, FIELDS, contents_of, page, told, vectors_by_point
from counting import unit
from places import Place

import shelflist
from shelflist import Collection, CopyReport

PAGES = {"acme": 30, "other": 12}
CHUNKS = 2 * sum(PAGES.values())


@pytest.fixture(scope="module")
def chroma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server_url(tmp_path_factory.mktemp("chroma")) as url:
        yield url


@pytest.fixture(params=["from Postgres to Chroma", "from Chroma to Postgres"])
def ends(request: pytest.FixtureRequest, postgres: Any, chroma: str, folder: Path) -> Iterator[tuple[Place, Place]]:
    """The place to copy from and the place to copy to. Postgres holds its ledger itself."""
    in_postgres = Place(postgres.fresh(scheme="pgvector"))
    in_chroma = Place(chroma, f"sqlite:{folder / 'ledger.db'}")
    yield (in_postgres, in_chroma) if request.param.startswith("from Postgres") else (in_chroma, in_postgres)
    in_chroma.drop()
    in_chroma.close()
    in_postgres.close()


@pytest.fixture
def source(ends: tuple[Place, Place]) -> Collection:
    """Two tenants, which call their documents alike and mean others."""
    docs = ends[0].open(fields=FIELDS, tenancy="required")
    for tenant, pages in PAGES.items():
        documents = (
            page(n, *(f"page {n} of {tenant} tells of part {part}" for part in range(2))) for n in range(pages)
        )
        docs.tenant(tenant).sync_all(documents, source="pages")
    return docs


def copied(ends: tuple[Place, Place]) -> CopyReport:
    origin, destination = ends
    return shelflist.copy(origin.url, destination.url, "docs", ledger=origin.ledger, to_ledger=destination.ledger)


def answers(collection: Collection, tenant: str, asked: Any, where: str | None, mode: str = "dense") -> list[Any]:
    found = collection.tenant(tenant).search(asked, limit=7, where=where, mode=mode, params=EXACT)
    return [(hit.tenant, hit.chunk_id, hit.content, hit.metadata) for hit in found]


def test_a_copy_answers_as_its_original(ends: tuple[Place, Place], source: Collection) -> None:
    report = copied(ends)
    assert (report.documents, report.chunks, report.added) == (sum(PAGES.values()), CHUNKS, CHUNKS)
    assert report.vectors_checked >= CHUNKS and report.answers_checked == 20
    copy = ends[1].open(create=False)
    assert copy.verify()["ok"] and copy.tenancy == "required"
    for tenant, pages in PAGES.items():
        mine, theirs = source.tenant(tenant), copy.tenant(tenant)
        assert told(theirs) == told(mine) and theirs.count() == mine.count() == 2 * pages
        assert theirs.count('"odd" in tags') == pages
        for number in (3, 11):
            for where in (None, f'n >= {number - 2} and "odd" in tags'):
                asked = unit(f"a question of {number}")
                found = answers(copy, tenant, asked, where)
                assert found == answers(source, tenant, asked, where)
                assert {one[0] for one in found} == {tenant}
            asked = f"part 1 of page {number}"
            found = answers(copy, tenant, asked, f"n == {number}", "keyword")
            assert found == answers(source, tenant, asked, f"n == {number}", "keyword") and len(found) == 2
        assert answers(copy, tenant, unit("x"), f"n >= {pages}") == []

    parts = source._parts
    points = [point for point, _ in parts.store.scan(parts.spec)]
    mine, theirs = vectors_by_point(source, points), vectors_by_point(copy, points)
    assert mine.keys() == theirs.keys() and len(mine) == CHUNKS
    for point, vector in mine.items():
        np.testing.assert_allclose(theirs[point], vector, rtol=1e-4, atol=1e-5)
    assert ends[1].embedder.texts == [], "a copy embeds nothing"


def test_what_changes_after_the_copy_is_in_the_next(ends: tuple[Place, Place], source: Collection) -> None:
    copied(ends)
    copy = ends[1].open(create=False).tenant("acme")
    before = contents_of(copy, 3)
    changed = page(3, before[0], "page 3 says something else")
    source.tenant("acme").sync("page-3", changed.chunks, source="pages")
    assert contents_of(source.tenant("acme"), 3) == sorted(chunk.content for chunk in changed.chunks)
    assert contents_of(copy, 3) == before and len(before) == 2
    assert not copy.search("something", mode="keyword", where="n == 3")

    report = copied(ends)
    assert (report.added, report.removed, report.documents_changed) == (1, 1, 1)
    assert contents_of(copy, 3) == contents_of(source.tenant("acme"), 3)
    assert len(copy.search("something", mode="keyword", where="n == 3")) == 1
    assert len(contents_of(ends[1].open(create=False).tenant("other"), 3)) == 2
    assert ends[1].embedder.texts == []
