"""Which files below a folder are documents: known suffixes, skipped folders, globs, symbolic links."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from shelflist.config import INDEX_DATABASE, INDEX_KEYWORDS, INDEX_VECTORS
from shelflist.core.errors import InvalidInput

_CODE = """
    .py .pyi .js .mjs .cjs .jsx .ts .tsx .java .kt .kts .scala .groovy .go .rs .c .h .cc .cpp .cxx .hpp .hh .cs .fs
    .vb .rb .php .pl .pm .lua .r .jl .swift .m .mm .dart .ex .exs .erl .hs .ml .mli .clj .cljs .lisp .el .sh .bash .zsh
    .fish .ps1 .sql .css .scss .vue .svelte .proto .graphql .tf .nix .zig .nim .f90 .asm
"""

SUFFIXES: dict[str, str] = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".rst": "rst",
    ".txt": "text",
    ".text": "text",
} | dict.fromkeys(_CODE.split(), "code")
"""Format of each known suffix, in lower case."""

_JUNK = frozenset(("node_modules", "bower_components", "__pycache__", "site-packages", "__MACOSX", "CVS"))
"""Folders of other people's files; names that begin with a dot are skipped anyway."""

_OWN = frozenset((INDEX_KEYWORDS, INDEX_VECTORS, *(INDEX_DATABASE + end for end in ("", "-wal", "-shm", "-journal"))))
"""What an index of Shelflist consists of. Only these names are passed over: documents may stand beside an index."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A document file, or, with `error`, a file or folder that cannot be reached. `relative` has slashes."""

    path: Path
    relative: str
    error: str | None = None
    is_folder: bool = False


def format_of(path: Path) -> str:
    """The format that a file's suffix stands for; plain text where it is not known."""
    return SUFFIXES.get(path.suffix.lower(), "text")


def walk(
    root: Path,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    skipped: list[str] | None = None,
    hidden: list[str] | None = None,
) -> Iterator[Entry]:
    """The documents below a folder, in sorted order. What an unlistable folder may hold is one entry with an error.

    `skipped` takes the files that nobody left out by name, and whose suffix is not known; `hidden` what is passed over
    by its name.
    """
    return _Walk(root, include, exclude, [] if skipped is None else skipped, [] if hidden is None else hidden).entries(
        root, ""
    )


class _Walk:
    def __init__(
        self, root: Path, include: Sequence[str], exclude: Sequence[str], skipped: list[str], hidden: list[str]
    ) -> None:
        self._skipped_files = skipped
        self._hidden = hidden
        self._root = Path(os.path.realpath(root))
        self._include = include
        self._exclude = exclude
        self._followed: set[str] = set()

    def entries(self, folder: Path, relative: str) -> Iterator[Entry]:
        try:
            with os.scandir(folder) as listing:
                found = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            reason = f"{folder}: {error.strerror or error}. Make the folder readable, then sync again."
            yield Entry(folder, f"{_printable(relative)}/" if relative else "", reason, is_folder=True)
            return
        own = _OWN if any(entry.name == INDEX_DATABASE for entry in found) else frozenset()
        for entry in found:
            if entry.name in own:
                continue
            below = f"{relative}/{entry.name}" if relative else entry.name
            if _skipped(entry.name):
                self._hidden.append(_printable(below))
                continue
            if any(matches(pattern, below) for pattern in self._exclude):
                continue
            yield from self._entry(entry, Path(entry.path), below)

    def _entry(self, entry: os.DirEntry[str], path: Path, below: str) -> Iterator[Entry]:
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError as error:
            if error.errno != errno.ELOOP:
                reason = f"{path}: {error.strerror or error}. Exclude it, or make it readable."
                yield Entry(path, _printable(below), reason, is_folder=True)
            return
        if is_folder:
            if not (entry.is_symlink() and self._walked_elsewhere(path)) and not os.path.exists(path / "pyvenv.cfg"):
                yield from self.entries(path, below)
        elif not is_file:
            # A dangling link without a suffix may be a folder that is not mounted now: what it held is not gone.
            if entry.is_symlink() and not os.path.exists(path) and (self._wanted(below) or not path.suffix):
                reason = f"{path} is a link to something that is not there. Mend it, or remove it."
                yield Entry(path, _printable(below), reason, is_folder=not path.suffix)
        elif self._wanted(below):
            if below != _printable(below):
                yield Entry(path, _printable(below), f"The name of the file {below!a} is not valid UTF-8. Rename it.")
            else:
                yield Entry(path, below)
        elif not self._include:
            self._skipped_files.append(_printable(below))

    def _wanted(self, below: str) -> bool:
        suffix = os.path.splitext(below)[1].lower()
        known = suffix in SUFFIXES
        if not self._include:
            return known
        parts = below.split("/")
        paths = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        admitting = [pattern for pattern in self._include if any(matches(pattern, path) for path in paths)]
        spelled_out = any(suffix and pattern.lower().endswith(suffix) for pattern in admitting)
        return bool(admitting) and (known or spelled_out)

    def _walked_elsewhere(self, link: Path) -> bool:
        """Whether a linked folder is walked under its own path, or was followed before, or holds the root itself."""
        target = Path(os.path.realpath(link))
        if self._root.is_relative_to(target):
            return True
        if target.is_relative_to(self._root):
            inner = target.relative_to(self._root)
            paths = ["/".join(inner.parts[: count + 1]) for count in range(len(inner.parts))]
            left_out = any(_skipped(part) for part in inner.parts) or any(
                matches(pattern, path) for pattern in self._exclude for path in paths
            )
            if not left_out:
                return True
        if str(target) in self._followed:
            return True
        self._followed.add(str(target))
        return False


def _skipped(name: str) -> bool:
    return name.startswith(".") or name in _JUNK


def _printable(name: str) -> str:
    """The name as valid text: bytes that are not UTF-8 become the replacement character."""
    return os.fsencode(name).decode("utf-8", "replace")


def matches(pattern: str, path: str) -> bool:
    """Whether a glob matches a relative path. Without a slash it is about the name, at any depth.

    A final slash is ignored. A pattern that is no glob (`[z-a]`) raises InvalidInput.
    """
    pattern = pattern.removeprefix("./").rstrip("/")
    subject = path if "/" in pattern else path.rpartition("/")[2]
    return _expression(pattern.removeprefix("/")).fullmatch(subject) is not None


@lru_cache(maxsize=512)
def _expression(pattern: str) -> re.Pattern[str]:
    parts: list[str] = []
    for piece in re.findall(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|.", pattern, re.DOTALL):
        if piece == "**/":
            parts.append("(?:[^/]+/)*")
        elif piece == "**":
            parts.append(".*")
        elif piece == "*":
            parts.append("[^/]*")
        elif piece == "?":
            parts.append("[^/]")
        elif len(piece) > 1:
            inside = piece[1:-1].replace("\\", "\\\\").replace("[", "\\[")
            parts.append(f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside}]")
        else:
            parts.append(re.escape(piece))
    try:
        return re.compile("".join(parts))
    except re.error as error:
        raise InvalidInput(f"{pattern!r} is not a glob: {error}. Write it with * ** ? and [abc].") from None
