"""Two ranked lists become one: numbers worked out by hand, and what must hold of any two lists."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shelflist.searching.fusion import RRF_K, convex, rrf

A, B, C, D = b"a", b"b", b"c", b"d"
IDS = st.sampled_from([bytes([letter]) for letter in b"abcdefgh"])
COSINES = st.dictionaries(IDS, st.floats(-1, 1, width=32))
BM25 = st.dictionaries(IDS, st.floats(0.0625, 40, width=32))


def ranked(scores: dict[bytes, float]) -> list[bytes]:
    return sorted(scores, key=lambda one: (-scores[one], one))


def test_convex_by_hand() -> None:
    fused = convex({A: 0.6, B: 0.2}, {B: 8.0, C: 4.0}, 0.5, "cosine")
    assert fused == pytest.approx({A: 0.5, B: 0.5 * 1.2 / 1.6 + 0.5, C: 0.5 * 1.2 / 1.6 + 0.25})


def test_convex_zero_of_dot_and_l2_is_the_smallest_of_the_list() -> None:
    for metric in ("dot", "l2"):
        assert convex({A: 5.0, B: 1.0}, {}, 1.0, metric) == pytest.approx({A: 1.0, B: 0.0})  # type: ignore[arg-type]
    assert convex({A: 1.0, B: -1.0}, {}, 1.0, "cosine") == pytest.approx({A: 1.0, B: 0.0})


def test_one_empty_list_leaves_the_order_of_the_other() -> None:
    assert ranked(convex({A: 0.1, B: 0.9}, {}, 0.5, "cosine")) == [B, A]
    assert ranked(convex({}, {A: 0.1, B: 0.9}, 0.5, "cosine")) == [B, A]
    assert convex({}, {}, 0.5, "cosine") == {} == rrf([], [])


def test_scores_that_are_all_alike_do_not_divide_by_zero() -> None:
    assert convex({A: -1.0, B: -1.0}, {}, 0.5, "cosine") == {A: 0.0, B: 0.0}
    assert convex({A: 2.0, B: 2.0}, {A: 1.0}, 0.5, "dot") == {A: 0.5, B: 0.0}


def test_rrf_by_hand() -> None:
    fused = rrf([A, B, C], [C, A])
    assert fused == pytest.approx({A: 1 / 61 + 1 / 62, B: 1 / 62, C: 1 / 63 + 1 / 61})
    assert ranked(fused) == [A, C, B]
    assert rrf([A], [B], alpha=0.75) == pytest.approx({A: 1.5 / (RRF_K + 1), B: 0.5 / (RRF_K + 1)})


@given(COSINES, BM25, st.floats(0, 1))
def test_convex_holds_the_union_between_nothing_and_one(
    dense: dict[bytes, float], keyword: dict[bytes, float], alpha: float
) -> None:
    fused = convex(dense, keyword, alpha, "cosine")
    assert fused.keys() == dense.keys() | keyword.keys()
    assert all(-1e-9 <= value <= 1 + 1e-9 for value in fused.values())


@given(COSINES, BM25, st.floats(0.01, 0.99))
def test_who_is_better_in_both_is_better_in_the_sum(
    dense: dict[bytes, float], keyword: dict[bytes, float], alpha: float
) -> None:
    fused = convex(dense, keyword, alpha, "cosine")
    both = dense.keys() & keyword.keys()
    for one in both:
        for other in both:
            if dense[one] >= dense[other] and keyword[one] >= keyword[other]:
                assert fused[one] >= fused[other] - 1e-9


@given(COSINES, BM25)
def test_the_ends_of_alpha_are_one_list_alone(dense: dict[bytes, float], keyword: dict[bytes, float]) -> None:
    only = convex(dense, keyword, 1.0, "cosine")
    for one in dense:
        for other in dense:
            if dense[one] > dense[other]:
                assert only[one] >= only[other]
    only = convex(dense, keyword, 0.0, "cosine")
    assert all(only[one] == 0 for one in dense.keys() - keyword.keys())
    assert all(only[one] > 0 for one in keyword)


@given(st.lists(IDS, unique=True), st.lists(IDS, unique=True))
def test_rrf_looks_at_ranks_alone(dense: list[bytes], keyword: list[bytes]) -> None:
    fused = rrf(dense, keyword)
    assert fused.keys() == {*dense, *keyword}
    assert rrf(keyword, dense) == pytest.approx(fused)
    assert ranked(rrf(dense, [])) == dense
