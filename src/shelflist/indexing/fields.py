"""Declares more fields: values that were stored undeclared become filterable, in ledger and store."""

from __future__ import annotations

import orjson

from shelflist.core.errors import WrongFieldType
from shelflist.core.fields import Fields
from shelflist.indexing.identity import metadata_hash
from shelflist.ledger.catalog import CollectionRecord
from shelflist.ledger.ledger import Ledger
from shelflist.stores.protocol import GenerationSpec, Store


def add_fields(
    ledger: Ledger, store: Store, record: CollectionRecord, old: GenerationSpec, new: GenerationSpec
) -> None:
    """All or nothing in the ledger. Raises WrongFieldType, with nothing changed, if a stored value does not fit."""
    changed = _changed(ledger, record, old.fields, new.fields)
    with ledger.database.write():
        ledger.catalog.set_fields(record.collection_id, new.fields)
        ledger.documents.set_metadata(changed)
        store.add_fields(old, new, ledger.documents.metadata_by_point(record.generation_id))


def _changed(ledger: Ledger, record: CollectionRecord, old: Fields, new: Fields) -> list[tuple[str, bytes, int]]:
    """Chunks whose metadata looks different under the new declaration (a date as text becomes microseconds)."""
    changed = []
    for chunk_key, text, section, strategy, document_id in ledger.documents.metadata(record.collection_id):
        before = orjson.loads(text)
        try:
            stored = new.newly_declared(before, old)
        except WrongFieldType as error:
            raise WrongFieldType(
                f"{error}: so the document {document_id!r} has it stored. Nothing was changed; declare another type, or "
                "mend the document and sync it first."
            ) from None
        after = orjson.dumps(stored)
        if after != orjson.dumps(before):
            changed.append((after.decode(), metadata_hash(stored, section, strategy), chunk_key))
    return changed
