"""The folders and files of this machine as sources of documents."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from shelflist.core.errors import UnreadableSource
from shelflist.core.types import Document
from shelflist.indexing.chunking import Chunker
from shelflist.indexing.protocol import NOTHING_KNOWN, Item, KnownDigests, Source, Unchanged, Unreadable
from shelflist.indexing.walking import SUFFIXES, Entry, format_of, matches, walk

MAX_FILE_BYTES = 50_000_000
"""Largest document file that is read. A larger one is data, not a document."""


_NAMED = 5
_JSONL = (".jsonl", ".ndjson")
_PARQUET = (".parquet", ".pq")


class Folder:
    """The documents below a folder: Markdown, HTML, reStructuredText, plain text and program code, by suffix.

    `document_id` is `prefix` and the path below the folder, with slashes. Hidden files, version control, installed
    packages and caches are skipped; symbolic links are followed without walking anything twice. `include` and `exclude`
    are globs on that path (`*` stays inside a folder, `**` does not; without a slash they match at any depth); an
    `include` that spells out a suffix admits files that are otherwise not known, as plain text.

    A file is parsed only where sha256 of its bytes and of the chunker differs from the known one. A file or folder that
    cannot be read is yielded as `Unreadable`. `parsed` is the number of files that the last pass parsed, `skipped` are those
    of a kind that is not read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        include: str | Iterable[str] | None = None,
        exclude: str | Iterable[str] | None = None,
        prefix: str = "",
        chunker: Chunker | None = None,
        name: str | None = None,
    ) -> None:
        self.path = absolute_path(path)
        self.include = _globs(include)
        self.exclude = _globs(exclude)
        self.prefix = prefix
        self.chunker = chunker or Chunker()
        self.name = name or source_name("folder", self.path)
        self.parsed = 0
        self.skipped: list[str] = []

    def __repr__(self) -> str:
        return f"Folder({str(self.path)!r})"

    def documents(self, known: KnownDigests = NOTHING_KNOWN) -> Iterator[Item]:
        """One pass, in sorted order. A missing folder, or one with no document in it, raises UnreadableSource."""
        self.parsed = 0
        self.skipped = []
        hidden: list[str] = []
        entries = self._entries(self.skipped, hidden)
        first = next(entries, None)
        if first is None:
            raise self._nothing(hidden)
        if first.is_folder and not first.relative:
            raise UnreadableSource(str(first.error))
        return self._items(first, entries, known)

    def _nothing(self, hidden: Sequence[str]) -> UnreadableSource:
        dropping = "to remove everything on purpose use: shelflist drop"
        if hidden and not self.skipped and not self.include and not self.exclude:
            names = ", ".join(hidden[:_NAMED]) + (", …" if len(hidden) > _NAMED else "")
            return UnreadableSource(
                f"Folder {self.path} holds nothing but what is passed over: hidden files and folders, installed packages "
                f"and caches ({names}). Give those that are documents a name without the dot, or name such a folder "
                f"itself as the one to read; {dropping}"
            )
        chosen = "; include and exclude leave none" if self.include or self.exclude else ""
        return UnreadableSource(
            f"Folder {self.path} holds no document ({', '.join(sorted(SUFFIXES)[:8])}, …{chosen}). "
            f"Check the path; {dropping}"
        )

    def total(self) -> int:
        """Number of files that a pass will look at."""
        return sum(1 for entry in self._entries() if not entry.is_folder)

    def _entries(self, skipped: list[str] | None = None, hidden: list[str] | None = None) -> Iterator[Entry]:
        if not os.path.exists(self.path):
            raise UnreadableSource(f"Folder {self.path} does not exist. Check the path.")
        if not os.path.isdir(self.path):
            raise UnreadableSource(f"{self.path} is not a folder. For a single file use open_source(path).")
        return walk(self.path, self.include, self.exclude, skipped, hidden)

    def _items(self, first: Entry, others: Iterator[Entry], known: KnownDigests) -> Iterator[Item]:
        yield self._item(first, known)
        for entry in others:
            yield self._item(entry, known)

    def _item(self, entry: Entry, known: KnownDigests) -> Item:
        document_id = self.prefix + entry.relative
        if entry.error is not None:
            return Unreadable(document_id, entry.error, prefix=entry.is_folder)
        item = read_file(entry.path, document_id, self.chunker, known, entry.relative)
        self.parsed += isinstance(item, Document)
        return item


class File:
    """One document file as a source. `document_id` is `prefix` and the file's name."""

    def __init__(
        self, path: str | os.PathLike[str], *, prefix: str = "", chunker: Chunker | None = None, name: str | None = None
    ) -> None:
        self.path = absolute_path(path)
        self.prefix = prefix
        self.chunker = chunker or Chunker()
        self.name = name or source_name("file", self.path)
        self.parsed = 0
        self.skipped: list[str] = []

    def __repr__(self) -> str:
        return f"File({str(self.path)!r})"

    def documents(self, known: KnownDigests = NOTHING_KNOWN) -> Iterator[Item]:
        """One pass: the document. A missing file raises UnreadableSource."""
        self.parsed = 0
        require_readable(self.path)
        item = read_file(self.path, self.prefix + self.path.name, self.chunker, known, self.path.name)
        self.parsed += isinstance(item, Document)
        return iter((item,))

    def total(self) -> int:
        return 1


def open_source(path: str | os.PathLike[str], **options: Any) -> Source:
    """The source at a path: a folder, a `.jsonl`, `.ndjson` or `.parquet` file of chunks, or one document file.

    `options` go to `Folder`, `Jsonl`, `Parquet` or `File`. A missing path or an unknown suffix
    raises UnreadableSource.
    """
    from shelflist.indexing.tabular import Jsonl, Parquet

    place = absolute_path(path)
    if os.path.isdir(place):
        return Folder(place, **options)
    require_readable(place)
    suffix = place.suffix.lower()
    if suffix in _JSONL:
        return Jsonl(place, **options)
    if suffix in _PARQUET:
        return Parquet(place, **options)
    if suffix and suffix not in SUFFIXES:
        raise UnreadableSource(
            f"{place} has the unknown suffix {suffix!r}. Chunks come as .jsonl or .parquet (unpack a compressed file first), "
            "documents as .md, .html, .rst, .txt or program code. To read it as plain text all the same: "
            f"shelflist sync {place.parent} --include '{place.name}'"
        )
    return File(place, **options)


def require_readable(place: Path) -> None:
    """UnreadableSource unless a folder or a regular file is there: what can be read only once, such as a pipe, is none."""
    if os.path.isdir(place) or os.path.isfile(place):
        return
    if not os.path.exists(place):
        raise UnreadableSource(f"{place} does not exist. Give a folder, a document, a .jsonl or a .parquet file.")
    raise UnreadableSource(
        f"{place} is neither a folder nor a regular file, so it cannot be read as a document or as rows. Give a folder, or "
        "save what comes out of it as a file."
    )


def source_name(kind: str, path: Path) -> str:
    """`kind:path`, relative to the working directory where the path is inside it."""
    try:
        return f"{kind}:{path.relative_to(absolute_path('.')).as_posix()}"
    except ValueError:
        return f"{kind}:{path.as_posix()}"


def read_file(path: Path, document_id: str, chunker: Chunker, known: KnownDigests, source_path: str) -> Item:
    """Read one file and, unless its digest is the known one, parse it."""
    try:
        raw = _read(path)
    except _NotADocument as error:
        return Unreadable(document_id, str(error))
    except OSError as error:
        return Unreadable(document_id, f"{path}: {error.strerror or error}. Make the file readable, then sync again.")
    digest = hashlib.sha256(raw + chunker.digest).digest()
    if known.get(document_id) == digest:
        return Unchanged(document_id)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return Unreadable(
            document_id,
            f"{path} is not valid UTF-8 at byte {error.start} (0x{raw[error.start]:02x}). "
            "Save it as UTF-8, or exclude it.",
        )
    zero = raw.find(b"\0")
    if zero >= 0:
        return Unreadable(document_id, f"{path} is not text: it has a zero byte at byte {zero}. Exclude it.")
    try:
        chunks = chunker.chunks(text, format_of(path), {"source_path": source_path})
    except Exception as error:  # one odd document must not end the pass over all others
        return Unreadable(document_id, f"{path} cannot be parsed ({type(error).__name__}: {error}). Exclude it.")
    return Document(document_id, chunks, source_digest=digest)


class _NotADocument(Exception):
    """The file is not something to read as a document; the text says why."""


def _read(path: Path) -> bytes:
    # A pipe opened without O_NONBLOCK would wait for a writer for ever.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _NotADocument(f"{path} is not a regular file. Exclude it.")
        raw = stream.read(MAX_FILE_BYTES + 1) if status.st_size <= MAX_FILE_BYTES else b""
        if status.st_size > MAX_FILE_BYTES or len(raw) > MAX_FILE_BYTES:
            megabytes = max(status.st_size, len(raw)) / 1e6
            limit = MAX_FILE_BYTES / 1e6
            raise _NotADocument(f"{path} has {megabytes:.0f} MB, the limit is {limit:.0f} MB. Split or exclude it.")
    return raw


def absolute_path(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.abspath(Path(path).expanduser()))


def _globs(patterns: str | Iterable[str] | None) -> tuple[str, ...]:
    if patterns is None:
        return ()
    globs = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    for glob in globs:
        matches(glob, "")  # a pattern that is no glob is refused here, not in the middle of a pass
    return globs
