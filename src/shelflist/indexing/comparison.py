"""Compares a copied collection with its source: what both ledgers say, what the store holds, vectors, answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from shelflist.core.types import Hits, IndexStatus, SearchParams, Vector
from shelflist.engine.exact import prepared
from shelflist.generation import Generation
from shelflist.indexing.maintenance import Maintenance
from shelflist.indexing.original import Original
from shelflist.ledger.documents import ChunkRecord, DocumentRecord
from shelflist.ledger.reading import DocumentHead
from shelflist.searching.request import Request
from shelflist.searching.search import Searcher

_ANSWERS = 20
_LIMIT = 10
_CLOSE = 1e-4
"""How far the distances of two exact searches may be apart, as a share: stores add up in another order."""

Marked = set[tuple[str, str]]
"""(tenant, document_id) of documents that are marked stale in the source."""


@dataclass(slots=True)
class Comparison:
    """`differences`, in sentences; `documents` and `chunks` that both have; how many vectors and answers were compared."""

    differences: list[str] = field(default_factory=list)
    documents: int = 0
    chunks: int = 0
    vectors_checked: int = 0
    answers_checked: int = 0


def compare(
    source: Generation,
    destination: Generation,
    maintenance: Maintenance,
    marked: Marked,
    sample: int,
    tell: Callable[[int, int], None],
) -> Comparison:
    """`maintenance`: of the destination. `sample`: how many vectors to compare; a few of them are searched with as well."""
    found = Comparison()
    _compare_ledgers(source, destination, marked, found, tell)
    _check_store(maintenance, sample, found)
    _compare_vectors(source, destination, marked, sample, found)
    return found


def _compare_ledgers(
    source: Generation, destination: Generation, marked: Marked, found: Comparison, tell: Callable[[int, int], None]
) -> None:
    total, done = Original(source).chunk_count(), 0
    for page in _pages(source):
        records = _records(destination, page)
        mine = source.ledger.documents.members(source.record.generation_id, [one.document_key for one in page])
        theirs = destination.ledger.documents.members(
            destination.record.generation_id, [one.document_key for one in records.values()]
        )
        for head in page:
            record = records.get((head.tenant, head.document_id))
            there = theirs[record.document_key] if record is not None else []
            if (head.tenant, head.document_id) in marked:
                served = [one for one in there if one.index_status is IndexStatus.INDEXED]
                if served:
                    found.differences.append(
                        f"{head.document_id} is marked stale in the source and served by the copy."
                    )
                continue
            difference = _document_differs(head, record, mine[head.document_key], there)
            if difference:
                found.differences.append(difference)
                continue
            found.documents += 1
            found.chunks += sum(one.index_status is IndexStatus.INDEXED for one in there)
        done += sum(len(chunks) for chunks in mine.values())
        tell(min(done, total), total)
    for page in _pages(destination):
        known = _records(source, page)
        found.differences += [
            f"{head.document_id} is in the copy and not in the source."
            for head in page
            if not (record := known.get((head.tenant, head.document_id))) or record.removed or not record.revision
        ]


def _document_differs(
    head: DocumentHead, record: DocumentRecord | None, mine: Sequence[ChunkRecord], theirs: Sequence[ChunkRecord]
) -> str | None:
    if record is None or record.removed or record.revision == 0:
        return f"{head.document_id} is missing."
    wanted = {one.chunk_id: one for one in mine}
    there = {one.chunk_id: one for one in theirs}
    missing, extra = wanted.keys() - there.keys(), there.keys() - wanted.keys()
    if missing or extra:
        return f"{head.document_id}: {len(missing)} of {len(wanted)} chunks are missing, {len(extra)} are too many."
    for chunk, one in wanted.items():
        other = there[chunk]
        names = ("metadata_hash", "embedding_hash", "position", "index_status")
        different = [name for name in names if getattr(one, name) != getattr(other, name)]
        if different:
            said = ", ".join(name.removesuffix("_hash").replace("_", " ") for name in different)
            return f"{head.document_id}: chunk {one.position} has another {said}."
    return None


def _check_store(maintenance: Maintenance, sample: int, found: Comparison) -> None:
    """The destination's store against the destination's ledger, both ways."""
    seen = maintenance.verify(sample)
    for key, meaning in (
        ("missing", "chunks are not in the store"),
        ("ghosts", "chunks in the store are unknown to its ledger"),
        ("hidden", "chunks are hidden in the store"),
        ("vectors_different", "chunks have another vector in the store"),
    ):
        if seen[key]:
            found.differences.append(
                f"{len(seen[key])} {meaning} (shelflist verify, repair): {', '.join(seen[key][:3])}"
            )
    if seen["doubled"]:
        found.differences.append(f"{seen['doubled']} chunks are in the store twice (shelflist repair).")
    if not seen["keywords_ok"]:
        found.differences.append("The keyword index of the copy does not hold the same chunks (shelflist repair).")
    if seen["unfinished"]:
        found.differences.append(f"{seen['unfinished']} documents of the copy are not finished.")


def _compare_vectors(
    source: Generation, destination: Generation, marked: Marked, sample: int, found: Comparison
) -> None:
    ids = source.ledger.documents.sample(source.record.generation_id, None, sample)
    rows = {row["point_id"]: row for row in source.ledger.documents.contents(ids)}
    points = _points_there(source, destination, [rows[one] for one in ids if one in rows])
    mine = source.store.vectors(source.spec, list(points))
    theirs = destination.store.vectors(destination.spec, list(points.values()))
    whole = all(one.store.capabilities.vectors == "exact" for one in (source, destination))
    queries: list[tuple[Vector, str | None]] = []
    for one, other in points.items():
        if one not in mine or (rows[one]["tenant_id"], rows[one]["document_id"]) in marked:
            continue
        found.vectors_checked += 1
        if other not in theirs or not _alike(mine[one], theirs[other], source, whole=whole):
            found.differences.append(f"{rows[one]['document_id']}: a chunk has another vector than in the source.")
        elif len(queries) < _ANSWERS:
            queries.append((mine[one], rows[one]["tenant_id"] or None))
    # Where chunks or vectors differ already, other answers are no news.
    if not found.differences and all(one.store.capabilities.exact for one in (source, destination)):
        _compare_answers(source, destination, queries, found)


def _compare_answers(
    source: Generation, destination: Generation, queries: Sequence[tuple[Vector, str | None]], found: Comparison
) -> None:
    request = Request(limit=_LIMIT, mode="dense", params=SearchParams(exact=True))
    for vector, tenant in queries:
        owner = tenant if source.record.tenancy == "required" else None
        mine = Searcher(source).search(None, vector, owner, request)
        theirs = Searcher(destination).search(None, vector, owner, request)
        found.answers_checked += 1
        if not same_answers(mine, theirs):
            found.differences.append(
                f"A search with the vector of a chunk of {mine[0].document_id if mine else '?'} has other answers."
            )


def same_answers(mine: Hits, theirs: Hits) -> bool:
    """Whether two exact searches found the same chunks; of chunks that are equally near, any may stand at the end."""
    one = {hit.chunk_id: hit.distance or 0.0 for hit in mine}
    other = {hit.chunk_id: hit.distance or 0.0 for hit in theirs}
    if len(one) != len(other):
        return False
    if not one:
        return True
    bound = max(one.values())
    near = _CLOSE * max(1.0, abs(bound), *(abs(value) for value in one.values()))
    if any(abs(one[chunk] - other[chunk]) > near for chunk in one.keys() & other.keys()):
        return False
    return all(
        abs(value - bound) <= 2 * near
        for side, rest in ((one, other), (other, one))
        for chunk, value in side.items()
        if chunk not in rest
    )


def _alike(mine: Vector, theirs: Vector, source: Generation, *, whole: bool) -> bool:
    if whole:
        return np.array_equal(mine, theirs)
    if source.record.metric == "cosine":  # a store that normalises keeps nothing but the direction
        mine, theirs = prepared(mine, "cosine"), prepared(theirs, "cosine")
    return bool(np.allclose(mine, theirs, rtol=1e-3, atol=_CLOSE))


def _points_there(source: Generation, destination: Generation, rows: Sequence[dict[str, object]]) -> dict[bytes, bytes]:
    """The destination's point for each of these chunks of the source."""
    ids: dict[str, list[str]] = {}
    for row in rows:
        ids.setdefault(str(row["tenant_id"]), []).append(str(row["document_id"]))
    there: dict[bytes, bytes] = {}
    for tenant, names in ids.items():
        records = destination.ledger.documents.find(
            destination.record.collection_id, tenant, list(dict.fromkeys(names))
        )
        members = destination.ledger.documents.members(
            destination.record.generation_id, [one.document_key for one in records.values()]
        )
        there.update((one.chunk_id, one.point_id) for chunks in members.values() for one in chunks)
    found: dict[bytes, bytes] = {}
    for row in rows:
        chunk, point = row["chunk_id"], row["point_id"]
        assert isinstance(chunk, bytes) and isinstance(point, bytes)
        if chunk in there:
            found[point] = there[chunk]
    return found


def _pages(generation: Generation) -> Iterator[list[DocumentHead]]:
    """Documents that searches see, page by page."""
    for page in Original(generation).pages():
        yield [head for head in page if not head.removed]


def _records(generation: Generation, heads: Sequence[DocumentHead]) -> dict[tuple[str, str], DocumentRecord]:
    by_tenant: dict[str, list[str]] = {}
    for head in heads:
        by_tenant.setdefault(head.tenant, []).append(head.document_id)
    return {
        (tenant, document_id): record
        for tenant, ids in by_tenant.items()
        for document_id, record in generation.ledger.documents.find(
            generation.record.collection_id, tenant, ids
        ).items()
    }
