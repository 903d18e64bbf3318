"""Weaviate by its client: batches of a fixed size, several in flight, over gRPC."""

from __future__ import annotations

from typing import Any

from raw import EF_CONSTRUCTION, FIELDS, Answer, M, Rows, Vector

_BATCH, _IN_FLIGHT = 500, 4


class Raw:
    note = f"batch.fixed_size({_BATCH}, {_IN_FLIGHT} in flight); the text is searchable by BM25"

    def __init__(self, place: Any) -> None:
        import weaviate

        self._client = weaviate.connect_to_local(host=place.host, port=place.port, grpc_port=place.grpc_port)
        self._collection: Any = None

    def load(self, name: str, rows: Rows, ef: int) -> None:
        from weaviate.classes.config import Configure, DataType, Property, VectorDistances

        self._collection = self._client.collections.create(
            name.capitalize(),
            properties=[
                Property(name="content", data_type=DataType.TEXT),
                *(_property(field) for field in ("document_id", *rows.metadata[0])),
            ],
            vector_config=Configure.Vectors.self_provided(
                vector_index_config=Configure.VectorIndex.hnsw(
                    distance_metric=VectorDistances.COSINE,
                    max_connections=M,
                    ef_construction=EF_CONSTRUCTION,
                    ef=ef,
                    quantizer=Configure.VectorIndex.Quantizer.none(),
                )
            ),
        )
        with self._collection.batch.fixed_size(batch_size=_BATCH, concurrent_requests=_IN_FLIGHT) as batch:
            for one, document_id, text, metadata, vector in zip(
                rows.ids, rows.document_ids, rows.texts, rows.metadata, rows.vectors, strict=True
            ):
                properties = {"content": text, "document_id": document_id, **metadata}
                batch.add_object(properties=properties, uuid=one, vector=vector)
        failed = self._collection.batch.failed_objects
        if failed:
            raise SystemExit(f"Weaviate refused {len(failed)} objects of the raw side: {failed[0].message}")

    def search(self, vector: Vector, limit: int) -> list[Answer]:
        from weaviate.classes.query import MetadataQuery

        found = self._collection.query.near_vector(
            near_vector=vector, limit=limit, return_metadata=MetadataQuery(distance=True)
        )
        return [(one.properties.pop("content"), one.properties) for one in found.objects]

    def drop(self) -> None:
        self._client.collections.delete(self._collection.name)

    def close(self) -> None:
        self._client.close()


def _property(field: str) -> Any:
    from weaviate.classes.config import DataType, Property, Tokenization

    if FIELDS.get(field) is int or field == "row":
        return Property(name=field, data_type=DataType.INT, index_filterable=field in FIELDS)
    filterable = field in FIELDS or field == "document_id"
    return Property(
        name=field,
        data_type=DataType.TEXT,
        tokenization=Tokenization.FIELD,
        index_filterable=filterable,
        index_searchable=False,
    )
