"""What a source is: a named stream that says of every document whether it is new, known, or not readable.

Only what is in none of the three may ever be removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from shelflist.core.types import Document


@dataclass(frozen=True, slots=True)
class Unchanged:
    """A document whose source bytes are those of the last sync."""

    document_id: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A document that is there and cannot be read: it counts as present. `error` says why and what to do.

    With `prefix=True`, `document_id` is how the ids of all that may be there begin (below an unlistable folder).
    """

    document_id: str
    error: str
    prefix: bool = False


Item = Document | Unchanged | Unreadable


class KnownDigests(Protocol):
    """The source digest of each document of the last sync; any mapping will do."""

    def get(self, document_id: str, /) -> bytes | None: ...


NOTHING_KNOWN: KnownDigests = MappingProxyType[str, bytes]({})
"""For a first pass."""


@runtime_checkable
class Source(Protocol):
    """A named stream of documents. One pass yields every document that the source has, each once."""

    @property
    def name(self) -> str:
        """Documents belong to the source of this name: another name never removes them."""
        ...

    def documents(self, known: KnownDigests) -> Iterator[Item]:
        """One pass. Raises UnreadableSource where the source as a whole cannot be read."""
        ...

    def total(self) -> int | None:
        """Number of documents of a pass, for progress; None: not known."""
        ...


@runtime_checkable
class FileSource(Source, Protocol):
    """A source that reads files of documents, and tells what its last pass did with them."""

    @property
    def parsed(self) -> int:
        """How many files were parsed: the others were as they had been at the last sync, or could not be read."""
        ...

    @property
    def skipped(self) -> Sequence[str]:
        """Paths of files that were passed over, as they are of a kind that is not read."""
        ...
