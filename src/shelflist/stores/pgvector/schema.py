"""The tables of a generation in Postgres, and a point as a row of them.

    NAME        point_id, chunk_id, document_id, tenant_id, index_status, overflow (jsonb: whole texts that are cut in
                their column), bits (sign bits of the vector), embedding, and one typed column a declared field
    NAME_terms  point_id and the stems of its text: apart, because the vectors are read by every exact search

Every index of NAME that searches use is partial on `index_status = 'indexed'`: a point that becomes stale is written
again, and would otherwise enter all of them once more. Those of declared fields hold the sign bits too, so that a
filter on one field is ranked out of the index alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from shelflist.core.errors import StoreError, UnsupportedIndex
from shelflist.core.fields import FieldType
from shelflist.core.types import Flat, Hnsw, Ivf
from shelflist.engine.signs import code_bits
from shelflist.postgres import PostgresTransaction
from shelflist.stores.pgvector.filters import column
from shelflist.stores.protocol import GenerationSpec

SYMBOLS = {"cosine": "<=>", "dot": "<#>", "l2": "<->"}
_CLASSES = {"cosine": "cosine_ops", "dot": "ip_ops", "l2": "l2_ops"}
_MOST_INDEXED, _MOST_HALF = 2_000, 4_000
"""Dimensions that an index of pgvector takes as vector and as halfvec."""
MOST_EFFORT = 1_000
"""The greatest ef_search that pgvector takes."""
_MOST_LISTS = 32_768
_MOST_IN_LINE = 1_024
"""Dimensions up to which a vector stays in its row: reading one that Postgres has moved out costs as much as ten."""
_TYPES = {
    FieldType.STR: 'text COLLATE "C"',
    FieldType.INT: "bigint",
    FieldType.FLOAT: "double precision",
    FieldType.BOOL: "boolean",
    FieldType.DATETIME: "bigint",
    FieldType.LIST: 'text[] COLLATE "C"',
}

REGISTRY = """
CREATE TABLE IF NOT EXISTS sl_store_generations (
    name TEXT PRIMARY KEY, dimensions INTEGER NOT NULL, metric TEXT NOT NULL,
    measured_rows BIGINT NOT NULL DEFAULT 0, effort INTEGER, depth INTEGER, recall DOUBLE PRECISION)
"""
"""Every generation here. What was measured on its own vectors: `effort` (ef_search or probes) and `depth` (how many
candidates by sign bits hold the ten nearest) with the recall that they gave, at so many rows."""
MARKERS = "CREATE TABLE IF NOT EXISTS sl_store_markers (collection TEXT PRIMARY KEY, ledger_id TEXT NOT NULL)"


_OLDEST = (0, 8)


def require_pgvector(tx: PostgresTransaction, address: str) -> None:
    """Add the extension where it is missing; StoreError with the command that helps, unless it is there and new enough."""
    encoding, installed, offered = tx.execute(
        "SELECT current_setting('server_encoding'), (SELECT extversion FROM pg_extension WHERE extname = 'vector'), "
        "(SELECT default_version FROM pg_available_extensions WHERE name = 'vector')"
    ).fetchone()
    if encoding != "UTF8":
        raise StoreError(
            f"{address} is a database in {encoding}, which cannot hold every text. Make one in UTF8: "
            "createdb --encoding=UTF8 --template=template0 NAME"
        )
    if installed is None and offered is None:
        raise StoreError(
            f"{address} is on a server without pgvector. Install it there (its package is called "
            "postgresql-NN-pgvector, or use the image pgvector/pgvector), then run this again."
        )
    if installed is None:
        try:
            tx.execute("CREATE EXTENSION vector")
        except StoreError as error:
            raise StoreError(
                f"{address} has no pgvector yet, and this user may not add it ({error}). As a superuser run there: "
                "CREATE EXTENSION vector;"
            ) from error
        installed = offered
    require_version(installed, address)


def require_version(installed: str, address: str) -> None:
    """StoreError unless the extension is new enough."""
    if tuple(int(part) for part in installed.split(".")[:2]) < _OLDEST:
        raise StoreError(
            f"{address} has pgvector {installed}; 0.8 or newer is needed, for filtered searches that do not come short. "
            "Update the package on the server, then run there: ALTER EXTENSION vector UPDATE;"
        )


def require_parameters(spec: GenerationSpec) -> None:
    """UnsupportedIndex for a parameter that pgvector does not take: nothing is made to fit in silence."""
    index = spec.index
    limits: dict[str, tuple[int, int]] = {}
    if isinstance(index, Hnsw):
        limits = {"m": (2, 100), "ef_construction": (max(4, 2 * index.m), 1_000), "ef_search": (1, MOST_EFFORT)}
    if isinstance(index, Ivf):
        limits = {"nlist": (1, _MOST_LISTS), "nprobe": (1, _MOST_LISTS)}
    for name, (least, most) in limits.items():
        value = getattr(index, name)
        if value is not None and not least <= value <= most:
            twice = " (at least twice m)" if name == "ef_construction" else ""
            raise UnsupportedIndex(f"pgvector takes {name} from {least} to {most}{twice}, not {value}.")


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """How a generation's vectors are indexed: the kind, and what of the vector is in the index."""

    kind: Literal["hnsw", "ivfflat"]
    form: Literal["vector", "half", "bits"]
    expression: str
    operator_class: str


def vector_index(spec: GenerationSpec) -> VectorIndex | None:
    """The index that the spec calls for, None for an exact scan; UnsupportedIndex for one that pgvector cannot have.

    Above 2,000 dimensions the index holds halfvecs, above 4,000 sign bits; the whole vectors rescore what it finds.
    """
    index = spec.index or Hnsw()
    is_exact = isinstance(index, Flat) and index.quantization != "binary"
    by_signs = index.quantization == "binary" or spec.dimensions > _MOST_HALF
    if by_signs and spec.metric != "cosine" and spec.index is not None and not is_exact:
        raise UnsupportedIndex(
            f"Sign bits, which pgvector's index holds for quantization='binary' and above {_MOST_HALF:,} dimensions, "
            f"find what is near by cosine only, not by {spec.metric}. Use metric='cosine', or index=Flat()."
        )
    if isinstance(index, Flat) or (by_signs and spec.metric != "cosine"):
        return None
    form: Literal["vector", "half", "bits"] = "vector"
    if by_signs:
        form = "bits"
    elif index.quantization == "half" or spec.dimensions > _MOST_INDEXED:
        form = "half"
    if index.quantization == "half" and spec.dimensions > _MOST_HALF:
        raise UnsupportedIndex(
            f"pgvector indexes halfvecs of up to {_MOST_HALF:,} dimensions, not {spec.dimensions}. Leave quantization out, "
            "or use 'binary'."
        )
    expressions = {"vector": "embedding", "half": f"(embedding::halfvec({spec.dimensions}))", "bits": "bits"}
    classes = {"vector": "vector_", "half": "halfvec_", "bits": "bit_hamming_ops"}
    kind: Literal["hnsw", "ivfflat"] = "hnsw" if isinstance(index, Hnsw) else "ivfflat"
    operator_class = classes[form] if form == "bits" else classes[form] + _CLASSES[spec.metric]
    return VectorIndex(kind, form, expressions[form], operator_class)


def row_bytes(spec: GenerationSpec) -> int:
    """About how long a row is, without what Postgres keeps elsewhere."""
    return 400 + code_bits(spec.dimensions) // 8 + (4 * spec.dimensions if spec.dimensions <= _MOST_IN_LINE else 0)


def vector_index_name(name: str) -> str:
    return f"{name}_vector"


def vector_index_sql(spec: GenerationSpec, rows: int) -> str:
    index, described = spec.index or Hnsw(), vector_index(spec)
    assert described is not None
    if isinstance(index, Hnsw):
        options = f"m = {index.m}, ef_construction = {index.ef_construction}"
    else:
        options = f"lists = {lists(spec, rows)}"
    return (
        f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {vector_index_name(spec.name)} ON {spec.name} "
        f"USING {described.kind} ({described.expression} {described.operator_class}) WITH ({options}) "
        "WHERE index_status = 'indexed'"
    )


def lists(spec: GenerationSpec, rows: int) -> int:
    """Cells of an IVFFlat index: what the user said, or pgvector's own advice."""
    index = spec.index
    wanted = index.nlist if isinstance(index, Ivf) else None
    return wanted or max(1, min(_MOST_LISTS, round(rows / 1000 if rows <= 1_000_000 else rows**0.5)))


def bits_type(spec: GenerationSpec) -> str:
    return f"bit({code_bits(spec.dimensions)})"


def create_sql(spec: GenerationSpec) -> list[str]:
    """The statements that make a generation's tables and the indexes that are there from the start."""
    name, width = spec.name, 4 * spec.dimensions
    fields = "".join(f", {column(field)} {_TYPES[kind]}" for field, kind in spec.fields.items())
    storage = "PLAIN" if spec.dimensions <= _MOST_IN_LINE else "EXTERNAL"
    target = min(8_000, 1_200 + width) if storage == "PLAIN" else 1_200
    statements = [
        f"CREATE TABLE {name} (point_id uuid PRIMARY KEY, chunk_id uuid NOT NULL, document_id text NOT NULL, "
        f"tenant_id text, index_status text NOT NULL, overflow jsonb, bits {bits_type(spec)} NOT NULL, "
        f"embedding vector({spec.dimensions}) NOT NULL{fields}) WITH (toast_tuple_target = {target})",
        f"ALTER TABLE {name} ALTER COLUMN embedding SET STORAGE {storage}",
        f"ALTER TABLE {name} ALTER COLUMN bits SET STORAGE MAIN",
        f"CREATE INDEX {name}_document ON {name} USING hash (document_id)",  # ids of any length
        f"CREATE INDEX {name}_status ON {name} (index_status) WHERE index_status <> 'indexed'",
    ]
    if spec.tenanted:
        statements.append(_covering(f"{name}_tenant", name, "tenant_id"))
    return statements + [field_index_sql(spec, field) for field in spec.fields] + terms_sql(spec)


def terms_sql(spec: GenerationSpec) -> list[str]:
    table = f"{spec.name}_terms"
    return [
        f"CREATE TABLE {table} (point_id uuid PRIMARY KEY, terms tsvector NOT NULL)",
        f"CREATE INDEX {table}_gin ON {table} USING gin (terms)",
    ]


def field_index_sql(spec: GenerationSpec, field: str) -> str:
    index = f"{spec.name}_f{hashlib.sha256(field.encode()).hexdigest()[:12]}"
    if spec.fields[field] is FieldType.LIST:
        return f"CREATE INDEX {index} ON {spec.name} USING gin ({column(field)}) WHERE index_status = 'indexed'"
    return _covering(index, spec.name, ("tenant_id, " if spec.tenanted else "") + column(field))


def add_column_sql(spec: GenerationSpec, field: str) -> str:
    return f"ALTER TABLE {spec.name} ADD COLUMN {column(field)} {_TYPES[spec.fields[field]]}"


def _covering(index: str, table: str, columns: str) -> str:
    return f"CREATE INDEX {index} ON {table} ({columns}) INCLUDE (point_id, bits) WHERE index_status = 'indexed'"
