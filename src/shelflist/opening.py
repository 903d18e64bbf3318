"""From a URL to working parts: the store, the ledger, the collection's record, and what stands on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from shelflist.config import INDEX_DATABASE, StoreUrl, parse_url, redact, require_no_file, require_no_options
from shelflist.core.errors import (
    CollectionNotFound,
    ConfigError,
    EmbedderMismatch,
    MarkerMismatch,
)
from shelflist.core.fields import Fields, whole
from shelflist.core.transaction import Database
from shelflist.core.types import Vector
from shelflist.database import SqliteDatabase
from shelflist.embedders import resolve_embedder
from shelflist.embedders.protocol import Embedder
from shelflist.generation import Generation
from shelflist.indexing.embedding import VectorSource
from shelflist.indexing.fields import add_fields
from shelflist.indexing.write import Writer
from shelflist.ledger.catalog import Catalog, CollectionRecord
from shelflist.ledger.ledger import Ledger
from shelflist.ledger.schema import is_ledger
from shelflist.stores.protocol import GenerationSpec, Store
from shelflist.stores.registry import open_store, require_client, require_scheme
from shelflist.wanted import UNSET, Wanted, compare, typed

DEFAULT_TARGET_RECALL = 0.95
LEDGER_FLAGS = {"ledger": "--ledger, SHELFLIST_LEDGER", "to_ledger": "--to-ledger"}
"""How a command line says what Python says by this argument: messages name both."""


class Opened:
    """The parts of one open collection."""

    def __init__(
        self,
        url: str,
        ledger_url: str,
        store: Store,
        ledger: Ledger,
        record: CollectionRecord,
        embedder: Embedder | None,
    ) -> None:
        self.url = url
        self.ledger_url = ledger_url
        self.store = store
        self.ledger = ledger
        self.embedder = embedder
        self._arrange(record)

    def _arrange(self, record: CollectionRecord) -> None:
        self.record = record
        self.spec = generation_spec(record)
        keywords = None
        if self.store.capabilities.keyword is None:
            keywords = self.ledger.keywords(record.collection_id)
        self.generation = Generation(self.ledger, self.store, self.spec, record, self.embedder, keywords)
        self.vectors = VectorSource(self.generation)
        self.writer = Writer(self.generation, self.vectors)

    def refresh(self) -> None:
        """See fields that another process has declared; CollectionNotFound if the collection has been dropped."""
        record = self.ledger.catalog.find(self.record.name)
        if record is None or record.uid != self.record.uid:
            raise CollectionNotFound(
                f"The collection {self.record.name!r} at {self.url} was dropped after it was opened here. Open it again."
            )
        if record.fields.to_json() != self.record.fields.to_json():
            self._arrange(record)

    def add_fields(self, fields: Fields) -> None:
        """Declare more fields, in ledger and store."""
        record = replace(self.record, fields=fields)
        add_fields(self.ledger, self.store, record, self.spec, generation_spec(record))
        self._arrange(record)

    def close(self) -> None:
        self.writer.settle()
        self.store.close()
        self.ledger.database.close()


class GuardedEmbedder:
    """An embedder whose vector space is compared with the collection's before its first vector is used.

    Only then: asking a remote model for its fingerprint costs a call, and opening a collection should not.
    """

    def __init__(self, embedder: Embedder, record: CollectionRecord) -> None:
        self._embedder = embedder
        self._record = record
        self._checked = False

    @property
    def spec(self) -> str:
        return self._embedder.spec

    @property
    def fingerprint(self) -> str:
        return self._record.fingerprint

    @property
    def dimensions(self) -> int:
        return self._record.dimensions

    @property
    def max_tokens(self) -> int | None:
        return self._embedder.max_tokens

    @property
    def fusion_alpha(self) -> float:
        return self._embedder.fusion_alpha

    def embed_documents(self, texts: Sequence[str]) -> Vector:
        self._check()
        return self._embedder.embed_documents(texts)

    def embed_query(self, text: str) -> Vector:
        self._check()
        return self._embedder.embed_query(text)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        return self._embedder.token_counts(texts)

    def _check(self) -> None:
        if not self._checked:
            found = self._embedder.fingerprint
            if found != self._record.fingerprint:
                raise EmbedderMismatch(
                    f"The collection {self._record.name!r} was built with {self._record.fingerprint}; this embedder is "
                    f"{found}. Vector spaces never mix: open it with its own embedder, or make a new collection."
                )
            self._checked = True


def open_parts(
    url: str,
    name: str,
    wanted: Wanted,
    *,
    ledger: str | None,
    create: bool,
    busy_timeout: float,
    load_embedder: bool = True,
    emptied: bool = False,
) -> Opened:
    if not isinstance(name, str) or not name:
        raise ConfigError(f"A collection's name is a non-empty str, got {name!r}.")
    place = parse_url(url)
    require_scheme(place)
    require_client(place)  # before anything else: what is missing here is not missing there
    if not create and not _exists(place, ledger):
        raise CollectionNotFound(_not_found(name, place, ledger))
    store = open_store(place, busy_timeout)
    database: Database | None = None
    embedder: Embedder | None = None
    try:
        if is_new_file(ledger):
            # What can fail is asked first: a ledger that was made for nothing would be left behind.
            check_unmarked(store, place, ledger, name)
            embedder = _embedder(wanted, None) if load_embedder else None
            _settings(store, wanted, embedder)
        database = ledger_database(place, store, ledger, busy_timeout)
        if not create and not is_ledger(database):  # looking must not make tables in a database of somebody else's
            raise CollectionNotFound(_not_found(name, place, ledger))
        opened = Ledger(database)
        record = opened.catalog.find(name)
        if record is None and not create:
            raise CollectionNotFound(_not_found(name, place, ledger, opened.catalog.names()))
        if emptied and record is not None and store.read_marker(name) is None:
            store.create(generation_spec(record))
            store.write_marker(name, opened.ledger_id)
        where = ledger_place(place, ledger)
        check_marker(store, opened, place, where, name, known=record is not None)
        if load_embedder and (embedder is None or record is not None):
            embedder = _embedder(wanted, record)
        if record is None:
            record = _create(opened, store, name, wanted, embedder)
        else:
            compare(record, wanted, embedder, place, ledger)
    except BaseException:
        store.close()
        if database is not None:
            database.close()
        raise
    guarded = GuardedEmbedder(embedder, record) if embedder is not None else None
    return Opened(str(place), where, store, opened, record, guarded)


def collection_names(url: str, ledger: str | None = None) -> list[str]:
    place = parse_url(url)
    require_scheme(place)
    require_client(place)
    if not _exists(place, ledger):
        return []
    store = open_store(place, 30.0)
    database = ledger_database(place, store, ledger, 30.0)
    try:
        return Catalog(database).names() if is_ledger(database) else []
    finally:
        store.close()
        database.close()


def generation_spec(record: CollectionRecord) -> GenerationSpec:
    return GenerationSpec(
        name=record.physical_name,
        dimensions=record.dimensions,
        metric=record.metric,
        index=record.index,
        fields=record.fields,
        tenanted=record.tenancy == "required",
        target_recall=record.target_recall,
    )


def ledger_database(
    place: StoreUrl, store: Store, ledger: str | None, busy_timeout: float, *, argument: str = "ledger"
) -> Database:
    """The database of the ledger: the store's own object where both are one, so that both work in one transaction.

    `argument`: by which one the caller was to say where it is.
    """
    if ledger is None:
        if store.database is not None:
            return store.database
        if type(store).capabilities.durable:  # not the store's own, which a server is asked for
            raise ConfigError(
                f"The store {place} keeps no ledger, and two app servers with a ledger each would be two truths. Say where "
                f"it is: {argument}='postgresql://HOST/DATABASE', or {argument}='sqlite:FILE' for one machine "
                f"({LEDGER_FLAGS[argument]})."
            )
        return SqliteDatabase(None)
    where = parse_url(ledger)
    database: Database
    if where.scheme == "sqlite":
        require_no_options(where)
        file = Path(where.path)
        if file.is_dir():
            raise ConfigError(
                f"The ledger is one file, and {file} is a directory. Name a file in it: sqlite:{file / 'ledger.db'}"
            )
        require_no_file(file.parent, "The ledger")
        file.parent.mkdir(parents=True, exist_ok=True)
        database = SqliteDatabase(file, busy_timeout=busy_timeout)
    elif where.scheme in ("postgresql", "postgres", "pgvector"):
        from shelflist.postgres import database_from_url

        database = database_from_url(where, busy_timeout=busy_timeout)
    else:
        raise ConfigError(f"The ledger {where} is not known. Use sqlite:FILE or postgresql://HOST/DATABASE.")
    shared = store.database
    if shared is not None and shared.dialect == database.dialect and shared.identity == database.identity:
        database.close()
        return shared
    return database


def is_new_file(ledger: str | None) -> bool:
    """Whether the ledger is a file that is yet to be made."""
    where = None if ledger is None else parse_url(ledger)
    return where is not None and where.scheme == "sqlite" and not Path(where.path).exists()


def ledger_place(place: StoreUrl, ledger: str | None) -> str:
    """Where the ledger is, for people to read."""
    return str(place) if ledger is None else redact(ledger)


def _exists(place: StoreUrl, ledger: str | None) -> bool:
    """Whether there can be a collection; only what is asked of the file system, servers are asked when they are opened."""
    if place.scheme == "file":
        require_no_file(Path(place.path), "The index")
    if is_new_file(ledger):
        return False
    return place.scheme != "file" or (Path(place.path) / INDEX_DATABASE).exists()


def _not_found(name: str, place: StoreUrl, ledger: str | None, names: Sequence[str] = ()) -> str:
    there = f" There is: {', '.join(names)}." if names else ""
    return f"No collection {name!r} at {place}.{there} Make it with: {typed(['shelflist init'], name, place, ledger)}"


def check_unmarked(store: Store, place: StoreUrl, ledger: str | None, name: str) -> None:
    """MarkerMismatch if the store's collection has a ledger, while this one is a file that is yet to be made."""
    marker = store.read_marker(name)
    if marker is not None and is_new_file(ledger):  # still: somebody else may be making both
        raise _of_another_ledger(place, name, marker, f"{ledger_place(place, ledger)} is not there yet")


def _of_another_ledger(place: StoreUrl, name: str, marker: str, this: str, argument: str = "ledger") -> MarkerMismatch:
    return MarkerMismatch(
        f"The collection {name!r} in the store {place} belongs to another ledger ({marker}); {this}. Open it with the ledger "
        f"it was made with ({argument}=…, {LEDGER_FLAGS[argument]})."
    )


def check_marker(
    store: Store, ledger: Ledger, place: StoreUrl, where: str, name: str, *, known: bool, argument: str = "ledger"
) -> None:
    """MarkerMismatch unless the store's collection is this ledger's, which is at `where`."""
    marker = store.read_marker(name)
    if marker == ledger.ledger_id or (marker is None and not known):
        return
    if marker is not None:
        raise _of_another_ledger(place, name, marker, f"this one, {where}, is {ledger.ledger_id}", argument)
    if not store.capabilities.durable:
        raise MarkerMismatch(
            f"The ledger knows the collection {name!r}, and the store {place} has nothing of it: it does not outlive its "
            "process. Use a file: store, or a ledger in memory (leave ledger= out)."
        )
    raise MarkerMismatch(
        f"The ledger knows the collection {name!r}, and the store {place} has nothing of it: it is another store, or was "
        "emptied. Check the URL. If it was emptied, fill it again from the ledger: shelflist repair --emptied"
    )


def _embedder(wanted: Wanted, record: CollectionRecord | None) -> Embedder | None:
    spec = wanted.embedder
    if spec is UNSET:
        if record is not None:
            return None if record.embedder is None else resolve_embedder(record.embedder)
        if wanted.fingerprint is not None:
            return None
        spec = "static"
    return None if spec is None else resolve_embedder(spec)


def _create(ledger: Ledger, store: Store, name: str, wanted: Wanted, embedder: Embedder | None) -> CollectionRecord:
    settings = _settings(store, wanted, embedder)
    with ledger.database.write():
        ledger.catalog.take_turns(name)
        record = ledger.catalog.find(name)
        if record is not None:  # somebody else made it between our look and our write
            return record
        record = ledger.catalog.create(name, **settings)
        store.create(generation_spec(record))
        store.write_marker(name, ledger.ledger_id)
    return record


def _settings(store: Store, wanted: Wanted, embedder: Embedder | None) -> dict[str, Any]:
    """What a new collection is made with; ConfigError, EmbedderMismatch or UnsupportedIndex if there cannot be one."""
    if embedder is None:
        if not wanted.fingerprint or wanted.dimensions is None:
            raise ConfigError(
                "A collection of given vectors (embedder=None, --embedder none) declares its vector space: give fingerprint= and "
                "dimensions= (--fingerprint 'MODEL NAME' --dimensions N)."
            )
        fingerprint, given = wanted.fingerprint, wanted.dimensions
    else:
        fingerprint, given = embedder.fingerprint, embedder.dimensions
        _refuse_other_space(wanted, fingerprint, given)
    dimensions = whole(given)
    if dimensions is None or dimensions < 1:
        raise ConfigError(f"dimensions={given!r} is not a positive int.")
    recall = DEFAULT_TARGET_RECALL if wanted.target_recall is None else wanted.target_recall
    if not isinstance(recall, (int, float)) or not 0 < recall <= 1:
        raise ConfigError(f"target_recall={recall!r} is not a share between 0 and 1.")
    tenancy, metric = wanted.tenancy or "none", wanted.metric or "cosine"
    if tenancy not in ("none", "required"):
        raise ConfigError(f"tenancy={tenancy!r} is not known. Use 'none' or 'required'.")
    store.capabilities.require_index(wanted.index, metric, dimensions)
    return {
        "tenancy": tenancy,
        "fields": Fields(wanted.fields),
        "target_recall": recall,
        "embedder": None if embedder is None else embedder.spec,
        "fingerprint": fingerprint,
        "dimensions": dimensions,
        "metric": metric,
        "index": wanted.index,
    }


def _refuse_other_space(wanted: Wanted, fingerprint: str, dimensions: int) -> None:
    if wanted.fingerprint not in (None, fingerprint) or wanted.dimensions not in (None, dimensions):
        raise EmbedderMismatch(
            f"The embedder makes {fingerprint} with {dimensions} dimensions, not {wanted.fingerprint or fingerprint} with "
            f"{wanted.dimensions or dimensions}. Leave both out, or give the vectors yourself: embedder=None "
            "(--embedder none)."
        )
