"""What the embedded store is measured beside, each used as its documentation calls best: hnswlib, FAISS, qdrant-edge, LanceDB,
Chroma. hnswlib and FAISS hold vectors alone; the others hold text and metadata too, and filter, each filter AND an
`index_status`. All but the first two keep what they hold in a directory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from raw import EF_CONSTRUCTION, FIELDS, M, Rows


class Hnswlib:
    name = "hnswlib"

    def __init__(self, rows: Rows) -> None:
        import hnswlib

        started = time.perf_counter()
        self._index = hnswlib.Index("cosine", rows.vectors.shape[1])
        self._index.init_index(len(rows.vectors), M=M, ef_construction=100, random_seed=1)
        self._index.add_items(rows.vectors, num_threads=2)
        self.loaded = time.perf_counter() - started
        self._index.set_num_threads(1)

    def save(self, path: Path) -> None:
        self._index.save_index(str(path))

    def ask(self, queries: Any, effort: int) -> Callable[[int], Any]:
        self._index.set_ef(effort)
        query = self._index.knn_query
        return lambda number: query(queries[number], k=10)

    @staticmethod
    def rows_of(answer: Any) -> list[int]:
        return list(map(int, answer[0][0]))


class Faiss:
    name = "faiss"

    def __init__(self, rows: Rows) -> None:
        import faiss

        started = time.perf_counter()
        self._index = faiss.IndexHNSWFlat(rows.vectors.shape[1], M, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = EF_CONSTRUCTION
        self._index.add(rows.vectors)
        self.loaded = time.perf_counter() - started

    def ask(self, queries: Any, effort: int) -> Callable[[int], Any]:
        import faiss

        params = faiss.SearchParametersHNSW(efSearch=effort)
        search = self._index.search
        return lambda number: search(queries[number : number + 1], 10, params=params)

    @staticmethod
    def rows_of(answer: Any) -> list[int]:
        return list(map(int, answer[1][0]))


class QdrantEdge:
    name = "qdrant-edge"

    def __init__(self, rows: Rows, place: Path) -> None:
        import qdrant_edge as edge

        place.mkdir()
        started = time.perf_counter()
        self._shard = edge.EdgeShard.create(
            str(place),
            edge.EdgeConfig(
                vectors={"": edge.EdgeVectorParams(size=rows.vectors.shape[1], distance=edge.Distance.Cosine)},
                hnsw_config=edge.HnswIndexConfig(m=M, ef_construct=100, full_scan_threshold=10_000),
            ),
        )
        schemas = {str: edge.PayloadSchemaType.Keyword, int: edge.PayloadSchemaType.Integer}
        for field, kind in {**FIELDS, "index_status": str}.items():
            self._shard.update(edge.UpdateOperation.create_field_index(field, schemas[kind]))
        for start in range(0, len(rows.ids), 1_000):
            part = range(start, min(start + 1_000, len(rows.ids)))
            points = [
                edge.Point(
                    row,
                    rows.vectors[row].tolist(),
                    {**rows.metadata[row], "text": rows.texts[row], "index_status": "indexed"},
                )
                for row in part
            ]
            self._shard.update(edge.UpdateOperation.upsert_points(points))
        self._shard.optimize()
        self.loaded = time.perf_counter() - started

    def ask(self, queries: Any, effort: int, where: Sequence[Any] | None = None) -> Callable[[int], Any]:
        import qdrant_edge as edge

        given = [query.tolist() for query in queries]
        params = edge.SearchParams(hnsw_ef=effort)
        live = edge.FieldCondition("index_status", match=edge.MatchValue("indexed"))
        conditions = [edge.Filter([live, *_conditions(one)]) for one in where or [None] * len(given)]

        def ask(number: int) -> Any:
            return self._shard.query(
                edge.QueryRequest(
                    10,
                    query=edge.Query.Nearest(given[number], ""),
                    with_payload=True,
                    filter=conditions[number],
                    params=params,
                )
            )

        return ask

    @staticmethod
    def rows_of(answer: Any) -> list[int]:
        return [one.payload["row"] for one in answer]


def _conditions(where: dict[str, Any] | None) -> list[Any]:
    """The filters of the data as qdrant-edge's conditions."""
    import qdrant_edge as edge

    found: list[Any] = []
    for field, asked in (where or {}).items():
        if field == "$and":
            found += [one for part in asked for one in _conditions(part)]
            continue
        if field == "$not":
            found.append(edge.Filter(None, None, _conditions(asked)))
            continue
        for operator, value in (asked if isinstance(asked, dict) else {"$eq": asked}).items():
            match operator:
                case "$eq":
                    found.append(edge.FieldCondition(field, match=edge.MatchValue(value)))
                case "$in":
                    found.append(edge.FieldCondition(field, match=edge.MatchAny(value)))
                case "$gte":
                    found.append(edge.FieldCondition(field, range=edge.RangeFloat(gte=value)))
                case "$lt":
                    found.append(edge.FieldCondition(field, range=edge.RangeFloat(lt=value)))
                case _:
                    raise ValueError(f"{operator} is not in the data's filters")
    return found


class LanceDb:
    """HNSW over 8-bit vectors in one partition, with an index of words and of each field."""

    name = "lancedb"

    def __init__(self, rows: Rows, place: Path) -> None:
        import lancedb

        started = time.perf_counter()
        self._table = lancedb.connect(place).create_table("bench", _arrow(rows))
        self._table.create_index(
            metric="cosine", index_type="IVF_HNSW_SQ", num_partitions=1, m=M, ef_construction=EF_CONSTRUCTION
        )
        for field in (*FIELDS, "index_status"):
            self._table.create_scalar_index(field)
        self._table.create_fts_index("text")
        self.loaded = time.perf_counter() - started

    def ask(self, queries: Any, effort: int, where: Sequence[Any] | None = None) -> Callable[[int], Any]:
        conditions = [" AND ".join(["index_status = 'indexed'", *_sql(one)]) for one in where or [None] * len(queries)]

        def ask(number: int) -> Any:
            query = self._table.search(queries[number]).distance_type("cosine").ef(effort).limit(10)
            return (
                query.where(conditions[number], prefilter=True)
                .select(["text", "row", "metadata", "_distance"])
                .to_list()
            )

        return ask

    @staticmethod
    def rows_of(answer: Any) -> list[int]:
        return [one["row"] for one in answer]


class Chroma:
    """In its directory, in this process. Its filters are not asked: 3-8 queries a second take too long."""

    name = "chroma"

    def __init__(self, rows: Rows, place: Path) -> None:
        import chromadb

        started = time.perf_counter()
        hnsw = {"space": "cosine", "max_neighbors": M, "ef_construction": EF_CONSTRUCTION}
        self._collection: Any = chromadb.PersistentClient(str(place)).create_collection(
            "bench", embedding_function=None, configuration={"hnsw": hnsw}
        )
        for start in range(0, len(rows.ids), 5_000):
            part = slice(start, start + 5_000)
            self._collection.add(
                ids=list(rows.ids[part]),
                embeddings=rows.vectors[part],
                documents=list(rows.texts[part]),
                metadatas=[{**one, "index_status": "indexed"} for one in rows.metadata[part]],
            )
        self.loaded = time.perf_counter() - started

    def ask(self, queries: Any, effort: int, where: Sequence[Any] | None = None) -> Callable[[int], Any]:
        assert where is None or not any(where)
        self._collection.modify(configuration={"hnsw": {"ef_search": effort}})
        asked = self._collection.query
        wanted = ["documents", "metadatas", "distances"]
        return lambda number: asked(query_embeddings=[queries[number]], n_results=10, include=wanted)

    @staticmethod
    def rows_of(answer: Any) -> list[int]:
        return [one["row"] for one in answer["metadatas"][0]]


def _arrow(rows: Rows) -> Any:
    import orjson
    import pyarrow as pa

    flat = pa.array(rows.vectors.ravel())
    columns = {
        "vector": pa.FixedSizeListArray.from_arrays(flat, rows.vectors.shape[1]),
        "text": list(rows.texts),
        "row": [one["row"] for one in rows.metadata],
        "metadata": [orjson.dumps(one).decode() for one in rows.metadata],
        "index_status": ["indexed"] * len(rows.ids),
    }
    columns.update({field: [one[field] for one in rows.metadata] for field in FIELDS})
    return pa.table(columns)


def _sql(where: dict[str, Any] | None) -> list[str]:
    """The filters of the data as conditions in SQL."""
    found: list[str] = []
    for field, asked in (where or {}).items():
        if field == "$and":
            found += [one for part in asked for one in _sql(part)]
            continue
        if field == "$not":
            found.append(f"NOT ({' AND '.join(_sql(asked))})")
            continue
        for operator, value in (asked if isinstance(asked, dict) else {"$eq": asked}).items():
            listed = ", ".join(map(_literal, value)) if isinstance(value, (list, tuple)) else _literal(value)
            sign = {"$eq": "=", "$gte": ">=", "$lt": "<"}.get(operator)
            found.append(f"{field} {sign} {listed}" if sign else f"{field} IN ({listed})")
    return found


def _literal(value: Any) -> str:
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"
