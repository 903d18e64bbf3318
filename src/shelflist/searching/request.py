"""One search, as the caller asks for it; what cannot be meant is refused before anything is asked of the store."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Literal

from shelflist.core.capabilities import Capabilities
from shelflist.core.errors import InvalidInput, UnsupportedIndex
from shelflist.core.fields import shown_value, whole
from shelflist.core.filters.nodes import Filter
from shelflist.core.types import Mode, Reranker, SearchParams
from shelflist.searching.fusion import Fusion


def require_whole(name: str, value: object, *, least: int = 1) -> int:
    """The value as int, where it is an integer of any kind; InvalidInput, naming the argument, unless it is from `least` on."""
    number = whole(value)
    if number is None or number < least:
        kind = "a positive int" if least == 1 else f"an int from {least} on"
        raise InvalidInput(f"{name}={shown_value(value)} is not {kind}.")
    return number


@dataclass(frozen=True, slots=True)
class Request:
    """`filter` is checked and normalised; the other values are checked here, and raise InvalidInput."""

    limit: int = 10
    filter: Filter | None = None
    mode: Mode | None = None
    params: SearchParams = SearchParams()
    min_score: float | None = None
    group_by: Literal["document_id"] | None = None
    fusion: Fusion = "convex"
    alpha: float | None = None
    rerank: Reranker | None = None
    rerank_pool: int = 50

    def __post_init__(self) -> None:
        self._set("limit", require_whole("limit", self.limit))
        if self.mode not in (None, "dense", "keyword", "hybrid"):
            raise InvalidInput(f"mode={self.mode!r} is not known. Use 'dense', 'keyword' or 'hybrid'.")
        if self.fusion not in ("convex", "rrf", "native"):
            raise InvalidInput(f"fusion={self.fusion!r} is not known. Use 'convex', 'rrf' or 'native'.")
        if self.group_by not in (None, "document_id"):
            raise InvalidInput(f"group_by={self.group_by!r} is not known. Use 'document_id', or leave it out.")
        if self.alpha is not None and not (isinstance(self.alpha, (int, float)) and 0 <= self.alpha <= 1):
            raise InvalidInput(f"alpha={self.alpha!r} is not between 0 (keyword only) and 1 (dense only).")
        if self.min_score is not None and not (isinstance(self.min_score, (int, float)) and isfinite(self.min_score)):
            raise InvalidInput(f"min_score={self.min_score!r} is not a finite number.")
        if not isinstance(self.params, SearchParams):
            raise InvalidInput(
                f"params={self.params!r} is no SearchParams. Give for example params=SearchParams(exact=True), or leave it out."
            )
        for setting in ("ef_search", "nprobe"):
            if (value := getattr(self.params, setting)) is not None:
                number: Any = require_whole(setting, value)
                self._set("params", replace(self.params, **{setting: number}))
        if not isinstance(self.params.exact, bool):
            raise InvalidInput(f"exact={shown_value(self.params.exact)} is neither True nor False.")
        if self.rerank is not None and not callable(self.rerank):
            raise InvalidInput(
                f"rerank={self.rerank!r} cannot be called. Give a function of the query and its hits that returns one score "
                "a hit."
            )
        if self.mode in ("dense", "keyword") and (self.fusion != "convex" or self.alpha is not None):
            raise InvalidInput(
                f"A {self.mode} search has one leg and nothing to fuse. Leave fusion= and alpha= (--fusion, --alpha) out, or "
                "use mode='hybrid'."
            )
        self._set("rerank_pool", require_whole("rerank_pool", self.rerank_pool))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def require_settings(self, capabilities: Capabilities) -> None:
        """UnsupportedIndex for a setting of an index kind that the store has not."""
        kinds = capabilities.index_kinds
        for setting, kind in (("ef_search", "hnsw"), ("nprobe", "ivf")):
            if getattr(self.params, setting) is not None and kind not in kinds:
                raise UnsupportedIndex(
                    f"{setting} is a setting of {kind} indexes, which this store has not (it has: "
                    f"{', '.join(sorted(kinds))}). Leave it out."
                )
