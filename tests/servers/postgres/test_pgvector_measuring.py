"""What a generation in Postgres measures on its own vectors: against counting bit by bit, and exact search."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from postgres_engine import PostgresServer

from shelflist.config import parse_url
from shelflist.core.types import Hnsw, IndexSpec, Ivf, Metric, Vector
from shelflist.engine.exact import distances, nearest, prepared
from shelflist.stores.pgvector.depth import differing_bits, nearest_of_all
from shelflist.stores.pgvector.store import PgvectorStore
from shelflist.stores.protocol import GenerationSpec
from shelflist.testing.points import make_point, random_vectors

ROWS, DIMENSIONS = 5_000, 24


@pytest.fixture
def store(postgres: PostgresServer) -> Iterator[PgvectorStore]:
    store = PgvectorStore.at(parse_url(postgres.fresh(scheme="pgvector")), busy_timeout=30.0)
    yield store
    store.close()


def built(store: PgvectorStore, index: IndexSpec, vectors: Vector, prefix: str = "p") -> GenerationSpec:
    spec = GenerationSpec("sl_measured_1", DIMENSIONS, index=index)
    store.drop(spec.name)
    store.create(spec)
    store.upsert(spec, [make_point(f"{prefix}{i}", vector) for i, vector in enumerate(vectors)])
    store.build(spec)
    return spec


def test_differing_bits_are_counted() -> None:
    codes = np.random.default_rng(3).integers(0, 256, size=(50, 128), dtype=np.uint8)
    asked = codes[:3] ^ np.uint8(255)
    found = differing_bits(codes, asked)
    bits, wanted = np.unpackbits(codes, axis=1), np.unpackbits(asked, axis=1)
    assert found.tolist() == [[int((one != other).sum()) for other in wanted] for one in bits]
    assert found[0, 0] == 1024


@pytest.mark.parametrize(("page", "metric"), [(3, "cosine"), (700, "l2"), (ROWS, "dot")])
def test_the_nearest_of_every_row_are_known(
    store: PgvectorStore, page: int, metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shelflist.stores.pgvector.depth._PAGE", page)
    spec, rows = GenerationSpec("sl_near_1", DIMENSIONS, metric), 40 if page == 3 else ROWS
    vectors = random_vectors(rows, 4, DIMENSIONS)
    store.create(spec)
    store.upsert(spec, [make_point(f"p{i}", vector) for i, vector in enumerate(vectors)])
    queries = list(prepared(random_vectors(3, 9, DIMENSIONS), spec.metric))
    with store.database.read() as tx:
        found = nearest_of_all(tx, spec, queries)
    for one, far in zip(queries, found.T, strict=True):
        every = distances(prepared(vectors, spec.metric), one, spec.metric)
        np.testing.assert_allclose(far, every[nearest(every, 10)], rtol=1e-5, atol=1e-6)


def test_what_is_measured_is_not_luck(store: PgvectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other ids, and so other questions, for the same vectors: with forty of them the recalls lie .07 apart."""
    generator = np.random.default_rng(4)
    centres = generator.standard_normal((50, DIMENSIONS)).astype(np.float32)
    vectors = centres[generator.integers(0, 50, ROWS)] + 0.3 * random_vectors(ROWS, 4, DIMENSIONS)
    monkeypatch.setattr("shelflist.stores.pgvector.upkeep._EFFORTS", (10,))
    index = Hnsw(indexing_threshold=100)
    found = [store.stats(built(store, index, vectors, f"{i}."))["recall"] for i in range(5)]
    assert max(found) - min(found) < 0.035 and 0.8 < max(found) < 0.98, found


def test_of_texts_that_are_there_many_times_any_will_do(store: PgvectorStore) -> None:
    vectors = np.repeat(random_vectors(ROWS // 20, 4, DIMENSIONS), 20, axis=0)
    stats = store.stats(built(store, Hnsw(indexing_threshold=100, ef_search=200), vectors))
    assert stats["recall"] > 0.97


@pytest.mark.parametrize(
    ("index", "effort"), [(Hnsw(indexing_threshold=100, ef_search=7), 7), (Ivf(nlist=5, nprobe=1), 1)]
)
def test_an_effort_that_was_given_is_the_one_that_is_measured(
    store: PgvectorStore, index: IndexSpec, effort: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shelflist.stores.pgvector.upkeep.DEFAULT_THRESHOLD", 100)
    stats = store.stats(built(store, index, random_vectors(ROWS, 4, DIMENSIONS)))
    assert stats["indexed"] and stats["effort"] == effort and 0.05 < stats["recall"] < 1
