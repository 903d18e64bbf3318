"""Recall: the share of the exact top-k that a search returned. Measured, never assumed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shelflist.core.errors import InvalidInput
from shelflist.core.types import SearchParams, Vector
from shelflist.stores.protocol import GenerationSpec, Scope, Store


def measure_recall(store: Store, spec: GenerationSpec, queries: Sequence[Vector], limit: int, scope: Scope) -> float:
    """Mean recall@limit over the queries. Ties count by distance, not by id. Raises InvalidInput without a query, and where no
    chunk matches."""
    if not queries:
        raise InvalidInput(
            "Recall needs at least one query or one stored chunk. Sync a document first, or give queries=."
        )
    shares = []
    for query in queries:
        truth = store.search(spec, query, limit=limit, scope=scope, params=SearchParams(exact=True)).items
        found = store.search(spec, query, limit=limit, scope=scope, params=SearchParams()).items
        if truth:
            bound = truth[-1].value + 1e-6
            shares.append(sum(item.value <= bound for item in found) / len(truth))
    if not shares:
        raise InvalidInput(
            "Recall cannot be measured where no chunk matches. Check the filter and the tenant, for example with count()."
        )
    return float(np.mean(shares))
