"""pgvector by psycopg: COPY in binary form, then the indexes; one connection with prepared statements."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from raw import EF_CONSTRUCTION, FIELDS, Answer, M, Rows, Vector

_TYPES = {str: "text", int: "int8"}


class Raw:
    note = "COPY binary, then HNSW, B-trees and full text (GIN over to_tsvector) are built"

    def __init__(self, place: Any) -> None:
        import psycopg
        from pgvector.psycopg import register_vector

        self._connection = psycopg.connect(place.database_url, autocommit=True)
        self._connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(self._connection)
        self._name = ""

    def load(self, name: str, rows: Rows, ef: int) -> None:
        import orjson
        from psycopg.types.json import Jsonb, set_json_dumps

        set_json_dumps(orjson.dumps)
        self._name = name
        run = self._connection.execute
        columns = "".join(f", {field} {_TYPES[kind]}" for field, kind in FIELDS.items())
        run(
            f"CREATE TABLE {name} (id uuid PRIMARY KEY, document_id text NOT NULL, content text NOT NULL, "
            f"metadata jsonb NOT NULL, embedding vector({rows.vectors.shape[1]}) NOT NULL{columns})"
        )
        listed = f"id, document_id, content, metadata, embedding, {', '.join(FIELDS)}"
        with (
            self._connection.cursor() as cursor,
            cursor.copy(f"COPY {name} ({listed}) FROM STDIN WITH (FORMAT BINARY)") as copy,
        ):
            copy.set_types(["uuid", "text", "text", "jsonb", "vector", *(_TYPES[kind] for kind in FIELDS.values())])
            for one, document_id, text, metadata, vector in zip(
                rows.ids, rows.document_ids, rows.texts, rows.metadata, rows.vectors, strict=True
            ):
                declared = [metadata[field] for field in FIELDS]
                copy.write_row((UUID(one), document_id, text, Jsonb(metadata), vector, *declared))
        run("SET maintenance_work_mem = '512MB'")
        run(
            f"CREATE INDEX ON {name} USING hnsw (embedding vector_cosine_ops) "
            f"WITH (m = {M}, ef_construction = {EF_CONSTRUCTION})"
        )
        for field in FIELDS:
            run(f"CREATE INDEX ON {name} ({field})")
        run(f"CREATE INDEX ON {name} (document_id)")
        run(f"CREATE INDEX ON {name} USING gin (to_tsvector('english', content))")
        run(f"ANALYZE {name}")
        run(f"SET hnsw.ef_search = {ef}")

    def search(self, vector: Vector, limit: int) -> list[Answer]:
        found = self._connection.execute(
            f"SELECT id, embedding <=> %s AS distance, content, metadata FROM {self._name} ORDER BY distance LIMIT %s",
            (vector, limit),
            prepare=True,
            binary=True,
        )
        return [(content, metadata) for _, _, content, metadata in found]

    def drop(self) -> None:
        self._connection.execute(f"DROP TABLE {self._name}")

    def close(self) -> None:
        self._connection.close()
