"""The statements that a search sends to Postgres, and Postgres's own plans of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from shelflist.postgres import PostgresTransaction
from shelflist.stores.pgvector.store import PgvectorStore

Statement = tuple[str, Any]
"""Its SQL and its parameters."""


@contextmanager
def statements_sent() -> Iterator[list[Statement]]:
    sent: list[Statement] = []
    plain = PostgresTransaction.execute

    def noted(tx: PostgresTransaction, sql: str, parameters: Any = (), **options: Any) -> Any:
        sent.append((sql, parameters))
        return plain(tx, sql, parameters, **options)

    with patch.object(PostgresTransaction, "execute", noted):
        yield sent


def plans_of(store: PgvectorStore, statements: Iterable[Statement]) -> str:
    """On a connection that the store sends searches on."""
    with store.database.read(single=True) as tx:
        return "\n".join(
            line
            for sql, parameters in statements
            for (line,) in tx.execute(f"EXPLAIN {sql}", parameters, prepare=False)
        )
