"""Which store answers to which URL. A store is a folder or a file here and one line below."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from shelflist.config import StoreUrl
from shelflist.core.capabilities import Capabilities
from shelflist.core.errors import UnknownStore

if TYPE_CHECKING:
    from shelflist.stores.protocol import Store


class StoreClass(Protocol):
    """What a line below names: it is asked before there is a store."""

    capabilities: Capabilities

    def at(self, place: StoreUrl, *, busy_timeout: float) -> Store: ...


STORES = {
    "file": ("shelflist.stores.embedded", "EmbeddedStore"),
    "memory": ("shelflist.stores.memory", "MemoryStore"),
    "pgvector": ("shelflist.stores.pgvector.store", "PgvectorStore"),
    "chroma": ("shelflist.stores.chroma.store", "ChromaStore"),
    "qdrant": ("shelflist.stores.qdrant.store", "QdrantStore"),
    "weaviate": ("shelflist.stores.weaviate.store", "WeaviateStore"),
    "milvus": ("shelflist.stores.milvus.store", "MilvusStore"),
}
"""By URL scheme: module and class. Modules are imported when they are used, and import their client when they connect."""


def require_scheme(place: StoreUrl) -> None:
    if place.scheme not in STORES:
        known = ", ".join(f"{scheme}:" for scheme in STORES)
        raise UnknownStore(f"No store answers to {place.scheme!r}: in {place.bare}. There is: {known}")


def require_client(place: StoreUrl) -> None:
    """MissingDependency, with the command that installs it, if the package is not there that the store needs."""
    require: Callable[[StoreUrl], None] | None = getattr(_class_of(place.scheme), "require_client", None)
    if require is not None:  # a store that is in the base install has none
        require(place)


def open_store(place: StoreUrl, busy_timeout: float = 30.0) -> Store:
    """The store at a URL, not yet connected; UnknownStore, ConfigError or MissingDependency if there is none."""
    require_scheme(place)
    return _class_of(place.scheme).at(place, busy_timeout=busy_timeout)


def capabilities() -> list[Capabilities]:
    """What each store claims, in the order of the table."""
    return [_class_of(scheme).capabilities for scheme in STORES]


def _class_of(scheme: str) -> StoreClass:
    module, name = STORES[scheme]
    found: StoreClass = getattr(import_module(module), name)
    return found
