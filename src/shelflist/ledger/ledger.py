"""The ledger: the SQL record of every document, chunk and state, the truth about what should be indexed."""

from __future__ import annotations

from shelflist.core.transaction import Database
from shelflist.database import SqliteDatabase
from shelflist.ledger.catalog import Catalog
from shelflist.ledger.documents import Documents
from shelflist.ledger.embeddings import Embeddings
from shelflist.ledger.keywords import Keywords, TantivyKeywords
from shelflist.ledger.lexemes import PostgresKeywords
from shelflist.ledger.revisions import Revisions
from shelflist.ledger.schema import open_schema


class Ledger:
    """One ledger in one database. Its parts share the database, so their calls join one transaction where one is open."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.ledger_id = open_schema(database)
        self.catalog = Catalog(database)
        self.documents = Documents(database)
        self.revisions = Revisions(database)
        self.embeddings = Embeddings(database)

    def keywords(self, collection_id: int) -> Keywords:
        """The keyword index of a collection whose store has none: tantivy beside a SQLite file, lexemes in Postgres."""
        if isinstance(self.database, SqliteDatabase):
            path = self.database.path
            folder = None if path is None else path.with_name(path.name + ".keywords")
            return TantivyKeywords(self.database, folder, collection_id)
        return PostgresKeywords(self.database, collection_id)
