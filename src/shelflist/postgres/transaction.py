"""One transaction on one psycopg connection, begun when its first statement comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

from shelflist.core.errors import StoreError
from shelflist.postgres.errors import mapped
from shelflist.postgres.statements import held, native, unescaped, wire_dumper

if TYPE_CHECKING:
    import psycopg

    from shelflist.postgres.database import Link, PostgresDatabase

Answer = TypeVar("Answer")
_TEXT_TYPES = frozenset({25, 1043, 1042, 18, 19, 705})
_TEXT_LISTS = frozenset({1009, 1015})
_FEW_VALUES = 200
"""Up to so many values one INSERT is quicker than COPY, which takes three round trips."""


class Rows:
    """The result of a statement, whole: tuples with str, int, float, bool, bytes, list or None."""

    __slots__ = ("_all", "_next", "rowcount")

    def __init__(self, rows: list[tuple[Any, ...]], rowcount: int) -> None:
        self._all = rows
        self._next = 0
        self.rowcount = rowcount

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.fetchall())

    def fetchone(self) -> Any:
        if self._next >= len(self._all):
            return None
        self._next += 1
        return self._all[self._next - 1]

    def fetchall(self) -> list[tuple[Any, ...]]:
        rest = self._all[self._next :] if self._next else self._all
        self._next = len(self._all)
        return rest


class PostgresTransaction:
    """What `PostgresDatabase.read`, `write` and `alone` give. Statements use `?`; `??` stands for Postgres's `?`.

    `begin`: what opens the transaction, sent with the first statement; None: every statement stands for itself.
    """

    __slots__ = ("_begin", "_begun", "_database", "link", "writable")

    def __init__(self, database: PostgresDatabase, link: Link, begin: bytes | None, *, writable: bool) -> None:
        self._database = database
        self._begin = begin
        self._begun = False
        self.link = link
        self.writable = writable

    def execute(self, sql: str, parameters: Sequence[Any] = (), *, prepare: bool | None = None) -> Rows:
        """Run one statement. `prepare=False`: it is planned anew each time, by the settings of that moment."""
        query = native(sql)
        values = held(parameters) if parameters else None
        return self._run(lambda connection: _executed(connection, query, values, prepare))

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> Rows:
        """Run one statement for each row, without waiting for each."""
        query = native(sql)
        values = [held(row) for row in rows]
        return self._run(lambda connection: _executed_many(connection, query, values)) if values else Rows([], 0)

    def insert(self, into: str, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows into `into`: a table, or `table (column, …)`; by COPY in binary form when they are many.

        A column of a type that psycopg has no adapter for (vector, halfvec) takes bytes in the type's binary form.
        """
        if not rows:
            return
        if len(rows) * len(rows[0]) <= _FEW_VALUES and not self._database.has_foreign_types(into, self):
            one = f"({', '.join('?' * len(rows[0]))})"
            self.execute(f"INSERT INTO {into} VALUES {', '.join([one] * len(rows))}", list(chain.from_iterable(rows)))
            return
        self.copy(into, rows)

    def copy(self, into: str, rows: Iterable[Sequence[Any]]) -> None:
        """`insert` of many rows, taken one by one while the server is at work on those before."""
        types = self._database.column_types(into, self)
        self._run(lambda connection: _copied(connection, into, types, rows))

    def settings(self, values: Mapping[str, str | int | float]) -> None:
        """Make these the settings of the session that differ from the server's own: none else that was set here stays.

        They hold for what is planned from now on; a prepared statement keeps the plan it has. Costs a round trip only if
        something changes. Whoever depends on a setting calls this in every block: it may be another connection.
        """
        wanted = {name: str(value) for name, value in values.items()}
        known = self.link.settings
        if known == wanted:
            return
        self.link.settings = None  # unknown, until all of it has gone through
        if known is None or known.keys() - wanted.keys():
            self.execute("RESET ALL")
        if wanted:
            calls = ", ".join(["set_config(?, ?, false)"] * len(wanted))
            self.execute(f"SELECT {calls}", list(chain.from_iterable(wanted.items())))
        self.link.settings = wanted

    def commit(self) -> None:
        """Commit what was begun. Where a statement failed that is an error, and not the silent rollback that it would be."""
        if not self._begun or self._begin is None:
            return
        self._begun = False
        if self.link.has_failed():
            raise StoreError(f"{self._database.address}: a statement failed, so nothing was committed.")
        self.link.connection.execute(
            "COMMIT"
        )  # not by _run: on another connection it would commit nothing and say nothing

    def roll_back(self) -> None:
        """Roll back; a connection that cannot even do that is closed."""
        import psycopg

        self._begun = False
        if self.writable:
            self.link.settings = None  # a rollback takes back what was set inside
        try:
            if not self.link.connection.closed:
                self.link.connection.execute("ROLLBACK")
        except psycopg.Error:
            self.link.connection.close()

    def end_read(self) -> None:
        """End a snapshot. COMMIT, because a rollback would take back the session's settings."""
        if self._begun and self._begin is not None:
            self._begun = False
            self.link.command(b"ROLLBACK" if self.link.has_failed() else b"COMMIT")

    def _run(self, call: Callable[[psycopg.Connection[Any]], Answer]) -> Answer:
        import psycopg

        first = not self._begun
        try:
            if first:
                self._start()
            return call(self.link.connection)
        except psycopg.Error as error:
            lost = self.link.is_lost()
            if first and lost and self.link.is_used and not (self.writable and self._begin is None):
                # The server was restarted while the connection lay in the pool: nothing of this block has happened yet.
                self._begun = False
                self.link = self._database.replaced(self.link)
                return self._run(call)
            raise mapped(error, self._database.address, lock_seconds=self._database.busy_timeout, lost=lost) from error

    def _start(self) -> None:
        if self._begin is not None:
            self.link.command(self._begin)
            self._begun = True


def _executed(
    connection: psycopg.Connection[Any], query: str, values: Sequence[Any] | None, prepare: bool | None
) -> Rows:
    cursor = connection.cursor(binary=True)
    cursor.execute(query.encode(), values, prepare=prepare)
    return _rows(cursor)


def _rows(cursor: psycopg.Cursor[Any]) -> Rows:
    result = cursor.pgresult
    if result is None or not result.nfields:
        return Rows([], cursor.rowcount)
    rows = cursor.fetchall()
    kinds = [result.ftype(place) for place in range(result.nfields)] if rows else []
    texts = [place for place, kind in enumerate(kinds) if kind in _TEXT_TYPES]
    if "\1" in "".join([row[place] or "" for place in texts for row in rows]):  # one look, as it is hardly ever there
        for place in texts:
            rows = [(*row[:place], row[place] and unescaped(row[place]), *row[place + 1 :]) for row in rows]
    for place, kind in enumerate(kinds):
        if kind in _TEXT_LISTS and any(row[place] and any("\1" in one for one in row[place] if one) for row in rows):
            rows = [(*row[:place], _all_unescaped(row[place]), *row[place + 1 :]) for row in rows]
    return Rows(rows, cursor.rowcount)


def _all_unescaped(texts: list[str | None] | None) -> list[str | None] | None:
    return texts and [text and unescaped(text) for text in texts]


def _executed_many(connection: psycopg.Connection[Any], query: str, values: Sequence[Sequence[Any]]) -> Rows:
    cursor = connection.cursor(binary=True)
    cursor.executemany(query.encode(), values)
    return Rows([], cursor.rowcount)


def _copied(
    connection: psycopg.Connection[Any], into: str, types: Sequence[int], rows: Iterable[Sequence[Any]]
) -> None:
    for oid in types:
        _take_bytes(connection, oid)
    with connection.cursor().copy(f"COPY {into} FROM STDIN (FORMAT BINARY)".encode()) as copy:
        copy.set_types(types)
        write = copy.write_row
        for row in rows:
            write(held(row))


def _take_bytes(connection: psycopg.Connection[Any], oid: int) -> None:
    """Columns of a type that psycopg does not know take bytes as they are."""
    from psycopg import ProgrammingError
    from psycopg.pq import Format

    try:
        connection.adapters.get_dumper_by_oid(oid, Format.BINARY)
    except ProgrammingError:
        connection.adapters.register_dumper(None, wire_dumper(oid))
