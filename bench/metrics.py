"""nDCG and recall of a ranking, as trec_eval defines them (gain = grade, discount = 1 / log2(rank + 1))."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def ndcg(ranking: Sequence[str], relevant: Mapping[str, int], depth: int = 10) -> float:
    """Discounted gain of the first `depth` of `ranking`, as a share of the best possible; 0 when nothing is relevant.

    An id that the ranking repeats counts where it stands first.
    """
    best = _gain(sorted(relevant.values(), reverse=True)[:depth])
    if best == 0:
        return 0.0
    return _gain([relevant.get(one, 0) for one in dict.fromkeys(ranking[:depth])]) / best


def recall(ranking: Sequence[str], relevant: Mapping[str, int], depth: int = 10) -> float:
    """Share of the relevant ids that stand among the first `depth` of `ranking`; 0 when nothing is relevant."""
    wanted = {one for one, grade in relevant.items() if grade > 0}
    return len(wanted & set(ranking[:depth])) / len(wanted) if wanted else 0.0


def _gain(grades: Sequence[int]) -> float:
    return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, start=1))
