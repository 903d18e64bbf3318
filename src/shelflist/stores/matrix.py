"""The capability table of the documentation, printed from the stores themselves: `python -m shelflist.stores.matrix`."""

from __future__ import annotations

from dataclasses import fields

from shelflist.core.capabilities import Capabilities
from shelflist.stores.registry import capabilities


def matrix() -> str:
    """docs/stores.md."""
    stores = capabilities()
    rows = [["", *(one.store for one in stores)]]
    rows.append(["---"] * len(rows[0]))
    rows += [
        [item.name.replace("_", " "), *(_shown(getattr(one, item.name)) for one in stores)]
        for item in fields(Capabilities)
        if item.name != "store"
    ]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return (
        "# What each store can do\n\nPrinted by `python -m shelflist.stores.matrix` from the objects that the code checks. "
        f"What is not listed raises `Unsupported…`; the conformance suite tests both.\n\n{table}\n"
    )


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "":
        return "no"
    if isinstance(value, frozenset):
        return ", ".join(sorted(str(one) for one in value)) or "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    print(matrix(), end="")
