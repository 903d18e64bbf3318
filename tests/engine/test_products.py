"""Product codes, which packed copies are of: what they tell, whose they do not tell, and where there are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from clusters import COUNT, DIMENSIONS, clustered

from shelflist.core.types import Hnsw, Metric, SearchParams, Vector
from shelflist.engine import planner
from shelflist.engine.calibration import Calibration, allowed_for, by_packing, samples_of
from shelflist.engine.codes import Codes
from shelflist.engine.exact import distances, nearest, prepared
from shelflist.engine.products import ProductCodes, Rotation
from shelflist.engine.rescoring import Allowed
from shelflist.engine.view import Base, Matches, View


@pytest.fixture(scope="module", params=["cosine", "dot"])
def metric(request: pytest.FixtureRequest) -> Metric:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def vectors(metric: Metric) -> Vector:
    return prepared(clustered(COUNT, DIMENSIONS), metric)


@pytest.fixture(scope="module")
def codes(vectors: Vector, metric: Metric) -> Codes:
    return Codes.build(vectors, metric)


@pytest.fixture(scope="module")
def products(vectors: Vector, metric: Metric) -> ProductCodes:
    return built(vectors, metric)


@pytest.fixture(scope="module")
def queries(metric: Metric) -> Vector:
    return prepared(clustered(40, DIMENSIONS)[:40] + np.float32(0.3), metric)


def built(vectors: Vector, metric: Metric) -> ProductCodes:
    found = ProductCodes.build(vectors, metric)
    assert found is not None
    return found


def truth(vectors: Vector, query: Vector, metric: Metric, among: np.ndarray) -> np.ndarray:
    return among[nearest(distances(vectors[among], query, metric), 10)]


def share(vectors: Vector, queries: Vector, metric: Metric, ask: object, among: np.ndarray) -> float:
    found = [len(np.intersect1d(truth(vectors, q, metric, among), ask(q))) / 10 for q in queries]  # type: ignore[operator]
    return float(np.mean(found))


def by_planner(
    vectors: Vector, metric: Metric, codes: Codes, products: ProductCodes, mask: np.ndarray
) -> tuple[object, list[str]]:
    """As a filter is searched that was packed; and the plans of these searches."""
    samples = samples_of(vectors, metric)
    allowed = allowed_for(codes, vectors, samples, 0.95)
    of_products = allowed_for(codes, vectors, samples, 0.95, by_packing(products))
    assert of_products is not None
    calibration = Calibration(allowed, allowed_packed=of_products)
    view = View(metric, Base(vectors, codes, None, None, calibration, products), vectors[:0])
    matches = Matches(mask)
    matches.prepared.packed, matches.prepared.of = products.packed(np.flatnonzero(mask)), mask
    matches.prepared.is_ready = True
    plans: list[str] = []

    def ask(query: Vector) -> np.ndarray:
        found = planner.search(view, matches, query, 10, SearchParams(), Hnsw(full_scan_threshold=0))
        plans.append(found.plan)
        return found.positions

    return ask, plans


def test_they_leave_less_open_than_bits(vectors: Vector, codes: Codes, metric: Metric, products: ProductCodes) -> None:
    samples = samples_of(vectors, metric)
    by_bits = allowed_for(codes, vectors, samples, 0.95)
    by_products = allowed_for(codes, vectors, samples, 0.95, by_packing(products))
    assert by_bits is not None and by_products is not None
    assert by_products.crowd < by_bits.crowd and by_products.crowded_error < by_bits.crowded_error


def test_a_packed_copy_is_of_its_positions_and_of_nothing_else(
    vectors: Vector, queries: Vector, metric: Metric, products: ProductCodes
) -> None:
    among = np.arange(3, COUNT, 7)
    packed = products.packed(among)
    assert packed.count == len(among) and packed.end == among[-1] + 1
    for query in queries[:10]:
        found = packed.nearest(query, 100)
        assert np.isin(found.positions, among).all() and len(set(found.positions.tolist())) == 100
        assert (np.diff(found.estimates) >= 0).all() and found.reach == found.estimates[-1]
    everything = packed.nearest(queries[0], COUNT)
    assert sorted(everything.positions.tolist()) == among.tolist() and everything.reach == np.inf
    assert share(vectors, queries, metric, lambda q: packed.nearest(q, 60).positions, among) >= 0.95
    assert share(vectors, queries, metric, lambda q: packed.nearest(q, 10).positions, among) < 0.95


def test_estimates_are_right_in_the_mean(
    vectors: Vector, queries: Vector, metric: Metric, products: ProductCodes
) -> None:
    """Also of the nearest, which a plain sum of points would put further away."""
    everything = products.packed(np.arange(COUNT))
    errors, away = [], []
    for query in queries:
        near = truth(vectors, query, metric, np.arange(COUNT))
        found = everything.nearest(query, COUNT)
        exactly = -(vectors[near] @ query)
        errors.append(found.estimates[(found.positions[None, :] == near[:, None]).argmax(axis=1)] - exactly)
        away.append(np.abs(exactly))
    assert abs(np.mean(errors)) < 0.02 * np.mean(away) < np.std(errors)


@pytest.mark.parametrize("every", [2, 5, 10])
@pytest.mark.parametrize("how", ["at random", "in clusters"])
def test_the_target_is_met_under_any_filter(
    codes: Codes, products: ProductCodes, vectors: Vector, queries: Vector, metric: Metric, every: int, how: str
) -> None:
    order = np.random.default_rng(3).permutation(COUNT)
    if how == "in clusters":
        order = np.argsort(distances(vectors, queries[0], metric), kind="stable")
    mask = np.zeros(COUNT, np.bool_)
    mask[order[: COUNT // every]] = True
    ask, plans = by_planner(vectors, metric, codes, products, mask)
    assert share(vectors, queries, metric, ask, np.flatnonzero(mask)) >= 0.95
    assert np.mean([plan.startswith("packed codes") for plan in plans]) > 0.5


def test_near_duplicates_are_told_apart_as_far_as_is_wanted() -> None:
    """Pages from one template have the same code."""
    random = np.random.default_rng(4)
    vectors = clustered(COUNT, 128)
    for group in range(0, COUNT // 4, 200):
        noise = random.normal(size=(200, 128)) * np.linalg.norm(vectors[group]) / 128**0.5
        vectors[group : group + 200] = vectors[group] + 0.003 * noise
    vectors = prepared(vectors, "cosine")
    mask = np.ones(COUNT, np.bool_)
    mask[-1] = False
    (ask, plans), found = (
        by_planner(vectors, "cosine", Codes.build(vectors, "cosine"), built(vectors, "cosine"), mask),
        [],
    )
    for query in vectors[: COUNT // 4 : 25]:
        away = distances(vectors, query, "cosine")
        found.append(np.mean(away[ask(query)] <= np.sort(away[:-1])[9] + 2e-6))  # type: ignore[operator]
    assert np.mean(found) >= 0.95 and plans[0].startswith("packed codes")


def test_a_vector_that_its_code_does_not_tell_of_is_always_compared() -> None:
    """A product with a vector a hundred times as long is the greatest, or the least, whatever the code says."""
    vectors = prepared(clustered(COUNT, DIMENSIONS), "cosine")
    long = [17, 4_001]
    vectors[long] *= 100
    products = built(vectors, "dot")
    packed = products.packed(np.arange(1, COUNT))
    assert packed.count == COUNT - 1 and packed.end == COUNT
    for query in prepared(clustered(20, DIMENSIONS, seed=5), "dot"):
        found = packed.nearest(query, 30)
        assert np.isin(long, found.positions).all() and (found.estimates[:2] == -np.inf).all()
        assert len(set(found.positions.tolist())) == len(found.positions)
    assert packed.nearest(query, COUNT).reach == np.inf
    assert not np.isin(long, products.packed(np.arange(100, 4_000)).nearest(query, 30).positions).any()
    assert products.packed(np.asarray(long)).nearest(query, 30).positions.tolist() == long


@pytest.mark.parametrize("kind", ["packed products", "packed bits", "bits"])
@pytest.mark.parametrize("length", [0.0, 1e-40, 1e-20, 1e-8, 1.0, 1e8, 1e18, 1e37])
def test_products_with_queries_of_any_length(kind: str, length: float) -> None:
    """Ten hits whenever ten rows match; and whose length does not matter finds the same by any."""
    vectors = clustered(COUNT, DIMENSIONS)
    codes, mask = Codes.build(vectors, "dot"), np.arange(COUNT) % 2 > 0
    allowed = Allowed(0.14, 0.18, 150)
    base = Base(vectors, codes, None, None, Calibration(allowed, allowed_packed=allowed), built(vectors, "dot"))
    matches = Matches(mask)
    if kind != "bits":
        packing = base if kind == "packed products" else codes
        matches.prepared.packed, matches.prepared.of = packing.packed(np.flatnonzero(mask)), mask
        matches.prepared.is_ready = True
    share_found = []
    for query in clustered(10, DIMENSIONS, seed=7):
        scaled = (query.astype(np.float64) * length).astype(np.float32)
        view = View("dot", base, vectors[:0])
        found = planner.search(view, matches, scaled, 10, SearchParams(), Hnsw(full_scan_threshold=0))
        assert len(set(found.positions.tolist())) == 10 and mask[found.positions].all()
        assert found.exact or 1e-20 < length < 1e37
        share_found.append(np.isin(truth(vectors, query, "dot", np.flatnonzero(mask)), found.positions).mean())
    assert length < 1e-38 or np.mean(share_found) >= 0.95 or length == 1e37


@pytest.mark.parametrize("gone", [100, 600])
def test_the_dead_of_a_packed_copy_do_not_hide_those_behind_them(
    vectors: Vector, codes: Codes, queries: Vector, metric: Metric, products: ProductCodes, gone: int
) -> None:
    samples = samples_of(vectors, metric)
    allowed = allowed_for(codes, vectors, samples, 0.95, by_packing(products))
    base = Base(vectors, codes, None, None, Calibration(allowed, allowed_packed=allowed), products)
    half, hit = np.arange(COUNT) % 2 > 0, 0
    for query in queries[:10]:
        alive = np.ones(COUNT, np.bool_)
        alive[np.argsort(distances(vectors, query, metric), kind="stable")[:gone]] = False
        matches = Matches(half & alive)
        matches.prepared.packed, matches.prepared.of = products.packed(np.flatnonzero(half)), half
        matches.prepared.is_ready = True
        view = View(metric, base, vectors[:0], alive)
        found = planner.search(view, matches, query, 10, SearchParams(), Hnsw(full_scan_threshold=0))
        assert matches.mask[found.positions].all()
        hit += len(np.intersect1d(found.positions, truth(vectors, query, metric, np.flatnonzero(matches.mask))))
    assert hit >= 95


def test_what_a_packed_copy_holds_is_counted() -> None:
    vectors = prepared(clustered(1_200, 3_072), "cosine")
    packed = built(vectors, "cosine").packed(np.arange(150))
    assert packed.nbytes >= 150 * (384 + 8) + 3_072 * 64  # codes, positions, and its own points


def test_where_there_are_none() -> None:
    vectors = prepared(clustered(1_200, DIMENSIONS), "cosine")
    assert ProductCodes.build(vectors, "cosine") is not None
    assert ProductCodes.build(vectors[:999], "cosine") is None
    assert ProductCodes.build(vectors, "l2") is None
    assert ProductCodes.build(np.repeat(vectors[:1], 1_200, axis=0), "cosine") is None
    assert ProductCodes.build(vectors * np.float32(1e38), "dot") is None
    few = vectors * np.float32(3e20)
    few[:8] = vectors[:8]
    assert ProductCodes.build(few, "dot") is None  # of too few it is seen where points should be
    long = vectors.copy()
    long[7] *= np.float32(1e38)
    assert 7 in built(long, "dot").packed(np.arange(1_200)).nearest(vectors[0], 10).positions
    long = vectors.copy()
    long[::50] *= 100
    assert ProductCodes.build(long, "dot") is None  # strays are too many
    assert ProductCodes.build(prepared(clustered(1_200, 65), "cosine"), "cosine") is None
    assert ProductCodes.build(prepared(clustered(1_200, 2 * 37), "cosine"), "cosine") is None


@pytest.mark.parametrize("dimensions", [32, 100, 384, 1_536, 4_096])
def test_dimensions_of_models(dimensions: int) -> None:
    vectors = prepared(clustered(1_200, dimensions), "cosine")
    packed = built(vectors, "cosine").packed(np.arange(1_200))
    assert packed.nbytes <= 1_216 * (min(dimensions // 4, 384) + 8) + dimensions * 64
    queries = prepared(clustered(20, dimensions)[:20] + np.float32(0.3), "cosine")
    assert share(vectors, queries, "cosine", lambda q: packed.nearest(q, 60).positions, np.arange(1_200)) >= 0.95


def test_a_rotation_keeps_lengths_and_spreads_what_is_in_one_component() -> None:
    rotation = Rotation.of(384)
    assert rotation is not None and rotation.blocks.shape == (6, 64, 64)
    vectors = clustered(50, 384)
    turned = rotation.apply(vectors)
    assert np.allclose(turned @ turned.T, vectors @ vectors.T, rtol=1e-3, atol=1e-2)
    one = np.zeros((1, 384), np.float32)
    one[0, 5] = 1
    assert np.count_nonzero(rotation.apply(one)) == 64 and np.abs(rotation.apply(one)).max() < 0.6


def test_they_are_the_same_when_read_back(
    tmp_path: Path, products: ProductCodes, queries: Vector, vectors: Vector
) -> None:
    paths = [tmp_path / name for name in ("products", "rotation", "strays")]
    products.save(*paths)
    again = ProductCodes.load(*paths)
    assert again.count == COUNT
    among = np.arange(0, COUNT, 3)
    for query in queries[:5]:
        old, new = products.packed(among).nearest(query, 50), again.packed(among).nearest(query, 50)
        assert np.array_equal(old.positions, new.positions) and np.array_equal(old.estimates, new.estimates)
