"""Hybrid search: two ranked lists become one.

`convex` (default): alpha · dense + (1 - alpha) · keyword, each scaled from its theoretical minimum to its best
(Bruch, Gai, Ingber 2023, "An Analysis of Fusion Functions for Hybrid Retrieval"): (cos + 1) / (max cos + 1) and
bm25 / max bm25. `rrf`: reciprocal rank fusion, 1 / (60 + rank) summed over the lists, alpha as the dense weight's share
(Cormack, Clarke, Büttcher 2009).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from shelflist.core.types import Metric

Fusion = Literal["convex", "rrf", "native"]
RRF_K = 60


def convex(
    dense: Mapping[bytes, float], keyword: Mapping[bytes, float], alpha: float, metric: Metric
) -> dict[bytes, float]:
    """Fused scores over the union of both lists. `dense` scores should be known for keyword candidates too;
    where one is not, the smallest of the list stands in. For dot and l2, which have no theoretical minimum in
    common, the smallest dense score of the list is the zero.
    """
    floor = min(dense.values(), default=0.0)
    zero = -1.0 if metric == "cosine" else floor
    reach = max(dense.values(), default=0.0) - zero or 1.0
    best = max(keyword.values(), default=0.0) or 1.0
    return {
        one: alpha * (dense.get(one, floor) - zero) / reach + (1 - alpha) * keyword.get(one, 0.0) / best
        for one in dense.keys() | keyword.keys()
    }


def rrf(dense: Sequence[bytes], keyword: Sequence[bytes], alpha: float = 0.5) -> dict[bytes, float]:
    """Fused scores of two ranked lists; alpha .5 weighs both alike."""
    scores: dict[bytes, float] = {}
    for ranked, weight in ((dense, 2 * alpha), (keyword, 2 * (1 - alpha))):
        for rank, one in enumerate(ranked, 1):
            scores[one] = scores.get(one, 0.0) + weight / (RRF_K + rank)
    return scores
