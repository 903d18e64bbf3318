"""Every error that Shelflist raises.

    ShelflistError
    ├── ConfigError            UnknownStore  MissingDependency  CollectionNotFound  CollectionMismatch
    ├── InvalidInput           EmptyText  InvalidVector  DimensionMismatch  ChunkTooLarge
    │                          UnreadableSource
    ├── FieldError             UnknownField  WrongFieldType
    ├── FilterError            InvalidFilter  FilterTooBroad
    ├── Unsupported            UnsupportedIndex  UnsupportedFilter  UnsupportedOperation
    ├── EmbedderError          EmbedderMismatch  EmbedderUnavailable
    ├── TenantRequired  TenantForbidden
    ├── SourceConflict  RemovalRefused  CopyDiffers
    ├── StoreError             StoreUnavailable  StoreTimeout  StoreDenied  StoreReadOnly  StoreFull  StoreDamaged
    │                          CacheDamaged  StoreMismatch  StoreTooNew  MarkerMismatch
    └── LedgerError            LedgerTooNew  LedgerBusy  SearchUnsettled

Every message says what is wrong, why, and what to do next. `Transient` marks errors that a retry may cure;
everything else is final until somebody changes something.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shelflist.core.types import SyncReport


class ShelflistError(Exception):
    """Base of every error that Shelflist raises on purpose.

    `report`: of a sync that ended with it, what was done and what failed until then.
    """

    report: SyncReport | None = None


class Transient:
    """Mixed into errors that may go away by themselves: callers with a queue try again later."""


class ConfigError(ShelflistError):
    """The options, URL or environment do not describe something that can be opened."""


class UnknownStore(ConfigError):
    """No store answers to this URL scheme."""


class MissingDependency(ConfigError):
    """An optional package is not installed; the message is the command that installs it."""

    @classmethod
    def for_extra(cls, package: str, extra: str, purpose: str) -> MissingDependency:
        return cls(f"{purpose} needs the package {package!r}. Install it with: pip install 'shelflist[{extra}]'")


class CollectionNotFound(ConfigError):
    """No collection of this name exists at this place."""


class CollectionMismatch(ConfigError):
    """The collection exists with other options; every difference is listed."""


class InvalidInput(ShelflistError, ValueError):
    """A document, chunk, vector or option cannot be accepted as it is."""


class EmptyText(InvalidInput):
    """A chunk has no text."""


class InvalidVector(InvalidInput):
    """A vector holds NaN, infinity, only zeros, or is not one row of numbers."""


class DimensionMismatch(InvalidVector):
    """A vector has another number of dimensions than the collection."""


class ChunkTooLarge(InvalidInput):
    """A chunk's text is longer than the limit."""


class UnreadableSource(InvalidInput):
    """A file or stream of documents cannot be read or parsed."""


class FieldError(ShelflistError, ValueError):
    """Metadata and declared fields disagree."""


class UnknownField(FieldError):
    """A filter names a field that the collection does not declare."""

    @classmethod
    def named(cls, name: str, known: Iterable[str]) -> UnknownField:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        declared = ", ".join(known) if known else "none"
        return cls(
            f"Unknown field {name!r}.{hint} Declared fields: {declared}. "
            f"{'A new one is declared' if near else 'Declare it'} with: shelflist fields add {name} TYPE"
        )


class WrongFieldType(FieldError):
    """A metadata value does not have its field's declared type."""


class FilterError(ShelflistError, ValueError):
    """A filter cannot be understood or cannot be run."""


class InvalidFilter(FilterError):
    """A filter is malformed, or compares a field with a value of another type."""


class FilterTooBroad(FilterError):
    """A filter that the store cannot run itself matches more ids than may be sent to it."""


class Unsupported(ShelflistError):
    """The store does not claim this capability."""


class UnsupportedIndex(Unsupported):
    """The store has no vector index of this kind or metric."""


class UnsupportedFilter(Unsupported):
    """The store has no such filter operator."""


class UnsupportedOperation(Unsupported):
    """The store has no such operation."""


class EmbedderError(ShelflistError):
    """An embedder failed, or returned something that is not one vector per text."""


class EmbedderMismatch(EmbedderError):
    """Two vector spaces would be mixed; both fingerprints are named."""


class EmbedderUnavailable(EmbedderError, Transient):
    """The endpoint did not answer, or asks to wait; every retry was used."""


class TenantRequired(ShelflistError):
    """A tenanted collection is used without a tenant."""


class TenantForbidden(ShelflistError):
    """A collection has no tenants, or is bound to one and asked for another, or for what is of all of them."""


class SourceConflict(ShelflistError):
    """A document belongs to another source."""


class RemovalRefused(ShelflistError):
    """A pass would delete more of the collection than is allowed without saying so."""


class CopyDiffers(ShelflistError):
    """A copied collection is not what its original is; every kind of difference is named."""


class StoreError(ShelflistError):
    """The store failed."""


class StoreUnavailable(StoreError, Transient):
    """The store cannot be reached now."""


class StoreTimeout(StoreError, Transient):
    """The store did not answer in the time that `timeout=` allows."""


class StoreDenied(StoreError):
    """The store refuses the user, the password or the API key."""


class StoreMismatch(StoreError):
    """The place of a generation in the store was made with another dimension, metric or shape."""


class StoreTooNew(StoreError):
    """The store was written by a newer version of Shelflist."""


class StoreReadOnly(StoreError):
    """The place of the index cannot be written."""


class StoreFull(StoreError):
    """No space is left for the index; what was acknowledged is kept."""


class StoreDamaged(StoreError):
    """Stored bytes are not what was written."""


class CacheDamaged(StoreError):
    """A rebuildable cache of the store is missing or damaged; `Store.repair` rebuilds it."""


class MarkerMismatch(StoreError):
    """The store belongs to another ledger."""


class LedgerError(ShelflistError):
    """The ledger failed."""


class LedgerTooNew(LedgerError):
    """The ledger was written by a newer version of Shelflist."""


class SearchUnsettled(LedgerError, Transient):
    """Documents changed under every try of a search, so that no answer is of one moment."""


class LedgerBusy(LedgerError, Transient):
    """Another writer has held the ledger for longer than the time-out."""
