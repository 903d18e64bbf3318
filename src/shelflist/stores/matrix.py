"""What each store can do, as tables: for `shelflist stores` and for docs/stores.md (`python -m shelflist.stores.matrix`).

Everything is printed from the objects that the code itself asks.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shelflist.core.capabilities import Capabilities
from shelflist.core.errors import UnknownStore
from shelflist.core.filters.nodes import Operator
from shelflist.stores.registry import STORES, capabilities

_WIDTH = 100
_WITHOUT_SERVER = frozenset({"file", "memory"})
_LEDGER_INSIDE = frozenset({"file", "memory", "pgvector"})

MEANINGS: Mapping[str, tuple[str, str]] = {
    "url": ("URL", "how its URL begins"),
    "extra": ("extra", "what to install: pip install 'shelflist[EXTRA]'; - is in the base install"),
    "versions": ("versions", "servers it is made for, oldest to newest"),
    "ledger": ("ledger", "inside: in the store's own database; apart: name one (ledger=, --ledger)"),
    "index_kinds": ("vector index", "what index= may ask for; left out, the store's best is taken"),
    "quantization": ("quantization", "smaller vectors in the index, rescored by the whole ones"),
    "unquantized": ("but never", "quantization that it has not on one kind of index"),
    "metrics": ("metrics", "how vectors may be compared"),
    "max_dimensions": ("dimensions", "most dimensions of a vector"),
    "exact": ("exact search", "whether SearchParams(exact=True) compares every vector"),
    "filtering": ("filtering", "pre: first; in-traversal: on the walk of the graph; by filter: as suits it"),
    "filter_operators": ("filters", "operators it runs itself; the others are resolved by the ledger"),
    "unsupported_on": ("but not", "operators that it leaves to the ledger for one type of field"),
    "keyword": ("keyword leg", "its own scoring; beside the ledger: Shelflist keeps the keyword index"),
    "hybrid": ("own fusion", "whether fusion='native' works; the other fusions work everywhere"),
    "tenancy": ("tenants", "how tenants are kept apart: by filter, by partition, or natively"),
    "visibility": ("visibility", "when the store itself shows a write; sync waits for it"),
    "holds": ("holds", "what a point carries: everything, or vector, ids and declared fields"),
    "vectors": ("vectors", "whether they come back as written, or with length 1 under cosine"),
    "joins_live": ("one statement", "whether search and the ledger's check are one statement"),
    "upkeep": ("upkeep", "whether `shelflist repair` also has the server mend what no comparison of ids shows"),
    "builds_aside": ("built aside", "whether the index is built while a sync has returned; close waits for it"),
    "max_batch": ("batch", "most points that one upsert takes"),
    "concurrent_writers": ("many writers", "whether several processes may write at once"),
    "durable": ("durable", "whether it outlives the process"),
}
"""By row: its label, and what it says in a few words. In the order of the table."""


@dataclass(frozen=True, slots=True)
class Described:
    """A store with how one gets at it."""

    scheme: str
    capabilities: Capabilities

    @property
    def url(self) -> str:
        return f"{self.scheme}:" if self.scheme in _WITHOUT_SERVER else f"{self.scheme}://"

    @property
    def extra(self) -> str | None:
        return None if self.scheme in _WITHOUT_SERVER else self.scheme

    @property
    def ledger(self) -> str:
        return "inside" if self.scheme in _LEDGER_INSIDE else "apart"


def described(names: Sequence[str] = ()) -> list[Described]:
    """The stores of these names or URL schemes, or all; UnknownStore for any other name."""
    stores = [Described(scheme, one) for scheme, one in zip(STORES, capabilities(), strict=True)]
    for name in names:
        if not any(name in (one.capabilities.store, one.scheme) for one in stores):
            listed = ", ".join(one.capabilities.store for one in stores)
            raise UnknownStore(f"There is no store {name!r}. There is: {listed}")
    return [one for one in stores if not names or one.capabilities.store in names or one.scheme in names]


def rows_of(store: Described) -> dict[str, Any]:
    """What is known of a store, as JSON."""
    return {"store": store.capabilities.store, **{name: _plain(_value(store, name)) for name in MEANINGS}}


def text_table(stores: Sequence[Described]) -> str:
    """The table for a terminal of 100 columns, and what its rows mean."""
    label = max(len(title) for title, _ in MEANINGS.values())
    width = min(30, (_WIDTH - label) // len(stores) - 1)
    lines = _row("", [one.capabilities.store for one in stores], label, width)
    lines.append("-" * min(_WIDTH, label + len(stores) * (width + 1)))
    for name, (title, _) in MEANINGS.items():
        lines += _row(title, [_shown(name, _value(one, name)) for one in stores], label, width)
    lines += ["", *(f"{title.ljust(label)} {meaning}" for title, meaning in MEANINGS.values())]
    return "\n".join(lines)


def matrix() -> str:
    """docs/stores.md."""
    stores = described()
    rows = [["", *(one.capabilities.store for one in stores)]]
    rows.append(["---"] * len(rows[0]))
    rows += [
        [title, *(_shown(name, _value(one, name)) or "-" for one in stores)] for name, (title, _) in MEANINGS.items()
    ]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    meanings = "\n".join(f"- **{title}**: {meaning}" for title, meaning in MEANINGS.values())
    return (
        "# What each store can do\n\n"
        "Printed by `python -m shelflist.stores.matrix` from the objects that the code checks, as by `shelflist stores`. Do "
        "not edit.\nWhat a store does not claim raises `Unsupported…`, and the conformance suite tests both. Filters, "
        "keyword search and tenants\nwork on every store: what it lacks, the ledger answers. Choosing and connecting: "
        f"[stores-guide.md](stores-guide.md).\n\n{table}\n\n## What the rows mean\n\n{meanings}\n"
    )


def _value(store: Described, name: str) -> Any:
    return getattr(store if name in ("url", "extra", "ledger") else store.capabilities, name)


def _plain(value: Any) -> Any:
    if isinstance(value, frozenset):
        return sorted(" on ".join(map(str, one)) if isinstance(one, tuple) else str(one) for one in value)
    return value


def _shown(name: str, value: Any) -> str:
    if name == "filter_operators":
        missing = sorted(one.value for one in Operator if one not in value)
        return f"all but {', '.join(missing)}" if missing else "all"
    if name == "keyword" and value is None:
        return "beside the ledger"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "":
        return "-"
    if name == "unsupported_on":
        by_type: dict[str, list[str]] = {}
        for operator, kind in sorted(value):
            by_type.setdefault(kind.value, []).append(operator.value)
        return "; ".join(f"{', '.join(operators)} on {kind}" for kind, operators in sorted(by_type.items())) or "-"
    if isinstance(value, frozenset):
        return ", ".join(_plain(value)) or "-"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("_", " ")


def _row(title: str, cells: Iterable[str], label: int, width: int) -> list[str]:
    columns = [textwrap.wrap(cell, width) or [""] for cell in cells]
    return [
        " ".join(
            [
                (title if line == 0 else "").ljust(label),
                *((column[line] if line < len(column) else "").ljust(width) for column in columns),
            ]
        ).rstrip()
        for line in range(max(len(column) for column in columns))
    ]


if __name__ == "__main__":
    print(matrix(), end="")
