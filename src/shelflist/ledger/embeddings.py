"""The embedding cache: vectors that were paid for, so that no text is embedded twice in one vector space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from shelflist.core.transaction import Database
from shelflist.core.types import Vector
from shelflist.ledger.dialect import dialect_of


class Embeddings:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = dialect_of(database)

    def get(self, fingerprint: str, hashes: Sequence[bytes]) -> dict[bytes, Vector]:
        """Cached vectors by hash; unknown hashes are left out."""
        found: dict[bytes, Vector] = {}
        with self._database.read(single=True) as tx:
            for part in self._sql.parts(hashes):
                chosen, values = self._sql.among("hash", part)
                rows = tx.execute(
                    f"SELECT hash, vector FROM sl_embeddings WHERE fingerprint = ? AND {chosen}", (fingerprint, *values)
                )
                found.update((one, np.frombuffer(vector, np.float32)) for one, vector in rows)
        return found

    def put(self, fingerprint: str, vectors: Mapping[bytes, Vector]) -> None:
        """A newer vector of a text takes the place of an older one, which was asked to be made again."""
        now = self._database.now()
        with self._database.write() as tx:
            self._sql.each(
                tx,
                "INSERT INTO sl_embeddings VALUES (?, ?, ?, ?) "
                "ON CONFLICT (fingerprint, hash) DO UPDATE SET vector = excluded.vector",
                "text bytea bytea float8",
                ((fingerprint, one, vectors[one].tobytes(), now) for one in sorted(vectors)),
            )

    def forget(self, fingerprint: str, hashes: Sequence[bytes]) -> None:
        with self._database.write() as tx:
            if self._sql.lock and hashes:  # in one order, so that two writers wait for each other only one way
                chosen, values = self._sql.among("hash", hashes)
                tx.execute(
                    f"SELECT 1 FROM sl_embeddings WHERE fingerprint = ? AND {chosen} ORDER BY hash {self._sql.lock}",
                    (fingerprint, *values),
                )
            self._sql.for_keys(tx, "DELETE FROM sl_embeddings WHERE fingerprint = ?", (fingerprint,), "hash", hashes)
