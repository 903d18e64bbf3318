"""`shelflist.copy`: a collection into another store, with its vectors, ids and revisions."""

from __future__ import annotations

from shelflist.config import StoreUrl, parse_url, redact
from shelflist.core.errors import CollectionMismatch, CollectionNotFound, ConfigError, UnsupportedIndex
from shelflist.core.fields import Fields
from shelflist.core.index_text import given_index
from shelflist.core.transaction import Database
from shelflist.core.types import IndexSpec, ProgressListener
from shelflist.indexing.copy import Copier, CopyReport
from shelflist.ledger.catalog import CollectionRecord
from shelflist.ledger.ledger import Ledger
from shelflist.opening import (
    Opened,
    check_marker,
    collection_names,
    generation_spec,
    is_new_file,
    ledger_database,
    ledger_place,
    open_parts,
)
from shelflist.searching.request import require_whole
from shelflist.stores.protocol import Store
from shelflist.stores.registry import open_store, require_client, require_scheme
from shelflist.wanted import Wanted


def copy(
    source: str,
    destination: str,
    collection: str,
    *,
    to: str | None = None,
    ledger: str | None = None,
    to_ledger: str | None = None,
    index: IndexSpec | str | None = None,
    sample: int = 200,
    progress: ProgressListener | None = None,
    busy_timeout: float = 30.0,
) -> CopyReport:
    """Copy a collection from the store at `source` into the store at `destination`, and compare the two.

    Nothing is embedded. The copy has the original's chunk ids, fields, tenants and revisions, and is called `to` (by
    default the same). Interrupted, run it again: it goes on; run it later, it catches up with what has changed since.
    `ledger`, `to_ledger`: where each side's ledger is, if not in its store. `index`: another one than the original's.
    `sample`: how many vectors are compared at the end.

    CollectionMismatch if another collection is in the way; CopyDiffers, naming what, if the copy is not the original.
    """
    original = open_original(source, collection, ledger=ledger, busy_timeout=busy_timeout)
    try:
        return copy_opened(
            original,
            destination,
            to=to,
            ledger=to_ledger,
            index=given_index(index),
            sample=sample,
            progress=progress,
            busy_timeout=busy_timeout,
        )
    finally:
        original.close()


def copy_opened(
    original: Opened,
    destination: str,
    *,
    to: str | None,
    ledger: str | None,
    index: IndexSpec | None,
    sample: int,
    progress: ProgressListener | None,
    busy_timeout: float,
) -> CopyReport:
    sample = require_whole("sample", sample, least=0)
    if parse_url(destination).scheme == "memory":
        raise ConfigError("memory: ends with the process, so nobody would find the copy. Copy to file:DIRECTORY.")
    twin = open_twin(
        destination, to or original.record.name, original, ledger=ledger, index=index, busy_timeout=busy_timeout
    )
    try:
        report = Copier(original.generation, twin.generation, sample=sample, progress=progress).run()
    finally:
        twin.close()
    report.source, report.destination = redact(original.url), redact(destination)
    wanted = index or original.record.index
    if twin.record.index != wanted:
        report.warnings.append(
            f"The {twin.store.capabilities.store} store has not the index {wanted}; the copy has "
            f"{twin.record.index or 'the best that the store has'}."
        )
    return report


def open_original(url: str, name: str, *, ledger: str | None, busy_timeout: float) -> Opened:
    """An existing collection, to be copied: its embedder is not needed, nor the embedder's package or key."""
    try:
        return open_parts(
            url, name, Wanted(), ledger=ledger, create=False, busy_timeout=busy_timeout, load_embedder=False
        )
    except CollectionNotFound:
        names, place = collection_names(url, ledger), parse_url(url)
        if names:
            raise CollectionNotFound(
                f"There is no collection {name!r} to copy at {place}. Name one that is there (--collection): "
                f"{', '.join(names)}"
            ) from None
        its_ledger = "" if ledger is None else f" with the ledger {redact(ledger)}"
        raise CollectionNotFound(
            f"There is no index at {place}{its_ledger}, so nothing can be copied from there. Check where the source is: "
            "it is the url that its shelflist.toml names."
        ) from None


def open_twin(
    url: str, name: str, original: Opened, *, ledger: str | None, index: IndexSpec | None, busy_timeout: float
) -> Opened:
    """The place of a copy: a new collection with the uid and the settings of `original`, or one that a copy began.

    CollectionMismatch if anything else is there. `index`: instead of the original's; if the store has not the original's
    kind of index, its best takes its place.
    """
    place = parse_url(url)
    require_scheme(place)
    require_client(place)
    store = open_store(place, busy_timeout)
    database: Database | None = None
    try:
        if is_new_file(ledger):
            store.read_marker(name)  # a ledger that was made for a store that does not answer would be left behind
        database = ledger_database(place, store, ledger, busy_timeout, argument="to_ledger")
        opened = Ledger(database)
        _refuse_same_place(place, store, opened, original)
        record = opened.catalog.find(name)
        where = ledger_place(place, ledger)
        check_marker(store, opened, place, where, name, known=record is not None, argument="to_ledger")
        if record is None:
            record = _create_twin(opened, store, place, name, original.record, index)
        else:
            _require_twin(record, original.record, place)
        twin = Opened(str(place), where, store, opened, record, None)
        _follow_fields(twin, original)
    except BaseException:
        store.close()
        if database is not None:
            database.close()
        raise
    return twin


def _refuse_same_place(place: StoreUrl, store: Store, ledger: Ledger, original: Opened) -> None:
    name = original.record.name
    if ledger.ledger_id == original.ledger.ledger_id:
        raise CollectionMismatch(
            f"The ledger of the destination {place} is the ledger of {name!r} itself. A copy has the ids of its original, "
            "which one ledger cannot hold twice: give the copy a ledger of its own (to_ledger=, --to-ledger)."
        )
    if store.read_marker(name) == original.ledger.ledger_id:
        raise CollectionMismatch(
            f"The destination {place} is the store that {name!r} is in. A copy has the ids of its original, which one "
            "store cannot hold twice: copy it to another store."
        )


def _create_twin(
    ledger: Ledger, store: Store, place: StoreUrl, name: str, original: CollectionRecord, index: IndexSpec | None
) -> CollectionRecord:
    other = ledger.catalog.named(original.uid)
    if other is not None:
        raise CollectionMismatch(
            f"A copy of {original.name!r} is at {place} already, under the name {other!r}. Go on with it by to={other!r} "
            "(--to); or drop it first."
        )
    try:
        return _made_twin(ledger, store, place, name, original, original.index if index is None else index)
    except UnsupportedIndex:
        if index is not None or original.index is None:
            raise
    # The original's own index is not the store's: its best one is.
    return _made_twin(ledger, store, place, name, original, None)


def _made_twin(
    ledger: Ledger, store: Store, place: StoreUrl, name: str, original: CollectionRecord, index: IndexSpec | None
) -> CollectionRecord:
    store.capabilities.require_index(index, original.metric, original.dimensions)
    with ledger.database.write():
        ledger.catalog.take_turns(name)
        made = ledger.catalog.find(name)
        if made is not None:  # somebody else began the same copy between our look and our write
            _require_twin(made, original, place)
            return made
        record = ledger.catalog.create(
            name,
            tenancy=original.tenancy,
            fields=original.fields,
            target_recall=original.target_recall,
            embedder=original.embedder,
            fingerprint=original.fingerprint,
            dimensions=original.dimensions,
            metric=original.metric,
            index=index,
            uid=original.uid,
        )
        spec = generation_spec(record)
        store.create(spec)
        if next(iter(store.scan(spec)), None) is not None:
            raise CollectionMismatch(
                f"The store {place} holds chunks under {spec.name}, which the ledger of the copy knows nothing of: they "
                "are the original's own, or those of a copy whose ledger is another. Copy to another store, or with that "
                "ledger (to_ledger=, --to-ledger)."
            )
        store.write_marker(name, ledger.ledger_id)
    return record


def _require_twin(record: CollectionRecord, original: CollectionRecord, place: StoreUrl) -> None:
    if record.uid != original.uid:
        raise CollectionMismatch(
            f"At {place} there is a collection {record.name!r} of its own, which is no copy of {original.name!r}. Copy under "
            "another name (to=, --to), or drop it first."
        )
    names = ("fingerprint", "dimensions", "metric", "tenancy")
    different = [
        f"{name}: {getattr(record, name)} there, {getattr(original, name)} in the original"
        for name in names
        if getattr(record, name) != getattr(original, name)
    ]
    if different:
        raise CollectionMismatch(
            f"The copy {record.name!r} at {place} was made of {original.name!r} before that was changed. "
            f"{'; '.join(different)}. Drop the copy and copy again."
        )


def _follow_fields(twin: Opened, original: Opened) -> None:
    """Declare what has been declared in the original since the copy began."""
    theirs, ours = original.record.fields.to_json(), twin.record.fields.to_json()
    if theirs == ours:
        return
    own = [name for name, kind in ours.items() if theirs.get(name) != kind]
    if own:
        raise CollectionMismatch(
            f"The copy {twin.record.name!r} at {twin.url} declares {', '.join(own)} otherwise than {original.record.name!r}. "
            "Declare it there as well (shelflist fields add), or drop the copy and copy again."
        )
    twin.add_fields(Fields(theirs))
