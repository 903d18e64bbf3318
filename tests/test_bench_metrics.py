"""The measures of bench/quality.py, by cases that can be computed by hand."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest

_PATH = Path(__file__).resolve().parent.parent / "bench" / "metrics.py"
_SPEC = importlib.util.spec_from_file_location("bench_metrics", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
metrics = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(metrics)


@pytest.mark.parametrize(
    ("ranking", "relevant", "expected"),
    [
        (["a", "b", "c"], {"a": 1}, 1.0),
        (["b", "a", "c"], {"a": 1}, 1 / math.log2(3)),
        (["b", "c", "a"], {"a": 1}, 0.5),
        (["b", "c"], {"a": 1}, 0.0),
        ([], {"a": 1}, 0.0),
        (["a"], {}, 0.0),
        (["a", "b"], {"a": 1, "b": 1}, 1.0),
        (["a", "x"], {"a": 1, "b": 1}, 1 / (1 + 1 / math.log2(3))),
        (["b", "a"], {"a": 2, "b": 1}, (1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3))),
        (["a", "a", "b"], {"a": 1, "b": 1}, 1.0),
        ([*"0123456789", "a"], {"a": 1}, 0.0),
        ([*"012345678", "a"], {"a": 1}, 1 / math.log2(11)),
    ],
)
def test_ndcg_at_10(ranking: list[str], relevant: dict[str, int], expected: float) -> None:
    assert metrics.ndcg(ranking, relevant) == pytest.approx(expected)


def test_ndcg_is_complete_with_more_relevant_documents_than_places() -> None:
    assert metrics.ndcg(["a", "b"], {"a": 1, "b": 1, "c": 1}, depth=2) == pytest.approx(1.0)
    assert metrics.ndcg(["a", "x"], {"a": 1, "b": 1, "c": 1}, depth=2) < 1


@pytest.mark.parametrize(
    ("ranking", "relevant", "expected"),
    [
        (["a", "b"], {"a": 1, "b": 1}, 1.0),
        (["b", "x"], {"a": 1, "b": 1}, 0.5),
        (["x"], {"a": 1}, 0.0),
        (["x"], {}, 0.0),
        (["x", "a"], {"a": 1, "x": 0}, 1.0),
        ([*"0123456789", "a"], {"a": 1}, 0.0),
    ],
)
def test_recall_at_10(ranking: list[str], relevant: dict[str, int], expected: float) -> None:
    assert metrics.recall(ranking, relevant) == pytest.approx(expected)
