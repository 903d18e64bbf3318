"""Postgres as a `Database`, by psycopg 3: for the ledger, and for the store that keeps its points in Postgres."""

from __future__ import annotations

from shelflist.postgres.database import PostgresDatabase
from shelflist.postgres.statements import Wire
from shelflist.postgres.transaction import PostgresTransaction
from shelflist.postgres.url import database_from_url

__all__ = ["PostgresDatabase", "PostgresTransaction", "Wire", "database_from_url"]
