"""Qdrant by qdrant-client: batches of points as columns, several in flight."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from raw import EF_CONSTRUCTION, FIELDS, Answer, M, Rows, Vector

_BATCH, _IN_FLIGHT = 512, 4


class Raw:
    def __init__(self, place: Any) -> None:
        from qdrant_client import QdrantClient

        self._in_memory = place.client is not None
        self.note = f"upsert() of {_BATCH} points, {_IN_FLIGHT} in flight; the text has a full-text index"
        if self._in_memory:
            self._client = place.client
        else:
            grpc = place.grpc_port is not None
            self._client = QdrantClient(
                host=place.host, port=place.port, grpc_port=place.grpc_port or 6334, prefer_grpc=grpc
            )
        self._name = ""
        self._ef = 0

    def load(self, name: str, rows: Rows, ef: int) -> None:
        from qdrant_client import models

        self._name, self._ef = name, ef
        client = self._client
        client.create_collection(
            name,
            vectors_config=models.VectorParams(size=rows.vectors.shape[1], distance=models.Distance.COSINE),
            hnsw_config=models.HnswConfigDiff(m=M, ef_construct=EF_CONSTRUCTION),
        )
        kinds = {str: models.PayloadSchemaType.KEYWORD, int: models.PayloadSchemaType.INTEGER}
        for field, kind in FIELDS.items():
            client.create_payload_index(name, field, kinds[kind])
        client.create_payload_index(name, "document_id", models.PayloadSchemaType.KEYWORD)
        client.create_payload_index(name, "content", models.PayloadSchemaType.TEXT)

        def send(start: int) -> None:
            part = slice(start, start + _BATCH)
            payloads = [
                {"content": text, "document_id": document_id, **metadata}
                for text, document_id, metadata in zip(
                    rows.texts[part], rows.document_ids[part], rows.metadata[part], strict=True
                )
            ]
            batch = models.Batch(ids=list(rows.ids[part]), vectors=rows.vectors[part].tolist(), payloads=payloads)
            client.upsert(name, batch, wait=True)

        with ThreadPoolExecutor(1 if self._in_memory else _IN_FLIGHT) as threads:
            list(threads.map(send, range(0, len(rows.ids), _BATCH)))
        while client.get_collection(name).status != models.CollectionStatus.GREEN:
            time.sleep(0.05)

    def search(self, vector: Vector, limit: int) -> list[Answer]:
        from qdrant_client import models

        found = self._client.query_points(
            self._name,
            query=vector.tolist(),
            limit=limit,
            with_payload=True,
            search_params=models.SearchParams(hnsw_ef=self._ef),
        )
        return [(one.payload.pop("content"), one.payload) for one in found.points]

    def drop(self) -> None:
        self._client.delete_collection(self._name)

    def close(self) -> None:
        if not self._in_memory:
            self._client.close()
