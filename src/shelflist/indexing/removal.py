"""Removal of what is missing from a completed pass: what it covers, and when it is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from shelflist.core.errors import RemovalRefused
from shelflist.core.types import SyncReport
from shelflist.ledger.documents import DocumentRecord
from shelflist.ledger.revisions import Revision

_REMOVAL_SHARE = 1 / 3


@dataclass(slots=True)
class Spared:
    """Documents that a pass met and could not read or accept: they are not missing."""

    ids: set[str] = field(default_factory=set)
    prefixes: list[str] = field(default_factory=list)

    def __contains__(self, document_id: str) -> bool:
        return document_id in self.ids or any(document_id.startswith(prefix) for prefix in self.prefixes)


@dataclass(frozen=True, slots=True)
class Going:
    """Documents that a pass would take away, because they are missing or have nothing in them any more."""

    document_ids: Sequence[str]
    chunks: int


def require_few(going: Going, documents: int, chunks: int, collection: str, planned: SyncReport | None) -> None:
    """RemovalRefused if these are more than a third of the documents, or of the chunks, that were there. `planned`: of a
    plan."""
    gone = len(going.document_ids)
    if gone > documents * _REMOVAL_SHARE or going.chunks > chunks * _REMOVAL_SHARE:
        kept = "Nothing was deleted; what was added or changed is kept."
        if planned is not None:
            kept = "Nothing was done."
            if planned.documents_added or planned.documents_changed:
                kept = (
                    f"Besides, {planned.documents_added} would be added and {planned.documents_changed} changed, with "
                    f"{planned.embedded} texts to embed. Nothing was done."
                )
        raise RemovalRefused(
            f"This pass would delete {gone} of {documents} documents of {collection!r} ({', '.join(going.document_ids[:3])}"
            f"{', …' if gone > 3 else ''}), {going.chunks} of {chunks} chunks: more than a third. {kept} "
            "If it is meant, say so with --allow-removal (allow_removal=True)."
        )


def removal(record: DocumentRecord, chunk_keys: list[int]) -> Revision:
    """The revision that makes a document vanish."""
    return Revision(
        document_id=record.document_id,
        tenant=record.tenant,
        document_key=record.document_key,
        base_revision=record.revision,
        number=record.next_revision + 1,
        source_id=record.source_id,
        digest=None,
        source_digest=None,
        removed=chunk_keys,
        removes_document=True,
        fence=record.fence,
    )
