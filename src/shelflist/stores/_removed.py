"""The log of rows that stopped being searchable, so that a process takes them out of what it knows without reading all.

Table NAME_removed (row, sequence): `sequence` is the generation's after the write that took the row away.
"""

from __future__ import annotations

from collections.abc import Sequence

from shelflist.core.transaction import Transaction

KEPT = 10_000
"""Sequences for which a removal is remembered; who is further behind looks at every row."""


def has_log(tx: Transaction, name: str) -> bool:
    """Whether the generation keeps one: not if it was made, and has only been read since, by an older version."""
    found = tx.execute("SELECT count(*) FROM sqlite_master WHERE name IN (?, 'store_snapshots')", (f"{name}_removed",))
    return bool(found.fetchone()[0] == 2)


def create_log(tx: Transaction, name: str) -> None:
    """Make the log and the table of snapshots, where they are not there yet."""
    tx.execute(
        "CREATE TABLE IF NOT EXISTS store_snapshots (name TEXT PRIMARY KEY, place TEXT NOT NULL, "
        "sequence INTEGER NOT NULL, last_row INTEGER NOT NULL, rows INTEGER NOT NULL)"
    )
    tx.execute(f"CREATE TABLE IF NOT EXISTS {name}_removed (row INTEGER PRIMARY KEY, sequence INTEGER NOT NULL)")
    tx.execute(f"CREATE INDEX IF NOT EXISTS {name}_removed_sequence ON {name}_removed (sequence)")


def log_removed(tx: Transaction, name: str, rows: Sequence[int]) -> None:
    """Note rows that the running transaction takes away; its sequence is the one after the present."""
    (sequence,) = tx.execute("SELECT sequence FROM store_generations WHERE name = ?", (name,)).fetchone()
    tx.executemany(f"INSERT OR IGNORE INTO {name}_removed VALUES (?, ?)", ((row, sequence + 1) for row in rows))
    tx.execute(f"DELETE FROM {name}_removed WHERE sequence < ?", (sequence - KEPT,))


def removed_since(tx: Transaction, name: str, since: int, now: int) -> list[int] | None:
    """Rows taken away after the sequence `since`; None if that is longer ago than the log remembers."""
    if now - since > KEPT:
        return None
    return [row for (row,) in tx.execute(f"SELECT row FROM {name}_removed WHERE sequence > ?", (since,))]
