"""SQLite's read transactions: what they map, and that none outlives its block."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import FrameType

import pytest

from shelflist import database as database_module
from shelflist.core.errors import StoreError
from shelflist.database import SqliteDatabase


@pytest.fixture(params=["file", "memory"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteDatabase]:
    path = tmp_path / "one.db" if request.param == "file" else None
    with closing(SqliteDatabase(path)) as opened:
        with opened.write() as tx:
            tx.execute("CREATE TABLE t (a)")
        yield opened


def count(database: SqliteDatabase) -> int:
    with database.read() as tx:
        (found,) = tx.execute("SELECT count(*) FROM t").fetchone()
    return int(found)


def insert(database: SqliteDatabase) -> None:
    with database.write() as tx:
        tx.execute("INSERT INTO t VALUES (1)")


def test_nested_reads_are_one_moment(database: SqliteDatabase) -> None:
    with database.read() as outer:
        with database.read() as inner:
            assert inner is outer
        assert count(database) == 0  # which has not ended it
        with database.read() as again:
            assert again is outer
    insert(database)
    assert count(database) == 1


def test_what_sqlite_says_becomes_an_error_of_ours_and_ends_the_transaction(database: SqliteDatabase) -> None:
    with pytest.raises(StoreError, match="no such table: nowhere") as caught, database.read() as tx:
        tx.execute("SELECT * FROM nowhere")
    assert isinstance(caught.value.__cause__, sqlite3.Error)
    with pytest.raises(ZeroDivisionError), database.read():
        raise ZeroDivisionError
    insert(database)  # nothing is open any more
    assert count(database) == 1


def test_an_interrupt_on_the_way_out_leaves_no_moment_behind(tmp_path: Path) -> None:
    with closing(SqliteDatabase(tmp_path / "one.db")) as database:
        with database.write() as tx:
            tx.execute("CREATE TABLE t (a)")
        reading = database.read()
        first = reading.__enter__()
        first.execute("SELECT * FROM t").fetchall()  # from here on it is of this moment
        with closing(SqliteDatabase(tmp_path / "one.db")) as other:
            insert(other)
        assert count(database) == 0
        del reading  # __exit__ was never begun
        assert count(database) == 1


def test_an_interrupt_on_the_way_in_does_not_stand_in_the_way_of_the_next(tmp_path: Path) -> None:
    with closing(SqliteDatabase(tmp_path / "one.db")) as database:
        with database.write() as tx:
            tx.execute("CREATE TABLE t (a)")
        database._connection().execute("BEGIN")  # and nobody was told
        assert count(database) == 0


@pytest.mark.parametrize("where", ["__exit__", "_end"])
def test_an_interrupt_anywhere_on_the_way_out_is_got_over(tmp_path: Path, where: str) -> None:
    def interrupted(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_name == where and frame.f_code.co_filename == database_module.__file__:
            sys.setprofile(None)
            raise KeyboardInterrupt

    with closing(SqliteDatabase(tmp_path / "one.db")) as database:
        with database.write() as tx:
            tx.execute("CREATE TABLE t (a)")
        assert count(database) == 0
        with pytest.raises(KeyboardInterrupt):
            sys.setprofile(interrupted)
            try:
                count(database)
            finally:
                sys.setprofile(None)
        insert(database)
        assert count(database) == 1


def test_a_database_that_is_closed_during_a_read_is_not_opened_again(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "one.db")
    with database.write() as tx:
        tx.execute("CREATE TABLE t (a)")
    with pytest.raises(StoreError, match="closed database"), database.read() as tx:
        database.close()
        tx.execute("SELECT * FROM t")
    assert not list(database._opened)
