"""The ledger: the SQL record of every document, chunk and state, the truth about what should be indexed."""

from __future__ import annotations

from shelflist.core.transaction import Database
from shelflist.ledger.catalog import Catalog
from shelflist.ledger.documents import Documents
from shelflist.ledger.embeddings import Embeddings
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
