"""The seam for one database: when store and ledger share one, both work in the same Transaction.

Neither knows the other: each opens `database.read()` or `database.write()`, and nested calls on one thread join. So the
points of a revision and its switch commit together, and a search and its check see one snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol


class Transaction(Protocol):
    """One open transaction on one DB-API connection. Statements use `?` for parameters."""

    writable: bool

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Run one statement; the result iterates over tuples and has `fetchone`, `fetchall`, `rowcount`."""
        ...

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> Any: ...

    def insert(self, into: str, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows of equal length into `into`: a table, or `table (column, …)`. The quick way for many rows."""
        ...


@dataclass(frozen=True, slots=True)
class LiveClause:
    """The ledger's check of one candidate as SQL, for a store in the same database to join to its own statement.

    `sql` is a SELECT that gives one row if the candidate may be shown, none if not. The candidate's id stands in it as
    the column `found.point_id`; values are `?`, in the order of `parameters`. What the columns mean is the ledger's matter.
    """

    sql: str
    parameters: tuple[Any, ...] = ()


class Database(Protocol):
    """Where transactions come from. Two databases with the same `identity` are one database.

    `dialect`: whose SQL it speaks, `sqlite` or `postgres`.
    """

    dialect: str

    @property
    def identity(self) -> str: ...

    def now(self) -> float:
        """Seconds since 1970, by a clock that all users of the database share."""
        ...

    def read(self, *, single: bool = False) -> AbstractContextManager[Transaction]:
        """A consistent snapshot. Nested calls on one thread join the outer transaction.

        `single`: one SELECT is all that will be run, so a server need not be told of a transaction.
        """
        ...

    def write(self) -> AbstractContextManager[Transaction]:
        """A write transaction: commits at the end, rolls back on an exception; nested calls join.

        In SQLite it is the only one. In Postgres others run at the same time, and whoever reads in order to write locks
        the rows, documents first, each table in the order of its keys.
        """
        ...

    def close(self) -> None: ...
