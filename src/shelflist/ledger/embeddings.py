"""The embedding cache: vectors that were paid for, so that no text is embedded twice in one vector space."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from shelflist.core.transaction import Database
from shelflist.core.types import Vector

_PART = 500


class Embeddings:
    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, fingerprint: str, hashes: Sequence[bytes]) -> dict[bytes, Vector]:
        """Cached vectors by hash; unknown hashes are left out."""
        found: dict[bytes, Vector] = {}
        with self._database.read() as tx:
            for start in range(0, len(hashes), _PART):
                part = hashes[start : start + _PART]
                rows = tx.execute(
                    "SELECT hash, vector FROM sl_embeddings "
                    f"WHERE fingerprint = ? AND hash IN ({', '.join('?' * len(part))})",
                    (fingerprint, *part),
                )
                found.update((one, np.frombuffer(vector, np.float32)) for one, vector in rows)
        return found

    def put(self, fingerprint: str, vectors: Mapping[bytes, Vector]) -> None:
        """A newer vector of a text takes the place of an older one, which was asked to be made again."""
        now = time.time()
        with self._database.write() as tx:
            tx.executemany(
                "INSERT INTO sl_embeddings VALUES (?, ?, ?, ?) "
                "ON CONFLICT (fingerprint, hash) DO UPDATE SET vector = excluded.vector",
                ((fingerprint, one, vector.tobytes(), now) for one, vector in vectors.items()),
            )

    def forget(self, fingerprint: str, hashes: Sequence[bytes]) -> None:
        with self._database.write() as tx:
            tx.executemany(
                "DELETE FROM sl_embeddings WHERE fingerprint = ? AND hash = ?", ((fingerprint, one) for one in hashes)
            )
