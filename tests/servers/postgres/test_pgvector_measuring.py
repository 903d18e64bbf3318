"""What a generation in Postgres measures on its own vectors: against counting bit by bit, and exact search."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from postgres_engine import PostgresServer

from shelflist.config import parse_url
from shelflist.core.types import Hnsw, IndexSpec, Ivf
from shelflist.engine.exact import distances, nearest, prepared
from shelflist.stores.pgvector.depth import differing_bits, measured_depth
from shelflist.stores.pgvector.store import PgvectorStore
from shelflist.stores.protocol import GenerationSpec
from shelflist.testing.points import make_point, point_id, random_vectors

ROWS, DIMENSIONS = 5_000, 24


@pytest.fixture
def store(postgres: PostgresServer) -> Iterator[PgvectorStore]:
    store = PgvectorStore.at(parse_url(postgres.fresh(scheme="pgvector")), busy_timeout=30.0)
    yield store
    store.close()


def built(store: PgvectorStore, index: IndexSpec) -> GenerationSpec:
    spec = GenerationSpec("sl_measured_1", DIMENSIONS, index=index)
    vectors = random_vectors(ROWS, 4, DIMENSIONS)
    store.create(spec)
    store.upsert(spec, [make_point(f"p{i}", vector) for i, vector in enumerate(vectors)])
    store.build(spec)
    return spec


def test_differing_bits_are_counted() -> None:
    codes = np.random.default_rng(3).integers(0, 256, size=(50, 128), dtype=np.uint8)
    asked = codes[:3] ^ np.uint8(255)
    found = differing_bits(codes, asked)
    bits, wanted = np.unpackbits(codes, axis=1), np.unpackbits(asked, axis=1)
    assert found.tolist() == [[int((one != other).sum()) for other in wanted] for one in bits]
    assert found[0, 0] == 1024


def test_the_nearest_of_every_row_are_known_and_those_of_a_sample_are_not(store: PgvectorStore) -> None:
    spec = built(store, Hnsw(indexing_threshold=100))
    vectors = random_vectors(ROWS, 4, DIMENSIONS)
    queries = list(prepared(random_vectors(3, 9, DIMENSIONS), spec.metric))
    with store.database.read() as tx:
        _, found = measured_depth(tx, spec, queries, queries, ROWS)
        _, of_a_sample = measured_depth(tx, spec, queries, queries, 1_000_000)
    rows = [nearest(distances(prepared(vectors, spec.metric), one, spec.metric), 10) for one in queries]
    assert found == [{point_id(f"p{row}") for row in some} for some in rows]
    assert of_a_sample is None


@pytest.mark.parametrize(
    ("index", "effort"), [(Hnsw(indexing_threshold=100, ef_search=7), 7), (Ivf(nlist=5, nprobe=1), 1)]
)
def test_an_effort_that_was_given_is_the_one_that_is_measured(
    store: PgvectorStore, index: IndexSpec, effort: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shelflist.stores.pgvector.upkeep.DEFAULT_THRESHOLD", 100)
    stats = store.stats(built(store, index))
    assert stats["indexed"] and stats["effort"] == effort and 0.05 < stats["recall"] < 1
