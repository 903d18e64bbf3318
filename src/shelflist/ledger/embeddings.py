"""The embedding cache: vectors that were paid for, so that no text is embedded twice in one vector space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from shelflist.core.transaction import Database, Transaction
from shelflist.core.types import Vector
from shelflist.ledger.dialect import dialect_of
from shelflist.ledger.leases import has_run_out, is_dead

_CLAIM_SECONDS = 300.0
"""A call to an embedder may take minutes; a claim of a dead process of this host is not waited for."""


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

    def claim(self, fingerprint: str, hashes: Sequence[bytes], owner: str) -> set[bytes]:
        """Which of these texts are now the owner's to embed; somebody else is at work on the others."""
        until = self._database.now() + _CLAIM_SECONDS
        with self._database.write() as tx:
            self._sql.each(
                tx,
                "INSERT INTO sl_claims VALUES (?, ?, ?, ?) ON CONFLICT (fingerprint, hash) DO NOTHING",
                "text bytea text float8",
                ((fingerprint, one, owner, until) for one in sorted(hashes)),
            )
            others = self._others(tx, fingerprint, hashes, owner)
            left = {one: holder for one, (holder, is_live) in others.items() if not is_live}
            self._sql.each(
                tx,
                "UPDATE sl_claims SET lease_owner = ?, lease_until = ? "
                "WHERE fingerprint = ? AND hash = ? AND lease_owner = ?",
                "text float8 text bytea text",
                ((owner, until, fingerprint, one, left[one]) for one in sorted(left)),
            )
            if left:
                others = self._others(tx, fingerprint, hashes, owner)
        return set(hashes) - others.keys()

    def are_claimed(self, fingerprint: str, hashes: Sequence[bytes]) -> bool:
        """Whether somebody is still at work on one of these texts."""
        with self._database.read() as tx:
            return any(is_live for _, is_live in self._others(tx, fingerprint, hashes, "").values())

    def release(self, fingerprint: str, owner: str) -> None:
        with self._database.write() as tx:
            tx.execute("DELETE FROM sl_claims WHERE fingerprint = ? AND lease_owner = ?", (fingerprint, owner))

    def _others(
        self, tx: Transaction, fingerprint: str, hashes: Sequence[bytes], owner: str
    ) -> dict[bytes, tuple[str, bool]]:
        """Who else has claimed these texts, and whether they still live."""
        now = self._database.now()
        found: dict[bytes, tuple[str, bool]] = {}
        for part in self._sql.parts(hashes):
            chosen, values = self._sql.among("hash", part)
            rows = tx.execute(
                f"SELECT hash, lease_owner, lease_until FROM sl_claims WHERE fingerprint = ? AND {chosen}",
                (fingerprint, *values),
            )
            for one, holder, until in rows:
                if holder != owner:
                    found[one] = holder, not (has_run_out(until, now, _CLAIM_SECONDS) or is_dead(holder))
        return found

    def forget(self, fingerprint: str, hashes: Sequence[bytes]) -> None:
        with self._database.write() as tx:
            if self._sql.lock and hashes:  # in one order, so that two writers wait for each other only one way
                chosen, values = self._sql.among("hash", hashes)
                tx.execute(
                    f"SELECT 1 FROM sl_embeddings WHERE fingerprint = ? AND {chosen} ORDER BY hash {self._sql.lock}",
                    (fingerprint, *values),
                )
            self._sql.for_keys(tx, "DELETE FROM sl_embeddings WHERE fingerprint = ?", (fingerprint,), "hash", hashes)
