"""Which ledger owns which collection: properties of a collection that is never loaded and holds no row."""

from __future__ import annotations

import hashlib

from shelflist.core.errors import StoreError
from shelflist.stores.milvus.link import Client, Link

_HOME = "shelflist_markers"


class Markers:
    """Milvus changes one property without touching the others, so writers of several collections do no harm."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def read(self, collection: str) -> str | None:
        if not self._is_there():
            return None
        found = self._link.insist(
            "read the marker", lambda client: client.describe_collection(_HOME, timeout=self._link.timeout)
        )
        return found.get("properties", {}).get(_key(collection)) or None

    def write(self, collection: str, ledger_id: str | None) -> None:
        if not self._is_there():
            self._make()
        properties = {_key(collection): ledger_id or ""}
        self._link.insist(
            "write the marker",
            lambda client: client.alter_collection_properties(_HOME, properties=properties, timeout=self._link.timeout),
        )

    def _is_there(self) -> bool:
        return bool(
            self._link.insist(
                "look for markers", lambda client: client.has_collection(_HOME, timeout=self._link.timeout)
            )
        )

    def _make(self) -> None:
        def make(client: Client) -> None:
            from pymilvus import DataType

            schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=8)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
            client.create_collection(_HOME, schema=schema, num_shards=1, timeout=self._link.timeout)

        try:
            self._link.insist("write the marker", make)
        except StoreError:
            if not self._is_there():  # else somebody else was quicker
                raise


def _key(collection: str) -> str:
    return f"shelflist.{hashlib.sha256(collection.encode()).hexdigest()[:40]}"
