"""A folder inside another one that is a source of its own: its files have two ids, and so are in the collection twice."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath

from shelflist.ledger.documents import DocumentRecord
from shelflist.ledger.ledger import Ledger

_FOLDER = "folder:"


def nesting_warnings(ledger: Ledger, collection_id: int, tenant: str, source: str) -> list[str]:
    """One for each other source whose folder is inside that of `source` or around it, and shares files with it."""
    if not source.startswith(_FOLDER):
        return []
    others = [one for one in ledger.catalog.sources(collection_id, tenant) if one != source]
    pairs = [pair for other in others for pair in ((source, other), (other, source)) if _below(*pair)]
    if not pairs:
        return []
    present = ledger.documents.present(collection_id, tenant)
    return [said for outer, inner in pairs if (said := _warning(present, outer, inner))]


def _below(outer: str, inner: str) -> str:
    """The path from the outer folder to the inner one; empty if it is not inside."""
    if not (outer.startswith(_FOLDER) and inner.startswith(_FOLDER)):
        return ""
    around, inside = (PurePosixPath(one.removeprefix(_FOLDER)) for one in (outer, inner))
    return inside.relative_to(around).as_posix() if inside != around and inside.is_relative_to(around) else ""


def _warning(present: Sequence[DocumentRecord], outer: str, inner: str) -> str | None:
    below = _below(outer, inner)
    own = [one for one in present if one.source == inner]
    theirs = [one for one in present if one.source == outer and f"/{below}/" in f"/{one.document_id}"]
    # A prefix changes the ids, an edit between the two passes the bytes: one of them tells that it is the same file.
    ids = {one.document_id for one in theirs}
    digests = {one.source_digest for one in theirs if one.source_digest is not None}
    twice = [one for one in own if f"{below}/{one.document_id}" in ids or one.source_digest in digests]
    if not twice:
        return None
    files = "1 file is" if len(twice) == 1 else f"{len(twice):,} files are"
    without = re.sub(r"([*?\[])", r"[\1]", f"/{below}")
    return (
        f"{files} in the collection twice, such as {twice[0].document_id}: as documents of the source {inner}, and, below "
        f"{below}/, of {outer}. To have them once, sync {outer.removeprefix(_FOLDER)} with --exclude {shlex.quote(without)} "
        f"(exclude={without!r})."
    )
