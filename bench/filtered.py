"""The documentation corpus with all its metadata, its queries, and the filters of filters_1k.json with the exact truth."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import data
import numpy as np
import numpy.typing as npt
from raw import FIELDS, Rows

WHOLE = 100_000
_KEPT = ("title", "section")
_COLUMNS = {"owner": "tenant_id"}
_OPERATORS = {"eq": "$eq", "in": "$in", "gte": "$gte", "lt": "$lt"}
Truth = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Filtered:
    """A filter, as each query states it. `truth`: row ids of each query's ten nearest, -1 where fewer match."""

    name: str
    rows: int
    where: Sequence[dict[str, Any] | None]
    truth: Truth


def load_rows(number: int) -> Rows:
    """The first chunks in file order; `row` in their metadata is the number of each."""
    import pyarrow.parquet as pq

    columns = ["chunk_id", "document_id", "text", *(_COLUMNS.get(one, one) for one in FIELDS), *_KEPT]
    table = pq.read_table(data.require() / "chunks_100k.parquet", columns=columns).slice(0, number).to_pydict()
    vectors = np.load(data.require() / "vectors_100k.npy", mmap_mode="r")[:number].astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    given = zip(*(table[_COLUMNS.get(name, name)] for name in (*FIELDS, *_KEPT)), strict=True)
    metadata = [
        {**dict(zip((*FIELDS, *_KEPT), ["" if value is None else value for value in values], strict=True)), "row": row}
        for row, values in enumerate(given)
    ]
    ids = [str(uuid.uuid5(uuid.NAMESPACE_OID, one)) for one in table["chunk_id"]]
    return Rows(ids, table["document_id"], table["text"], metadata, vectors)


def documents(rows: Rows) -> list[Any]:
    """The rows as Documents of embedded chunks; the chunks of a document stand together."""
    from shelflist import Chunk, Document

    found: list[Document] = []
    chunks: list[Chunk] = []
    for row, (document_id, text) in enumerate(zip(rows.document_ids, rows.texts, strict=True)):
        if row == 0 or document_id != rows.document_ids[row - 1]:
            chunks = []
            found.append(Document(document_id, chunks=chunks))
        chunks.append(Chunk(content=text, metadata=rows.metadata[row], embedding=rows.vectors[row]))
    return found


def load_queries() -> Any:
    queries = np.load(data.require() / "queries_1k.npy").astype(np.float32)
    return queries / np.linalg.norm(queries, axis=1, keepdims=True)


def load_filters(rows: Rows, queries: Any) -> list[Filtered]:
    """No filter, and every filter of the file, with the truth of the file or, on fewer rows, computed here."""
    place = data.require()
    whole = len(rows.ids) == WHOLE
    given = np.load(place / "gt_1k_filtered.npz", allow_pickle=False)
    number = len(queries)
    everything = np.load(place / "gt_1k_top100.npy")[:number, :10] if whole else nearest(rows.vectors, queries)
    found = [Filtered("none", len(rows.ids), [None] * number, everything)]
    columns = {name: np.array([one[name] for one in rows.metadata]) for name in FIELDS}
    for one in json.loads((place / "filters_1k.json").read_text()):
        name, definition = one["name"], one["definition"]
        if isinstance(definition, dict):
            where = [where_of(definition)] * number
            matching = [np.flatnonzero(_matches(definition, columns))] * number
        else:
            tenants = _tenants(given)[:number]
            where = [{"owner": {"$eq": str(tenant)}} for tenant in tenants]
            matching = [np.flatnonzero(columns["owner"] == tenant) for tenant in tenants]
        truth = given[f"{name}_ids"][:number, :10] if whole else _nearest_of(rows.vectors, queries, matching)
        matches = round(float(np.mean([len(rows_) for rows_ in matching])))
        found.append(Filtered(name, matches, where, truth))
    return found


def recall(answers: Sequence[Sequence[int]], truth: Truth) -> float:
    """Mean share of each query's true rows that its answer holds; a query for which nothing matches asks for nothing."""
    shares = []
    for answer, row in zip(answers, truth, strict=True):
        wanted = {int(one) for one in row if one >= 0}
        if wanted:
            shares.append(len(wanted & set(answer)) / len(wanted))
    return float(np.mean(shares)) if shares else 1.0


def nearest(vectors: Any, queries: Any) -> Truth:
    return _nearest_of(vectors, queries, [np.arange(len(vectors))] * len(queries))


def _nearest_of(vectors: Any, queries: Any, matching: Sequence[Any]) -> Truth:
    truth = np.full((len(queries), 10), -1)
    similarity = queries @ vectors.T
    for number, rows in enumerate(matching):
        best = rows[np.lexsort((rows, -similarity[number, rows]))[:10]]
        truth[number, : len(best)] = best
    return truth


def one_source(rows: Rows, queries: Any, source: str) -> Filtered:
    """A filter that is correlated against most queries, with the truth computed here."""
    chosen = np.flatnonzero(np.array([one["source"] == source for one in rows.metadata]))
    found = chosen[nearest(rows.vectors[chosen], queries)]
    return Filtered(source, len(chosen), [{"source": {"$eq": source}}] * len(queries), found)


def _tenants(given: Any) -> Any:
    name = next(one for one in given.files if one.startswith("per_query_tenant") and not one.endswith(("ids", "sims")))
    return given[name]


def _field(column: str) -> str:
    return next((field for field, one in _COLUMNS.items() if one == column), column)


def where_of(definition: dict[str, Any]) -> dict[str, Any]:
    """A definition of the file in Shelflist's own words."""
    ((key, value), *_) = definition.items()
    if key == "and":
        return {"$and": [where_of(one) for one in value]}
    if key == "not":
        return {"$not": where_of(value)}
    return {_field(key): {_OPERATORS[operator]: operand for operator, operand in value.items()}}


def _matches(definition: dict[str, Any], columns: dict[str, Any]) -> Any:
    ((key, value), *_) = definition.items()
    if key == "and":
        return np.logical_and.reduce([_matches(one, columns) for one in value])
    if key == "not":
        return ~_matches(value, columns)
    column = columns[_field(key)]
    tests = {"eq": np.equal, "in": np.isin, "gte": np.greater_equal, "lt": np.less}
    return np.logical_and.reduce([tests[operator](column, operand) for operator, operand in value.items()])
