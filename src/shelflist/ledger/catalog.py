"""Collections, their generations and sources, and the event log."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson

from shelflist.core.fields import Fields
from shelflist.core.transaction import Database
from shelflist.core.types import Flat, Hnsw, IndexSpec, Ivf, Metric, Tenancy
from shelflist.ledger.dialect import dialect_of

_KINDS: Mapping[str, type[Flat] | type[Ivf] | type[Hnsw]] = {"flat": Flat, "ivf": Ivf, "hnsw": Hnsw}


@dataclass(frozen=True, slots=True)
class CollectionRecord:
    """A collection and its active generation, as the ledger has them."""

    collection_id: int
    uid: bytes
    name: str
    tenancy: Tenancy
    fields: Fields
    target_recall: float
    generation_id: int
    physical_name: str
    embedder: str | None
    fingerprint: str
    dimensions: int
    metric: Metric
    index: IndexSpec | None


class Catalog:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = dialect_of(database)

    def names(self) -> list[str]:
        with self._database.read(single=True) as tx:
            return [name for (name,) in tx.execute("SELECT name FROM sl_collections ORDER BY name")]

    def named(self, uid: bytes) -> str | None:
        """The name of the collection with this uid."""
        with self._database.read() as tx:
            found = tx.execute("SELECT name FROM sl_collections WHERE uid = ?", (uid,)).fetchone()
        return found[0] if found else None

    def find(self, name: str) -> CollectionRecord | None:
        with self._database.read(single=True) as tx:
            row = tx.execute(
                "SELECT c.collection_id, c.uid, c.name, c.tenancy, c.fields, c.target_recall, g.generation_id, "
                "g.physical_name, g.embedder, g.fingerprint, g.dimensions, g.metric, g.index_spec "
                "FROM sl_collections c JOIN sl_generations g USING (collection_id) "
                "WHERE c.name = ? AND g.status = 'active'",
                (name,),
            ).fetchone()
        if row is None:
            return None
        (collection_id, uid, name, tenancy, fields, recall, generation_id, physical, embedder, *space) = row
        fingerprint, dimensions, metric, index = space
        return CollectionRecord(
            collection_id,
            uid,
            name,
            cast(Tenancy, tenancy),
            Fields(orjson.loads(fields)),
            recall,
            generation_id,
            physical,
            embedder,
            fingerprint,
            dimensions,
            cast(Metric, metric),
            _index_from_json(index),
        )

    def create(
        self,
        name: str,
        *,
        tenancy: Tenancy,
        fields: Fields,
        target_recall: float,
        embedder: str | None,
        fingerprint: str,
        dimensions: int,
        metric: Metric,
        index: IndexSpec | None,
        uid: bytes | None = None,
    ) -> CollectionRecord:
        """A new collection with generation 1; joins the caller's write transaction, if there is one.

        `uid`: that of the collection which this one is to be a copy of.
        """
        uid, now = uid or secrets.token_bytes(16), self._database.now()
        with self._database.write() as tx:
            cursor = tx.execute(
                "INSERT INTO sl_collections (uid, name, tenancy, fields, target_recall, created_at) "
                "VALUES (?, ?, ?, ?, ?, ?) RETURNING collection_id",
                (uid, name, tenancy, fields.text, target_recall, now),
            )
            (collection_id,) = cursor.fetchone()
            tx.execute(
                "INSERT INTO sl_generations (collection_id, number, physical_name, status, embedder, fingerprint, "
                "dimensions, metric, index_spec, created_at) VALUES (?, 1, ?, 'active', ?, ?, ?, ?, ?, ?)",
                (
                    collection_id,
                    f"sl_{uid.hex()}_1",
                    embedder,
                    fingerprint,
                    dimensions,
                    metric,
                    _index_to_json(index),
                    now,
                ),
            )
            self.log(collection_id, "created", None, {"name": name, "fingerprint": fingerprint})
            found = self.find(name)
        assert found is not None
        return found

    def take_turns(self, name: str) -> None:
        """Inside a write transaction: nobody else makes or drops a collection of this name until it ends."""
        with self._database.write() as tx:
            self._sql.take_turns(tx, f"collection {name}")

    def set_fields(self, collection_id: int, fields: Fields) -> None:
        with self._database.write() as tx:
            tx.execute("UPDATE sl_collections SET fields = ? WHERE collection_id = ?", (fields.text, collection_id))

    def drop(self, collection_id: int) -> None:
        """Forget the collection: documents, chunks, states, sources, events, and vectors that nobody else can use."""
        chosen = "(SELECT document_key FROM sl_documents WHERE collection_id = ?)"
        with self._database.write() as tx:
            # First the collection itself: writers hold it while they begin a revision, and find it gone afterwards.
            tx.execute(
                f"SELECT 1 FROM sl_collections WHERE collection_id = ? {self._sql.lock}", (collection_id,)
            ).fetchall()
            tx.execute(
                f"DELETE FROM sl_states WHERE chunk_key IN (SELECT chunk_key FROM sl_chunks WHERE document_key IN {chosen})",
                (collection_id,),
            )
            tx.execute(f"DELETE FROM sl_chunks WHERE document_key IN {chosen}", (collection_id,))
            tx.execute(f"DELETE FROM sl_revisions WHERE document_key IN {chosen}", (collection_id,))
            for table in ("sl_documents", "sl_sources", "sl_generations", "sl_events", "sl_collections"):
                tx.execute(f"DELETE FROM {table} WHERE collection_id = ?", (collection_id,))
            tx.execute("DELETE FROM sl_embeddings WHERE fingerprint NOT IN (SELECT fingerprint FROM sl_generations)")

    def source(self, collection_id: int, tenant: str, name: str, *, create: bool = True) -> int:
        """The source's id; made if it is new, or 0 if it may not be."""
        key = (collection_id, tenant, name)
        with self._database.read(single=True) as tx:
            found = tx.execute(
                "SELECT source_id FROM sl_sources WHERE collection_id = ? AND tenant_id = ? AND name = ?", key
            ).fetchone()
        if found is None and not create:
            return 0
        if found is None:
            with self._database.write() as tx:
                tx.execute(
                    "INSERT INTO sl_sources (collection_id, tenant_id, name) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                    key,
                )
                found = tx.execute(
                    "SELECT source_id FROM sl_sources WHERE collection_id = ? AND tenant_id = ? AND name = ?", key
                ).fetchone()
        return int(found[0])

    def sources(self, collection_id: int, tenant: str) -> list[str]:
        """The names of the tenant's sources, those without a document too."""
        with self._database.read(single=True) as tx:
            rows = tx.execute(
                "SELECT name FROM sl_sources WHERE collection_id = ? AND tenant_id = ? ORDER BY name",
                (collection_id, tenant),
            )
            return [name for (name,) in rows]

    def complete_pass(self, source_ids: Sequence[int], *, changed: bool) -> None:
        """A pass read all of these sources. One that `changed` nothing is noted only if it is the first: a no-op
        writes nothing."""
        now = self._database.now()
        with self._database.read(single=True) as tx:
            noted = {
                one for (one,) in tx.execute("SELECT source_id FROM sl_sources WHERE last_completed_at IS NOT NULL")
            }
        due = [one for one in source_ids if changed or one not in noted]
        if due:
            with self._database.write() as tx:
                tx.executemany(
                    "UPDATE sl_sources SET last_completed_at = ? WHERE source_id = ?",
                    ((now, one) for one in sorted(due)),
                )

    def log(self, collection_id: int, kind: str, document_id: str | None, detail: Mapping[str, Any]) -> None:
        with self._database.write() as tx:
            tx.execute(
                "INSERT INTO sl_events (at, collection_id, kind, document_id, detail) VALUES (?, ?, ?, ?, ?)",
                (self._database.now(), collection_id, kind, document_id, _json(detail)),
            )


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _index_to_json(index: IndexSpec | None) -> str | None:
    return None if index is None else _json({name: getattr(index, name) for name in index.__dataclass_fields__})


def _index_from_json(text: str | None) -> IndexSpec | None:
    if text is None:
        return None
    values = orjson.loads(text)
    return _KINDS[values["kind"]](**values)
