"""BM25 over numbered rows, by tantivy. A cache: whoever owns the rows can build it again.

The index may hold rows that its owner has deleted, or has not committed: the owner checks every row that comes back.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import tempfile
import threading
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shelflist.core.locks import ProcessLock
from shelflist.core.types import Vector
from shelflist.engine.exact import Positions

if TYPE_CHECKING:
    import tantivy

_ANALYZER = "shelflist_en"
_MAX_TERMS = 1024
_SMALL_BATCH = 2_000
_MOST_STEMS = 200_000
_HEAP_SMALL = 15_000_000
_HEAP_LARGE = 200_000_000
_SEGMENT_PARTS = ("fast", "fieldnorm", "idx", "pos", "store", "term")
_FOOTER_MAGIC = 1337
_BLOCK = 1 << 20
_LITTLE_SPACE = 16_000_000


class KeywordIndexDamaged(Exception):
    """The files of the index cannot be used."""


class KeywordRow(NamedTuple):
    row: int
    text: str
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class KeywordHits:
    """Rows int64 and BM25 scores float32, best first; `exhausted` when no further row shares a term."""

    rows: Positions
    scores: Vector
    exhausted: bool


class KeywordIndex:
    """An index in a directory, or in memory with `path=None`. Safe for many readers and, under a lock of its owner, one writer."""

    def __init__(self, path: Path | None, *, create: bool = False) -> None:
        """Raises KeywordIndexDamaged; OSError with ENOSPC or EACCES where the directory cannot be written or read."""
        self.path = path
        self._schema = _schema()
        self._analyzer = _analyzer()
        self._analysing = threading.Lock()  # one text at a time: a second thread would get an error, not wait
        self._swapping = threading.RLock()  # the searcher only ever moves on to a newer commit
        self._sound: set[str] = set()
        with _damage_named(path):
            if path is not None and create:
                shutil.rmtree(path, ignore_errors=True)
                path.mkdir(parents=True)
                self._open(path)
            elif path is not None:
                self._open_written(path)
            else:
                self._open(None)

    def reload(self) -> None:
        """See everything committed until now, by any process."""
        with _damage_named(self.path), self._swapping:
            if self.path is not None:
                self._open_written(self.path)

    def _open(self, place: Path | None) -> None:
        import tantivy

        if place is None:
            index = tantivy.Index(self._schema)
        else:
            index = tantivy.Index(self._schema, path=str(place), reuse=True)
        index.register_tokenizer(_ANALYZER, self._analyzer)
        index.config_reader("manual")
        self._index, self._searcher = index, index.searcher()

    def _open_written(self, path: Path) -> None:
        while True:
            meta = _Meta.read(path)
            self._check()
            try:
                with nullcontext(path) if _is_writable(path) else _linked(path, meta) as place:
                    self._open(place)
            except Exception:
                if _Meta.read(path) == meta:  # else another process has merged segments meanwhile
                    raise
            else:
                self._check()
                return

    def check(self) -> None:
        """Read every file of the index again; raise KeywordIndexDamaged unless all of it is as it was written."""
        self._sound.clear()
        with _damage_named(self.path):
            self._check()

    def _check(self) -> None:
        # tantivy writes a checksum into every segment file and never reads it: what a bad disk does to a file would
        # come out as a panic, or as other answers. A segment is never changed, so each is looked at once.
        while self.path is not None:
            meta = _Meta.read(self.path)
            try:
                for name in meta.files:
                    if name not in self._sound:
                        if not _is_sound(self.path / name):
                            raise KeywordIndexDamaged(f"{self.path / name} is not what was written")
                        self._sound.add(name)
                return
            except FileNotFoundError:
                if _Meta.read(self.path) == meta:  # else another process has merged segments meanwhile
                    raise

    def require(self, stamp: int) -> bool:
        """Raise KeywordIndexDamaged unless the files hold the write with this stamp: an old copy put back does not.

        Returns whether they hold a later one too.
        """
        if self.path is None:
            return False
        with _damage_named(self.path):
            found = _Meta.read(self.path).opstamp
        if found < stamp:
            raise KeywordIndexDamaged(f"{self.path} is older than its rows")
        return found > stamp

    @property
    def rows(self) -> int:
        return self._searcher.num_docs

    def rows_up_to(self, last: int) -> int:
        """How many rows numbered up to `last` are here; rows above it are leftovers of a write that was rolled back."""
        import tantivy

        with _damage_named(self.path):
            below = tantivy.Query.range_query(self._schema, "row", tantivy.FieldType.Unsigned, 0, last, True, True)
            return int(self._searcher.search(below, 1, count=True).count)  # type: ignore[attr-defined]

    def write(
        self,
        rows: Sequence[KeywordRow],
        *,
        deleted: Iterable[int] = (),
        expected: int | None = None,
        above: int | None = None,
    ) -> int:
        """Delete and add rows in one commit; returns the commit's stamp.

        With `expected` (the stamp of the last write that the owner committed) and another stamp found, rows above
        `above` are leftovers of a write that the owner rolled back: they go first.
        """
        import tantivy

        with _damage_named(self.path):
            small = len(rows) < _SMALL_BATCH
            writer = self._index.writer(_HEAP_SMALL if small else _HEAP_LARGE, 1 if small else 2)
            try:
                if expected is not None and above is not None:
                    if writer.commit_opstamp < expected:
                        raise KeywordIndexDamaged(f"{self.path} is older than its rows")
                    if writer.commit_opstamp != expected:
                        leftovers = tantivy.Query.range_query(
                            self._schema, "row", tantivy.FieldType.Unsigned, above + 1, 2**63, True, False
                        )
                        writer.delete_documents_by_query(leftovers)
                gone = list(deleted)
                if gone:  # by query: deleting by term passes over unsigned fields in silence
                    writer.delete_documents_by_query(tantivy.Query.term_set_query(self._schema, "row", gone))
                for item in rows:
                    document = tantivy.Document()
                    document.add_unsigned("row", item.row)
                    document.add_text("text", item.text)
                    if item.tenant is not None:
                        document.add_text("tenant", item.tenant)
                    writer.add_document(document)
                stamp = writer.commit()
            except BaseException:
                writer.rollback()
                raise
            finally:
                writer.wait_merging_threads()
            if self.path is not None:
                _share(self.path)
            with self._swapping:
                self._index.reload()
                self._searcher = self._index.searcher()
            return int(stamp)

    def search(self, text: str, limit: int, tenant: str | None = None) -> KeywordHits:
        """Rows that share a term with the text, by BM25 (k1=1.2, b=.75), best first, ties by row."""
        import tantivy

        with _damage_named(self.path):
            searcher = self._searcher
            with self._analysing:
                terms = Counter(self._analyzer.analyze(text))
            limit = min(limit, searcher.num_docs)
            if not terms or limit < 1:
                return KeywordHits(np.empty(0, np.int64), np.empty(0, np.float32), exhausted=True)
            clauses: list[tuple[tantivy.Occur, tantivy.Query]] = []
            for term, repeated in terms.most_common(_MAX_TERMS):
                query = tantivy.Query.term_query(self._schema, "text", term)
                clauses.append(
                    (tantivy.Occur.Should, tantivy.Query.boost_query(query, repeated) if repeated > 1 else query)
                )
            wanted = tantivy.Query.boolean_query(clauses)
            if tenant is not None:
                own = tantivy.Query.term_query(self._schema, "tenant", tenant)
                own = tantivy.Query.boost_query(tantivy.Query.const_score_query(own, 1.0), 0.0)
                wanted = tantivy.Query.boolean_query([(tantivy.Occur.Must, own), (tantivy.Occur.Must, wanted)])
            hits = searcher.search(wanted, limit, count=False).hits
            numbers = searcher.fast_field_values("row", [address for _, address in hits])
            if None in numbers:
                raise KeywordIndexDamaged(f"{self.path} holds documents without a row")
            rows = np.array(numbers, dtype=np.int64)
            scores = np.array([value for value, _ in hits], dtype=np.float32)
        order = np.lexsort((rows, -scores))
        return KeywordHits(rows[order], scores[order], exhausted=len(hits) < limit or limit == searcher.num_docs)


@dataclass(frozen=True, slots=True)
class _Meta:
    """What tantivy's meta.json says: the stamp of the last commit, and the files that it stands on."""

    opstamp: int
    files: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> _Meta:
        try:
            meta = json.loads((path / "meta.json").read_bytes())
            files: list[str] = []
            for segment in meta["segments"]:
                stem = segment["segment_id"].replace("-", "")
                files += [f"{stem}.{part}" for part in _SEGMENT_PARTS]
                if segment["deletes"] is not None:
                    files.append(f"{stem}.{segment['deletes']['opstamp']}.del")
            return cls(int(meta["opstamp"]), tuple(files))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise KeywordIndexDamaged(f"{path / 'meta.json'}: {error}") from error


def _is_sound(file: Path) -> bool:
    """Whether a segment file has the CRC-32 that its footer names: JSON, the JSON's length, a magic number."""
    with file.open("rb") as stream:
        size = stream.seek(0, 2)
        if size < 8:
            return False
        stream.seek(size - 8)
        length, magic = struct.unpack("<II", stream.read(8))
        left = size - 8 - length
        if magic != _FOOTER_MAGIC or left < 0:
            return False
        stream.seek(left)
        wanted = json.loads(stream.read(length)).get("crc")
        stream.seek(0)
        found = 0
        while left > 0:
            block = stream.read(min(left, _BLOCK))
            if not block:
                return False
            found = zlib.crc32(block, found)
            left -= len(block)
    return bool(wanted == found)


def _schema() -> tantivy.Schema:
    import tantivy

    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("row", indexed=True, fast=True)
    builder.add_text_field("tenant", tokenizer_name="raw", index_option="basic")
    builder.add_text_field("text", tokenizer_name=_ANALYZER, index_option="freq")
    return builder.build()


def _analyzer() -> tantivy.TextAnalyzer:
    """The steps of tantivy's own English analyser, built here so that queries can be analysed without a query syntax."""
    import tantivy

    return _words_of().filter(tantivy.Filter.stemmer("english")).build()


def _words_of() -> tantivy.TextAnalyzerBuilder:
    import tantivy

    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    return builder.filter(tantivy.Filter.remove_long(40)).filter(tantivy.Filter.lowercase())


class _Stems(dict[str, str]):
    """Stems of words. Texts repeat their words, and a stem takes ten times as long to make as to look up."""

    def __init__(self) -> None:
        import tantivy

        self._stemmer = (
            tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.raw()).filter(tantivy.Filter.stemmer("english")).build()
        )

    def __missing__(self, word: str) -> str:
        (stem,) = self._stemmer.analyze(word)
        if len(self) >= _MOST_STEMS:
            self.clear()
        self[word] = stem
        return stem


class Analyzer:
    """Text as the terms that the keyword index knows it by: for stores that bring a keyword leg and no such analyser."""

    def __init__(self) -> None:
        self._words, self._stems = _words_of().build(), _Stems()
        self._lock = ProcessLock()
        self._pid = os.getpid()

    def terms(self, text: str) -> list[str]:
        """Lower-case stems in the order of the text, repeated as often as they stand in it."""
        with self._lock:
            if self._pid != os.getpid():  # a thread of the parent may have been in the middle of a text
                self._words, self._stems, self._pid = _words_of().build(), _Stems(), os.getpid()
            stems = self._stems
            return [stems[word] for word in self._words.analyze(text)]


def _is_writable(path: Path) -> bool:
    lock = path / ".tantivy-meta.lock"
    return os.access(path, os.W_OK) and (not lock.exists() or os.access(lock, os.W_OK))


def _share(path: Path) -> None:
    """Let those read meta.json who may read the rest: tantivy makes it for its writer's eyes only."""
    mode = (path / ".tantivy-writer.lock").stat().st_mode & 0o777
    for name in ("meta.json", ".managed.json"):
        (path / name).chmod(mode)


@contextmanager
def _linked(path: Path, meta: _Meta) -> Iterator[Path]:
    """Another directory with the same files: tantivy makes a lock file even to read, which this one does not allow."""
    with tempfile.TemporaryDirectory(prefix="shelflist-") as folder:
        place = Path(folder)
        shutil.copyfile(path / "meta.json", place / "meta.json")
        for name in meta.files:
            try:
                (place / name).symlink_to((path / name).resolve())
            except (OSError, NotImplementedError):  # not everybody may make links on every system
                shutil.copyfile(path / name, place / name)
        yield place


def _system_error(error: Exception, path: Path | None) -> int | None:
    """The errno behind an error of tantivy's, if it says that the files are sound and the system refuses."""
    text = str(error)
    if "No space left" in text:
        return errno.ENOSPC
    if "Permission denied" in text or "PermissionDenied" in text or "Read-only file system" in text:
        return errno.EACCES
    if "writer was killed" in text and path is not None and shutil.disk_usage(path).free < _LITTLE_SPACE:
        return errno.ENOSPC
    return None


@contextmanager
def _damage_named(path: Path | None) -> Iterator[None]:
    # tantivy reports damaged files as ValueError or OSError, or panics (which is no Exception in Python).
    try:
        yield
    except (KeywordIndexDamaged, UnicodeEncodeError):  # the latter: the fault of the text, not of the files
        raise
    except (ValueError, KeyError, OSError) as error:
        number = _system_error(error, path)
        if number is None:
            raise KeywordIndexDamaged(f"{path}: {error}") from error
        raise OSError(number, os.strerror(number), str(path)) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise KeywordIndexDamaged(f"{path}: {error}") from error
