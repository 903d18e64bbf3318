"""Chroma by chromadb's HTTP client: `add` in large batches of arrays, texts as documents."""

from __future__ import annotations

from typing import Any

from raw import EF_CONSTRUCTION, Answer, M, Rows, Vector

_BATCH = 2_000
"""Chroma takes 5,461 records, but no more than 40 MB in one request."""


class Raw:
    note = f"add() of {_BATCH:,} records with documents and metadatas; one at a time, as it has one writer"

    def __init__(self, place: Any) -> None:
        import chromadb

        self._client = chromadb.HttpClient(host=place.host, port=place.port)
        self._collection: Any = None

    def load(self, name: str, rows: Rows, ef: int) -> None:
        hnsw = {"space": "cosine", "max_neighbors": M, "ef_construction": EF_CONSTRUCTION, "ef_search": ef}
        self._collection = self._client.create_collection(name, embedding_function=None, configuration={"hnsw": hnsw})
        size = min(_BATCH, self._client.get_max_batch_size())
        for start in range(0, len(rows.ids), size):
            part = slice(start, start + size)
            self._collection.add(
                ids=list(rows.ids[part]),
                embeddings=rows.vectors[part],
                documents=list(rows.texts[part]),
                metadatas=list(rows.metadata[part]),
            )

    def search(self, vector: Vector, limit: int) -> list[Answer]:
        found = self._collection.query(
            query_embeddings=[vector], n_results=limit, include=["documents", "metadatas", "distances"]
        )
        return list(zip(found["documents"][0], found["metadatas"][0], strict=True))

    def drop(self) -> None:
        self._client.delete_collection(self._collection.name)

    def close(self) -> None:
        self._client.close()
