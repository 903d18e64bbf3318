"""Codes, graph, calibration and planner on vectors that lie in clusters, against exact search."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clusters import COUNT, DIMENSIONS, clustered

from shelflist.core.types import Flat, Hnsw, Ivf, Metric, SearchParams, Vector
from shelflist.engine import calibration, planner
from shelflist.engine.calibration import (
    Calibration,
    allowed_for,
    by_packing,
    by_selection,
    effort_for,
    few_for,
    moved_queries,
    probes_for,
    samples_of,
    true_neighbours,
)
from shelflist.engine.cells import Cells, usual_cells
from shelflist.engine.codes import Codes, Selection
from shelflist.engine.exact import distances, nearest, prepared, raw
from shelflist.engine.graph import Graph
from shelflist.engine.rescoring import Allowed, Rescoring, doubt_of, rescored
from shelflist.engine.view import Base, Matches, View

METRICS: tuple[Metric, ...] = ("cosine", "dot", "l2")
ERROR: dict[Metric, float] = {"cosine": 0.18, "dot": 0.18, "l2": 0.36}
"""About what is measured on these vectors."""


def usual_of(metric: Metric, crowd: int = 150) -> Allowed:
    return Allowed(0.75 * ERROR[metric], ERROR[metric], crowd)


@pytest.fixture(scope="module", params=METRICS)
def metric(request: pytest.FixtureRequest) -> Metric:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def vectors(metric: Metric) -> Vector:
    return prepared(clustered(COUNT, DIMENSIONS), metric)


@pytest.fixture(scope="module")
def codes(vectors: Vector, metric: Metric) -> Codes:
    return Codes.build(vectors, metric)


@pytest.fixture(scope="module")
def graph(vectors: Vector, metric: Metric) -> Graph:
    return Graph.build(vectors, metric, m=16, ef_construction=100)


@pytest.fixture(scope="module", params=[1, 2], ids=["one bit", "two bits"])
def cells(request: pytest.FixtureRequest, vectors: Vector, metric: Metric) -> Cells:
    return Cells.build(vectors, metric, nlist=60, bits=request.param)


@pytest.fixture(scope="module")
def queries(metric: Metric) -> Vector:
    return prepared(clustered(40, DIMENSIONS, seed=0)[:40] + np.float32(0.3), metric)


def exact(vectors: Vector, query: Vector, metric: Metric, among: np.ndarray | None = None) -> set[int]:
    among = np.arange(len(vectors)) if among is None else among
    return set(among[nearest(distances(vectors[among], query, metric), 10)].tolist())


def share(vectors: Vector, queries: Vector, metric: Metric, ask: object, among: np.ndarray | None = None) -> float:
    found = [len(exact(vectors, q, metric, among) & set(ask(q).tolist())) / 10 for q in queries]  # type: ignore[operator]
    return float(np.mean(found))


def test_the_neighbours_stand_among_the_nearest_by_code(
    codes: Codes, vectors: Vector, queries: Vector, metric: Metric
) -> None:
    assert share(vectors, queries, metric, lambda q: codes.nearest(q, 400).positions) >= 0.95
    assert share(vectors, queries, metric, lambda q: codes.nearest(q, 10).positions) < 0.95  # so it is a measure at all


def test_codes_of_a_selection_are_of_nothing_else(
    codes: Codes, vectors: Vector, queries: Vector, metric: Metric
) -> None:
    mask = np.zeros(COUNT, np.bool_)
    mask[::7] = True
    among = np.flatnonzero(mask)
    selection, packed = Selection(mask), codes.packed(among)
    for query in queries[:10]:
        cold, warm = codes.nearest(query, 200, selection).positions, packed.nearest(query, 200).positions
        assert mask[cold].all() and mask[warm].all() and len(cold) == len(warm) == 200
        assert len(np.intersect1d(cold, warm)) >= 190  # the same codes, ranked by integers or by floats
    assert share(vectors, queries, metric, lambda q: packed.nearest(q, 200).positions, among) >= 0.95
    assert len(packed.nearest(queries[0], 10 * COUNT).positions) == len(among)


def test_two_bits_tell_more_apart_than_one(codes: Codes, vectors: Vector, queries: Vector, metric: Metric) -> None:
    finer = Codes.build(vectors, metric, bits=2)
    among = np.arange(0, COUNT, 7)
    packed = finer.packed(among)
    for count in (20, 40):
        assert share(vectors, queries, metric, lambda q, n=count: finer.nearest(q, n).positions) > share(
            vectors, queries, metric, lambda q, n=count: codes.nearest(q, n).positions
        )
    assert share(vectors, queries, metric, lambda q: packed.nearest(q, 40).positions, among) >= 0.95


def test_cells_find_more_the_more_of_them_are_looked_into(
    cells: Cells, vectors: Vector, queries: Vector, metric: Metric
) -> None:
    shares = [share(vectors, queries, metric, lambda q, n=n: cells.nearest(q, 400, n).positions) for n in (1, 8, 60)]
    assert shares[0] < shares[2] and shares[1] <= shares[2] and shares[2] >= 0.95
    assert (
        len(cells.nearest(queries[0], 10 * COUNT, 1).positions)
        < COUNT
        == len(cells.nearest(queries[0], 10 * COUNT, 999).positions)
    )


def test_cells_are_no_more_than_the_rows_can_fill() -> None:
    vectors = prepared(clustered(100, 64), "cosine")
    assert Cells.build(vectors, "cosine", nlist=50, bits=1).cells == 2
    assert Cells.build(vectors, "cosine", nlist=None, bits=1).cells == 2
    assert (usual_cells(1_000_000), usual_cells(0)) == (4_000, 1)


def test_the_graph_finds_more_the_further_it_looks(
    graph: Graph, vectors: Vector, queries: Vector, metric: Metric
) -> None:
    shares = [share(vectors, queries, metric, lambda q, ef=ef: graph.nearest(q, 20, ef)) for ef in (20, 200)]
    assert shares[1] >= 0.95 and shares[0] <= shares[1]


def with_a_few_long_ones() -> Vector:
    vectors = clustered(3_000, DIMENSIONS)
    vectors[:5] *= 1_000
    vectors[:, 7] = 0
    vectors[::300, 7] = 3  # what few have is told apart all the same
    return vectors


def test_a_few_vectors_of_another_length_blind_neither_graph_nor_codes() -> None:
    vectors, queries = with_a_few_long_ones(), clustered(40, DIMENSIONS) + np.float32(0.3)
    graph, codes = Graph.build(vectors, "l2", m=16, ef_construction=100), Codes.build(vectors, "l2")
    assert share(vectors, queries, "l2", lambda q: graph.nearest(q, 20, 200)) >= 0.95
    measured = allowed_for(codes, vectors, samples_of(vectors, "l2"), 0.95)
    assert measured is not None and measured.crowded_error < 1.5 * ERROR["l2"]
    assert (
        share(vectors, queries, "l2", by_code(codes, vectors, "l2", measured, np.ones(len(vectors), np.bool_))) >= 0.95
    )


def test_from_a_file_they_answer_the_same(
    codes: Codes, graph: Graph, cells: Cells, queries: Vector, tmp_path: Path
) -> None:
    codes.save(tmp_path / "codes")
    graph.save(tmp_path / "graph")
    cells.save(tmp_path / "cells")
    read = Cells.load(tmp_path / "cells")
    assert read.count == COUNT and read.cells == cells.cells
    again, mapped = Codes.load(tmp_path / "codes"), Graph.load(tmp_path / "graph")
    assert again.count == mapped.count == COUNT
    for query in queries[:5]:
        assert np.array_equal(again.nearest(query, 50).positions, codes.nearest(query, 50).positions)
        assert np.array_equal(mapped.nearest(query, 20, 80), graph.nearest(query, 20, 80))
        assert np.array_equal(read.nearest(query, 50, 7).positions, cells.nearest(query, 50, 7).positions)


def test_true_neighbours_are_those_of_exact_search(
    vectors: Vector, queries: Vector, metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "_BATCH", 500)  # several batches
    truth, away = true_neighbours(vectors, queries, metric)
    assert [set(row.tolist()) for row in truth] == [exact(vectors, q, metric) for q in queries]
    wanted = [[raw(one, metric) for one in np.sort(distances(vectors, q, metric))[:10].tolist()] for q in queries]
    assert np.allclose(away, wanted, rtol=1e-3, atol=1e-3)


def by_code(
    codes: Codes, vectors: Vector, metric: Metric, allowed: Allowed, mask: np.ndarray | None = None
) -> Callable[[Vector], np.ndarray]:
    """What is compared whole of those that match, and the nearest of it."""
    chosen = Selection(np.ones(COUNT, np.bool_) if mask is None else mask)

    def ask(query: Vector) -> np.ndarray:
        found = rescored(
            lambda count: codes.nearest(query, count, chosen),
            Rescoring(
                lambda positions: distances(vectors[positions], query, metric),
                doubt_of(codes, vectors, query),
                allowed,
                10,
                metric,
            ),
            usual=allowed.crowd // 2,
            depth=allowed.crowd,
            most=COUNT,
        )
        assert found is not None
        return found.positions[nearest(found.distances, 10)]

    return ask


def test_what_was_measured_meets_the_target(
    codes: Codes, graph: Graph, cells: Cells, vectors: Vector, queries: Vector, metric: Metric
) -> None:
    samples = samples_of(vectors, metric)
    measured, effort = allowed_for(codes, vectors, samples, 0.95), effort_for(graph, samples, 0.95)
    assert measured is not None and effort is not None
    assert share(vectors, queries, metric, by_code(codes, vectors, metric, measured)) >= 0.95
    assert share(vectors, queries, metric, by_code(codes, vectors, metric, Allowed(0.0, 0.0, 10))) < 0.95
    assert share(vectors, queries, metric, lambda q: graph.nearest(q, 20, effort)) >= 0.95
    probes = [probes_for(cells, codes, vectors, measured, samples, target) for target in (0.8, 0.95)]
    assert probes[0] is not None and probes[1] is not None and probes[0] <= probes[1] <= 60
    assert share(vectors, queries, metric, lambda q: cells.nearest(q, 400, probes[1]).positions) >= 0.95
    assert probes_for(cells, codes, vectors, Allowed(-9.0, -9.0, 3), samples, 0.95) is None  # not even by all of them
    more = allowed_for(codes, vectors, samples, 0.99)
    assert more is None or more > measured


@pytest.mark.parametrize("every", [2, 10, 40])
@pytest.mark.parametrize("how", ["at random", "in clusters"])
def test_what_was_measured_without_a_filter_holds_under_any(
    codes: Codes, vectors: Vector, queries: Vector, metric: Metric, every: int, how: str
) -> None:
    order = np.random.default_rng(3).permutation(COUNT)
    if how == "in clusters":
        order = np.argsort(distances(vectors, queries[0], metric), kind="stable")
    mask = np.zeros(COUNT, np.bool_)
    mask[order[: COUNT // every]] = True
    measured = allowed_for(codes, vectors, samples_of(vectors, metric), 0.95)
    assert measured is not None
    assert (
        share(vectors, queries, metric, by_code(codes, vectors, metric, measured, mask), np.flatnonzero(mask)) >= 0.95
    )


@pytest.mark.parametrize("length", [1.0, 100.0])
def test_what_was_measured_holds_for_products_with_queries_of_any_length(length: float) -> None:
    vectors, queries = clustered(COUNT, DIMENSIONS), clustered(40, DIMENSIONS) * np.float32(length)
    codes = Codes.build(vectors, "dot")
    measured = allowed_for(codes, vectors, samples_of(vectors, "dot"), 0.95)
    assert measured is not None
    ask, counts = by_code(codes, vectors, "dot", measured), []
    assert share(vectors, queries, "dot", ask) >= 0.95
    for query in queries:
        found = codes.nearest(query, COUNT)
        tenth = int(np.argsort(distances(vectors, query, "dot"))[9])
        last = -float(vectors[tenth] @ query)
        counts.append(
            np.count_nonzero(found.estimates <= last + measured.error * codes.doubts(query, vectors[[tenth]]))
        )
    assert np.median(counts) < 5 * measured.crowd  # not by leaving everything open


@pytest.mark.parametrize("target", [0.1, 0.9, 1.0])
def test_any_target_can_be_aimed_at(codes: Codes, graph: Graph, vectors: Vector, metric: Metric, target: float) -> None:
    samples = samples_of(vectors, metric)
    measured, effort = allowed_for(codes, vectors, samples, target), effort_for(graph, samples, target)
    if target < 0.99:
        assert measured is not None and effort is not None
    if measured is not None:
        assert share(vectors, samples.queries, metric, by_code(codes, vectors, metric, measured)) >= target
    assert effort is None or share(vectors, samples.queries, metric, lambda q: graph.nearest(q, 20, effort)) >= target


def test_a_target_out_of_reach_is_said_to_be() -> None:
    # Of so few vectors half would have to be compared whole: then all of them may as well.
    vectors = prepared(clustered(60, 2), "l2")
    measured = allowed_for(Codes.build(vectors, "l2"), vectors, samples_of(vectors, "l2"), 0.999)
    assert measured is None or measured.crowd >= 30


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_codes_tell_near_duplicates_apart_as_far_as_is_wanted(metric: Metric) -> None:
    """Pages from one template differ from each other by less than the rounding of a query."""
    random = np.random.default_rng(4)
    vectors = clustered(COUNT, 128)
    for group in range(0, COUNT // 4, 200):
        noise = random.normal(size=(200, 128)) * np.linalg.norm(vectors[group]) / 128**0.5
        vectors[group : group + 200] = vectors[group] + 0.003 * noise
    vectors = prepared(vectors, metric)
    codes = Codes.build(vectors, metric)
    measured = allowed_for(codes, vectors, samples_of(vectors, metric), 0.95)
    assert measured is not None
    ask, found = by_code(codes, vectors, metric, measured), []
    for query in vectors[: COUNT // 4 : 25]:
        away = distances(vectors, query, metric)
        found.append(
            np.mean(away[ask(query)] <= np.sort(away)[9] + 2e-6)
        )  # as near as the tenth, as far as float32 tells
    assert np.mean(found) >= 0.95


@pytest.mark.parametrize(("long", "length"), [(0.03, 3.2), (0.1, 2.9)])
def test_products_of_vectors_of_two_lengths(long: float, length: float) -> None:
    """A short vector may be the last of the best, and long ones beside it are in more doubt than it is."""
    random = np.random.default_rng(6)
    vectors = random.normal(size=(COUNT, DIMENSIONS)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[random.random(COUNT) < long] *= np.float32(length)
    codes = Codes.build(vectors, "dot")
    measured = allowed_for(codes, vectors, samples_of(vectors, "dot"), 0.95)
    assert measured is not None
    queries = prepared(random.normal(size=(60, DIMENSIONS)), "cosine")
    assert share(vectors, queries, "dot", by_code(codes, vectors, "dot", measured)) >= 0.95


def test_samples_have_a_direction_where_vectors_cancel_out() -> None:
    vectors = np.repeat(np.asarray([[1, 0], [-1, 0]], np.float32), 50, axis=0)
    samples = moved_queries(vectors, "cosine")
    assert np.allclose(np.linalg.norm(samples, axis=1), 1)
    assert np.array_equal(samples, moved_queries(vectors, "cosine"))


@pytest.mark.parametrize("dimensions", [1_536, 4_096])
def test_codes_of_many_dimensions(dimensions: int) -> None:
    vectors = prepared(clustered(1_200, dimensions), "cosine")
    codes = Codes.build(vectors, "cosine")
    assert share(vectors, vectors[:20], "cosine", lambda q: codes.nearest(q, 100).positions) >= 0.95


# The planner.


@pytest.fixture
def view(vectors: Vector, codes: Codes, graph: Graph, metric: Metric) -> View:
    base = Base(vectors, codes, graph, None, Calibration(usual_of(metric), 150))
    return View(metric, base, vectors[:0])


def everything(view: View) -> Matches:
    return Matches(np.ones(view.count, np.bool_) if view.alive is None else view.alive, is_all=True)


def plan_of(view: View, matches: Matches, query: Vector, **options: object) -> tuple[str, bool, int]:
    limit, index = options.pop("limit", 10), options.pop("index", None)
    found = planner.search(view, matches, query, limit, SearchParams(**options), index)  # type: ignore[arg-type]
    assert np.all(np.diff(found.distances) >= 0) and matches.mask[found.positions].all()
    return found.plan, found.exact, len(found.positions)


def test_the_way_that_a_search_goes(view: View, queries: Vector) -> None:
    query = queries[0]
    half = np.arange(COUNT) % 2 == 0
    assert plan_of(view, everything(view), query)[0] == f"graph of {COUNT} rows, ef_search 150 (no filter)"
    grown = View(view.metric, view.base, view.base.vectors[:2_000] if view.base else view.newer)
    assert "ef_search 150 (no filter), and 2000 newer" in plan_of(grown, everything(grown), query)[0]
    assert plan_of(view, everything(view), query, ef_search=77)[0].endswith("ef_search 77 (no filter)")
    assert plan_of(view, everything(view), query, index=Hnsw(ef_search=88))[0].endswith("ef_search 88 (no filter)")
    assert plan_of(view, everything(view), query, exact=True) == (f"exact over {COUNT} rows (asked for)", True, 10)
    assert plan_of(view, everything(view), query, index=Flat()) == (
        f"exact over {COUNT} rows (the index is flat)",
        True,
        10,
    )
    assert plan_of(view, Matches(half), query, index=Hnsw(full_scan_threshold=100))[0].startswith(
        "codes of 3000 rows, "
    )
    assert plan_of(view, Matches(half), query)[1]  # few enough
    assert plan_of(view, everything(view), query, limit=4_000) == (
        f"exact over {COUNT} rows (many hits are wanted)",
        True,
        4_000,
    )
    assert plan_of(view, Matches(np.zeros(COUNT, np.bool_)), query) == ("exact over 0 rows (they are few)", True, 0)


def test_cells_stand_in_the_place_of_the_graph(
    cells: Cells, codes: Codes, vectors: Vector, queries: Vector, metric: Metric
) -> None:
    alive = np.ones(COUNT, np.bool_)
    alive[:300] = False
    base = Base(vectors, codes, None, cells, Calibration(usual_of(metric), probes=20))
    view, index = View(metric, base, vectors[:0]), Ivf()
    plan = plan_of(view, everything(view), queries[0], index=index)[0]
    assert re.fullmatch(rf"cells of {COUNT} rows, nprobe 20 of 60, \d+ compared whole \(no filter\)", plan)
    assert "nprobe 7 of" in plan_of(view, everything(view), queries[0], index=index, nprobe=7)[0]
    assert "nprobe 9 of" in plan_of(view, everything(view), queries[0], index=Ivf(nprobe=9))[0]
    # As told, though one cell holds fewer than are usually compared.
    assert "nprobe 1 of" in plan_of(view, everything(view), queries[0], index=index, nprobe=1)[0]
    grown = View(metric, base, vectors[:2_000])
    assert "nprobe 20 of" in plan_of(grown, everything(grown), queries[0], index=index)[0]
    assert "nprobe 30 of 60, " in plan_of(view, everything(view), queries[0], index=index, limit=15)[0]
    most = Matches(np.arange(COUNT) % 5 > 0)
    plan = plan_of(view, most, queries[0], index=index)[0]
    assert "nprobe 25 of 60, " in plan and plan.endswith("compared whole (a filter that most match: 4800)")
    assert plan_of(view, Matches(np.arange(COUNT) % 2 > 0), queries[0], index=Ivf())[1]
    few = plan_of(view, everything(view), queries[0], limit=1_400, nprobe=1)
    assert few[2] == 1_400  # a cell has too few: another way finds them
    with_dead = View(metric, base, vectors[:0], alive)
    for query in queries:
        found = planner.search(with_dead, everything(with_dead), query, 10, SearchParams(), index)
        assert found.plan.startswith("cells") and (found.positions >= 300).all()


def test_without_a_measured_depth_or_effort_the_search_is_exact(view: View, queries: Vector) -> None:
    assert view.base is not None
    base = Base(view.base.vectors, view.base.codes, view.base.graph, None, Calibration())
    assert plan_of(View(view.metric, base, view.newer), everything(view), queries[0])[1]


def test_newer_rows_and_dead_ones(view: View, vectors: Vector, queries: Vector, metric: Metric) -> None:
    newer = queries[:5].copy()
    alive = np.ones(COUNT + 5, np.bool_)
    dead = list(exact(vectors, queries[6], metric))
    alive[dead] = False
    later = View(metric, view.base, newer, alive)
    for number in range(5):
        found = planner.search(later, everything(later), queries[number], 10, SearchParams(), None)
        assert "5 newer ones exactly" in found.plan
        if metric != "dot":
            assert found.positions[0] == COUNT + number
    found = planner.search(later, everything(later), queries[6], 10, SearchParams(), None)
    assert not set(found.positions.tolist()) & set(dead) and len(found.positions) == 10


def test_a_graph_of_the_dead_gives_way(view: View, queries: Vector, metric: Metric) -> None:
    alive = np.zeros(COUNT, np.bool_)
    alive[::1_000] = True
    mostly_dead = View(metric, view.base, view.newer, alive)
    plan, is_exact, count = plan_of(mostly_dead, everything(mostly_dead), queries[0], limit=6)
    assert is_exact and count == 6, plan


def test_a_filter_that_most_rows_match_is_left_to_the_graph(
    view: View, vectors: Vector, queries: Vector, metric: Metric
) -> None:
    mask = np.arange(COUNT) % 5 > 0
    among, plans = np.flatnonzero(mask), []

    def ask(query: Vector) -> np.ndarray:
        found = planner.search(view, Matches(mask), query, 10, SearchParams(), None)
        plans.append(found.plan)
        return found.positions

    assert share(vectors, queries, metric, ask, among) >= 0.95
    assert f"graph of {COUNT} rows, ef_search 188 (a filter that most match: 4800)" in plans


def test_a_filter_against_the_query_is_not(view: View, vectors: Vector, queries: Vector, metric: Metric) -> None:
    # All that is near the query is left out.
    order = np.argsort(distances(vectors, queries[0], metric), kind="stable")
    mask = np.ones(COUNT, np.bool_)
    mask[order[:600]] = False
    found = planner.search(view, Matches(mask), queries[0], 10, SearchParams(), None)
    assert found.plan.startswith(("codes of 5400 rows", "exact over 5400 rows"))
    assert set(found.positions.tolist()) == exact(vectors, queries[0], metric, np.flatnonzero(mask))


@pytest.mark.parametrize("gone", [100, 600])
@pytest.mark.parametrize("way", ["graph", "cells", "packed"])
def test_the_dead_near_a_query_do_not_hide_those_behind_them(
    view: View, vectors: Vector, cells: Cells, codes: Codes, queries: Vector, metric: Metric, gone: int, way: str
) -> None:
    """A deleted document is a place, not a random choice: who asks there must find what is next to it."""
    assert view.base is not None
    base = Base(
        vectors,
        codes,
        view.base.graph if way == "graph" else None,
        cells,
        Calibration(usual_of(metric), 150, 20),
    )
    hit = 0
    for query in queries[:10]:
        alive = np.ones(COUNT, np.bool_)
        alive[np.argsort(distances(vectors, query, metric), kind="stable")[:gone]] = False
        later = View(metric, base, vectors[:0], alive)
        matches = everything(later)
        if way == "packed":
            half = np.arange(COUNT) % 2 > 0
            matches = Matches(half & alive)
            prepared = matches.prepared
            prepared.packed, prepared.of = codes.packed(np.flatnonzero(half)), half
            prepared.is_ready = True
        index = Ivf() if way == "cells" else Hnsw(full_scan_threshold=0)
        found = planner.search(later, matches, query, 10, SearchParams(), index)
        truth = exact(vectors, query, metric, np.flatnonzero(matches.mask))
        hit += len(truth & set(found.positions.tolist()))
    assert hit / 100 >= 0.95


def test_a_filter_that_leaves_out_what_is_near_is_walked_to_no_longer(
    view: View, queries: Vector, vectors: Vector, metric: Metric
) -> None:
    index = Hnsw(full_scan_threshold=0)
    far = np.ones(COUNT, np.bool_)
    far[np.argsort(distances(vectors, queries[0], metric), kind="stable")[:2_000]] = False
    left_out, at_random = Matches(far), Matches(np.random.default_rng(8).random(COUNT) < 0.67)
    for _ in range(5):
        found = planner.search(view, left_out, queries[0], 10, SearchParams(), index)
        assert planner.search(view, at_random, queries[0], 10, SearchParams(), index).plan.startswith("graph")
    assert planner.walks_in_vain(left_out) and not planner.walks_in_vain(at_random)
    assert planner.is_worth_packing(view, left_out, SearchParams(), index)
    assert not planner.is_worth_packing(view, at_random, SearchParams(), index)
    assert not found.plan.startswith("graph")
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(Graph, "nearest")
        again = planner.search(view, left_out, queries[0], 10, SearchParams(), index)
    assert set(again.positions.tolist()) == set(found.positions.tolist())


def test_a_packed_filter_that_has_lost_rows(view: View, codes: Codes, queries: Vector) -> None:
    mask = np.arange(COUNT) % 2 > 0
    matches = Matches(mask.copy())
    prepared = matches.prepared
    prepared.packed, prepared.of = codes.packed(np.flatnonzero(mask)), matches.mask
    assert planner.search(view, matches, queries[0], 10, SearchParams(), Hnsw(full_scan_threshold=0)).plan.startswith(
        "codes"
    )
    prepared.is_ready = True
    first = planner.search(view, matches, queries[0], 10, SearchParams(), Hnsw(full_scan_threshold=0))
    assert re.fullmatch(r"packed codes of 3000 rows, \d+ compared whole \(a filter asked again\)", first.plan)
    matches.mask = mask.copy()
    matches.mask[first.positions] = False
    second = planner.search(view, matches, queries[0], 10, SearchParams(), Hnsw(full_scan_threshold=0))
    assert len(second.positions) == 10 and not np.intersect1d(first.positions, second.positions).size
    only = Matches(np.arange(COUNT) == 5)  # nothing of it is among the nearest by code
    only.prepared, only.count = prepared, 3_000
    third = planner.search(view, only, queries[0], 10, SearchParams(), Hnsw(full_scan_threshold=0))
    assert third.positions.tolist() == [5]


def test_codes_that_leave_everything_open_give_way(view: View, queries: Vector) -> None:
    matches = Matches(np.arange(COUNT) % 2 > 0)
    assert not planner.search(view, matches, queries[0], 10, SearchParams(), Hnsw(full_scan_threshold=0)).exact
    assert view.base is not None
    coarse = View(view.metric, replace(view.base, calibration=Calibration(Allowed(1e6, 1e6, 150))), view.newer)
    assert planner.search(coarse, matches, queries[0], 10, SearchParams(), Hnsw(full_scan_threshold=0)).exact


def test_how_many_are_left_open_is_learned(view: View, codes: Codes, queries: Vector) -> None:
    """A filter that leaves more open than usual is asked for as many at once after a while."""
    assert view.base is not None
    hasty = View(view.metric, replace(view.base, calibration=Calibration(usual_of(view.metric, 1))), view.newer)
    matches, asked = Matches(np.arange(COUNT) % 2 > 0), []
    nearest_by_code = codes.nearest

    def counted(query: Vector, count: int, selection: Selection | None = None) -> object:
        asked.append(count)
        return nearest_by_code(query, count, selection)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codes, "nearest", counted)
        for _ in range(4):
            for query in queries:
                planner.search(hasty, matches, query, 10, SearchParams(), Hnsw(full_scan_threshold=0))
    assert len(asked) - 160 < 80 and asked[0] == 30 < min(asked[-10:])


def test_larger_limits_look_deeper(view: View, queries: Vector, vectors: Vector, metric: Metric) -> None:
    most = planner.search(view, everything(view), queries[0], 50, SearchParams(), None)
    assert most.plan == f"exact over {COUNT} rows (many hits are wanted)"
    found = planner.search(view, everything(view), queries[0], 50, SearchParams(), Hnsw(full_scan_threshold=0))
    assert found.plan.startswith("codes") and len(found.positions) == 50  # such an effort takes as long as all of it
    truth = nearest(distances(vectors, queries[0], metric), 50)
    assert len(np.intersect1d(found.positions, truth)) >= 47


@pytest.mark.parametrize("packed", [False, True])
def test_how_many_are_few_is_measured(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = prepared(clustered(3_000, 64), "cosine")
    codes, samples = Codes.build(vectors, "cosine"), moved_queries(vectors, "cosine")

    def few() -> int | None:
        scans = by_packing(codes) if packed else by_selection(codes)
        return few_for(codes, vectors, samples, "cosine", usual_of("cosine", 50), scans)

    assert few() is None  # no telling, on so few rows
    monkeypatch.setattr(calibration, "_FEW", (100, 200, 400))
    scans_take = 0.0

    def seconds(ask: Callable[[Vector], None], queries: Vector) -> float:
        ask(queries[0])
        return scans_take if ask.__name__ == "scanned" else 1.0

    monkeypatch.setattr(calibration, "_seconds", seconds)
    assert few() == 0  # the codes were quicker throughout
    scans_take = 2.0
    assert few() == 400


def test_the_planner_keeps_to_what_was_measured(view: View, queries: Vector) -> None:
    assert view.base is not None
    half = Matches(np.arange(COUNT) % 2 == 0)
    for few, few_packed, way in ((2_999, 9_000, "codes of 3000"), (3_000, 0, "exact over 3000")):
        measured = Calibration(usual_of(view.metric), 150, few=few, few_packed=few_packed)
        seen = View(view.metric, replace(view.base, calibration=measured), view.newer)
        assert plan_of(seen, half, queries[0])[0].startswith(way)
        assert planner.is_worth_packing(seen, half, SearchParams(), None) == (few_packed == 0)
        assert not planner.is_worth_packing(seen, half, SearchParams(exact=True), None)
        assert not planner.is_worth_packing(seen, half, SearchParams(), Flat())
        assert not planner.is_worth_packing(seen, everything(seen), SearchParams(), None)
    half.prepared.packed, half.prepared.of = view.base.codes.packed(half.positions), half.mask  # type: ignore[union-attr]
    half.prepared.is_ready = True
    assert plan_of(seen, half, queries[0])[0].startswith("packed codes of 3000")
