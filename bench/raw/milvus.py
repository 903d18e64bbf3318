"""Milvus by pymilvus: inserts of a thousand rows, several in flight, then flush and the indexes."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from raw import EF_CONSTRUCTION, FIELDS, Answer, M, Rows, Vector

_BATCH, _IN_FLIGHT = 1_000, 3
_TEXT = 65_535


class Raw:
    note = (
        f"insert() of {_BATCH:,} rows, {_IN_FLIGHT} in flight, flush, then HNSW and scalar indexes; no index of words"
    )

    def __init__(self, place: Any) -> None:
        from pymilvus import MilvusClient

        self._client = MilvusClient(uri=f"http://{place.host}:{place.port}")
        self._name = ""
        self._ef = 0
        self._fields: list[str] = []

    def load(self, name: str, rows: Rows, ef: int) -> None:
        from pymilvus import DataType

        self._name, self._ef = name, ef
        client = self._client
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=36)
        schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=rows.vectors.shape[1])
        schema.add_field("content", DataType.VARCHAR, max_length=_TEXT)
        schema.add_field("document_id", DataType.VARCHAR, max_length=_TEXT)
        self._fields = ["document_id", *rows.metadata[0]]
        for field in rows.metadata[0]:
            if FIELDS.get(field) is int or field == "row":
                schema.add_field(field, DataType.INT64)
            else:
                schema.add_field(field, DataType.VARCHAR, max_length=_TEXT)
        client.create_collection(name, schema=schema, consistency_level="Bounded", num_shards=1)

        def send(start: int) -> None:
            part = slice(start, start + _BATCH)
            given = zip(
                rows.ids[part],
                rows.vectors[part],
                rows.texts[part],
                rows.document_ids[part],
                rows.metadata[part],
                strict=True,
            )
            client.insert(
                name,
                [
                    {"id": one, "embedding": vector, "content": text, "document_id": document_id, **metadata}
                    for one, vector, text, document_id, metadata in given
                ],
            )

        with ThreadPoolExecutor(_IN_FLIGHT) as threads:
            list(threads.map(send, range(0, len(rows.ids), _BATCH)))
        client.flush(name)
        self._index(name)
        client.load_collection(name)
        # At Strong consistency once: from then on every search sees everything.
        client.query(name, filter='id == ""', output_fields=["id"], consistency_level="Strong")

    def _index(self, name: str) -> None:
        params = self._client.prepare_index_params()
        params.add_index(
            field_name="embedding",
            index_name="embedding",
            index_type="HNSW",
            metric_type="COSINE",
            params={"M": M, "efConstruction": EF_CONSTRUCTION},
        )
        for field, kind in FIELDS.items():
            params.add_index(field_name=field, index_name=field, index_type="Trie" if kind is str else "STL_SORT")
        self._client.create_index(name, params)
        while self._client.describe_index(name, "embedding").get("pending_index_rows", 0):
            time.sleep(0.05)

    def search(self, vector: Vector, limit: int) -> list[Answer]:
        found = self._client.search(
            self._name,
            data=[vector],
            anns_field="embedding",
            limit=limit,
            output_fields=["content", *self._fields],
            search_params={"metric_type": "COSINE", "params": {"ef": self._ef}},
            consistency_level="Bounded",
        )
        answers = []
        for one in found[0]:
            entity = dict(one["entity"])
            answers.append((entity.pop("content"), entity))
        return answers

    def drop(self) -> None:
        self._client.drop_collection(self._name)

    def close(self) -> None:
        self._client.close()
