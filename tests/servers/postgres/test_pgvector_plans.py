"""Postgres's own plan of every statement that a search sends: an index answers it, and nothing is read from end to end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from postgres_engine import PostgresServer
from sent_statements import plans_of, statements_sent

import shelflist
from shelflist import Chunk, Collection, Document
from shelflist.core.fields import Fields
from shelflist.core.filters import F, Filter, prepare
from shelflist.core.types import Candidates, Flat, Hnsw, IndexSpec, Ivf, Point, SearchParams, Vector
from shelflist.stores.pgvector import planner
from shelflist.stores.pgvector.store import PgvectorStore
from shelflist.stores.protocol import GenerationSpec, Scope
from shelflist.testing.points import make_point

ROWS, DIMENSIONS = 12_000, 32
FIELDS = Fields({"n": int, "colour": str, "tags": list[str]})
TENANTS = ["large"] * 6 + ["other"] * 3 + ["small"]


def row_of(i: int) -> tuple[str, dict[str, Any], str]:
    """Text, metadata and tenant of the row of this number."""
    metadata = {"n": i, "colour": ["red", "green"][i % 2], "tags": [f"t{i % 60}", "all"]}
    return f"row{i} group{i % 80} of the house", metadata, TENANTS[i % 10]


def questions(count: int, seed: int) -> Vector:
    return np.random.default_rng(seed).normal(size=(count, DIMENSIONS)).astype(np.float32)


NARROW = F("n") < 300
VECTORS = questions(ROWS, 11)


def points(*, tenanted: bool) -> list[Point]:
    made = []
    for i, vector in enumerate(VECTORS):
        content, metadata, tenant = row_of(i)
        own = tenant if tenanted else None
        made.append(make_point(f"p{i}", vector, content=content, metadata=metadata, fields=FIELDS, tenant=own))
    return made


@pytest.fixture(scope="module")
def saas(store: PgvectorStore) -> GenerationSpec:
    return built(store, "sl_saas_1", Hnsw(indexing_threshold=5_000), tenanted=True)


def built(store: PgvectorStore, name: str, index: IndexSpec, *, tenanted: bool) -> GenerationSpec:
    spec = GenerationSpec(name, DIMENSIONS, index=index, fields=FIELDS, tenanted=tenanted)
    store.create(spec)
    store.upsert(spec, points(tenanted=tenanted))
    store.build(spec)
    return spec


def plans(store: PgvectorStore, search: Callable[[], Any]) -> str:
    """The plans of all statements that look for rows of a generation while `search` runs; none may read a table whole."""
    with statements_sent() as all_sent:
        search()
    sent = [one for one in all_sent if "index_status = 'indexed'" in one[0] and not one[0].startswith("EXPLAIN")]
    assert sent
    plan = plans_of(store, sent)
    assert not re.findall(r"Seq Scan on (\S+)", plan), plan
    return plan


def asking(
    store: PgvectorStore, spec: GenerationSpec, where: Filter | None = None, **scope: Any
) -> Callable[[], Candidates]:
    asked = Scope(filter=prepare(where, FIELDS), **scope)
    return lambda: store.search(spec, questions(1, 3)[0], limit=10, scope=asked, params=SearchParams())


@pytest.mark.parametrize("tenant", ["large", "small"])
@pytest.mark.parametrize(
    ("where", "index"),
    [
        (None, "Index Only Scan using sl_saas_1_tenant"),
        (F("colour") == "red", "Index Only Scan using sl_saas_1_f"),
        (F("n").between(2_000, 9_000), "Index Only Scan using sl_saas_1_f"),
        (F("tags").contains("t7"), "Bitmap Index Scan on sl_saas_1_f"),
        ((F("n") < 900) & (F("colour") == "red"), "Index Scan"),
    ],
    ids=str,
)
def test_a_tenant(store: PgvectorStore, saas: GenerationSpec, tenant: str, where: Filter | None, index: str) -> None:
    assert index in plans(store, asking(store, saas, where, tenant=tenant))


@pytest.mark.parametrize("where", [None, F("colour") == "red"], ids=str)
def test_a_tenant_too_large_for_its_own_index(
    store: PgvectorStore, saas: GenerationSpec, where: Filter | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "_MOST_SIGNS", 1_000)
    monkeypatch.setattr(planner, "_MOST_EXACT", 1_000)
    assert "Index Scan using sl_saas_1_vector" in plans(store, asking(store, saas, where, tenant="large"))


def test_ids_that_the_ledger_has_found(store: PgvectorStore, saas: GenerationSpec) -> None:
    ids = [point.point_id for point in points(tenanted=True)[:500]]
    assert "sl_saas_1_pkey" in plans(store, asking(store, saas, tenant="large", point_ids=ids))


@pytest.mark.parametrize("where", [None, F("colour") == "red", NARROW], ids=str)
@pytest.mark.parametrize("tenant", [None, "large", "small"])
def test_words(store: PgvectorStore, saas: GenerationSpec, tenant: str | None, where: Filter | None) -> None:
    spec = saas if tenant else built_once(store, "sl_words_1", Hnsw(indexing_threshold=5_000))
    scope = Scope(filter=prepare(where, FIELDS), tenant=tenant)
    # A word that every text has is not among them: once Postgres knows that, it is right to read them all.
    for text in ("group7 group8", "row4711", "group9"):
        plan = plans(store, lambda text=text: store.keyword_search(spec, text, limit=1, scope=scope))  # type: ignore[misc]
        # A narrow filter first, then the words of what it leaves: by their key.
        assert re.search(f"{spec.name}_terms_{'(gin|pkey)' if where == NARROW else 'gin'}", plan), plan


INDEXES: dict[str, IndexSpec] = {
    "ivf": Ivf(nlist=40),
    "half": Hnsw(indexing_threshold=5_000, quantization="half"),
    "bits": Hnsw(indexing_threshold=5_000, quantization="binary"),
    "ivf_half": Ivf(nlist=40, quantization="half"),
}


@pytest.mark.parametrize("where", [None, F("n") >= 5], ids=str)
@pytest.mark.parametrize("name", INDEXES)
def test_every_kind_of_index(
    store: PgvectorStore, name: str, where: Filter | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = built_once(store, f"sl_{name}_1", INDEXES[name])
    monkeypatch.setattr(planner, "_MOST_SIGNS", 1_000)
    monkeypatch.setattr(planner, "_MOST_EXACT", 1_000)
    assert f"Index Scan using {spec.name}_vector" in plans(store, asking(store, spec, where))


def test_all_sign_bits_of_a_flat_index(store: PgvectorStore) -> None:
    spec = built_once(store, "sl_flat_1", Flat(quantization="binary"))
    assert "Index Only Scan using sl_flat_1_f" in plans(store, asking(store, spec, F("colour") == "red"))


_BUILT: dict[str, GenerationSpec] = {}


def built_once(store: PgvectorStore, name: str, index: IndexSpec) -> GenerationSpec:
    if name not in _BUILT:
        _BUILT[name] = built(store, name, index, tenanted=False)
    return _BUILT[name]


@pytest.fixture(scope="module")
def docs(postgres: PostgresServer) -> Iterator[Collection]:
    url = postgres.fresh(scheme="pgvector", pool_size=1)
    given: dict[str, Any] = {"embedder": None, "fingerprint": "made up", "dimensions": DIMENSIONS}
    index = Hnsw(indexing_threshold=2_000)
    with shelflist.open(url, "docs", fields=FIELDS, index=index, tenancy="required", **given) as docs:
        for tenant in dict.fromkeys(TENANTS):
            rows = [(i, row_of(i)) for i in range(6_000) if row_of(i)[2] == tenant]
            docs.tenant(tenant).sync_all(
                Document(f"d{i}", [Chunk(text, metadata, embedding=VECTORS[i])]) for i, (text, metadata, _) in rows
            )
        yield docs


@pytest.mark.parametrize("where", [None, F("colour") == "red", (F("n") < 900) & (F("colour") == "red")], ids=str)
@pytest.mark.parametrize("tenant", ["large", "small"])
def test_search_and_the_ledgers_check_in_one_statement(docs: Collection, tenant: str, where: Filter | None) -> None:
    mine, store = docs.tenant(tenant), docs._parts.store
    assert isinstance(store, PgvectorStore)
    mine.search(questions(1, 3)[0], limit=10, where=where)
    plan = plans(store, lambda: mine.search(questions(1, 4)[0], limit=10, where=where))
    assert " live" in plan or "Nested Loop Left Join" in plan, plan
    assert f"{docs._parts.spec.name}_" in plan
