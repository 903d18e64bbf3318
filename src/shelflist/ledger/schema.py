"""Brings a ledger's tables to this version, forward only, and refuses a ledger of a newer one.

One set of scripts serves both databases: SQLite's words are the source, the dialect translates them.
"""

from __future__ import annotations

import secrets
from importlib.resources import files

from shelflist.core.errors import LedgerTooNew
from shelflist.core.transaction import Database, Transaction
from shelflist.ledger.dialect import Dialect, dialect_of


def migrations() -> list[tuple[int, str]]:
    """Numbered SQL files, in order."""
    folder = files("shelflist.ledger") / "sql"
    names = sorted(item.name for item in folder.iterdir() if item.name[:4].isdigit() and item.name.endswith(".sql"))
    return [(int(name[:4]), (folder / name).read_text()) for name in names]


def is_ledger(database: Database) -> bool:
    """Whether a ledger is there; LedgerTooNew if it is one of a newer Shelflist."""
    return _known_version(database, dialect_of(database)) is not None


def open_schema(database: Database) -> str:
    """Create or migrate the tables; returns the `ledger_id`."""
    steps = migrations()
    newest = steps[-1][0]
    dialect = dialect_of(database)
    version = _known_version(database, dialect)
    if version != newest:
        with database.write() as tx:
            dialect.take_turns(tx, "migration")
            _migrate(tx, steps, dialect)
    with database.read() as tx:
        (ledger_id,) = tx.execute("SELECT value FROM sl_meta WHERE key = 'ledger_id'").fetchone()
    return str(ledger_id)


def _known_version(database: Database, dialect: Dialect) -> int | None:
    with database.read() as tx:
        version = _version(tx, dialect)
    newest = migrations()[-1][0]
    if version is not None and version > newest:
        raise LedgerTooNew(
            f"This index has ledger version {version}; this Shelflist knows up to {newest}. "
            "Upgrade with: pip install -U shelflist. Nothing was changed."
        )
    return version


def _migrate(tx: Transaction, steps: list[tuple[int, str]], dialect: Dialect) -> None:
    version = _version(tx, dialect)
    if version is None:
        tx.execute("CREATE TABLE sl_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        tx.execute("INSERT INTO sl_meta VALUES ('ledger_id', ?)", (secrets.token_hex(16),))
        tx.execute("INSERT INTO sl_meta VALUES ('version', '0')")
        version = 0
    for number, script in steps:
        if number > version:
            for statement in statements(dialect.script(script)):
                tx.execute(statement)
            tx.execute("UPDATE sl_meta SET value = ? WHERE key = 'version'", (str(number),))


def statements(script: str) -> list[str]:
    """The statements of a script without string literals that hold semicolons, comments removed."""
    bare = "\n".join(line.split("--")[0] for line in script.splitlines())
    return [statement.strip() for statement in bare.split(";") if statement.strip()]


def _version(tx: Transaction, dialect: Dialect) -> int | None:
    if not dialect.has_table(tx, "sl_meta"):
        return None
    (value,) = tx.execute("SELECT value FROM sl_meta WHERE key = 'version'").fetchone()
    return int(value)
