"""One open generation: the parts that both ways, in and out, work with."""

from __future__ import annotations

from dataclasses import dataclass

from shelflist.embedders.protocol import Embedder
from shelflist.ledger.catalog import CollectionRecord
from shelflist.ledger.keywords import Keywords
from shelflist.ledger.ledger import Ledger
from shelflist.stores.protocol import GenerationSpec, Store


@dataclass(frozen=True, slots=True)
class Generation:
    """`keywords`: the keyword index beside the ledger; None where the store has a keyword leg of its own."""

    ledger: Ledger
    store: Store
    spec: GenerationSpec
    record: CollectionRecord
    embedder: Embedder | None
    keywords: Keywords | None

    @property
    def together(self) -> bool:
        """Whether ledger and store share a database, and so a transaction."""
        database = self.store.database
        return database is not None and database.identity == self.ledger.database.identity
