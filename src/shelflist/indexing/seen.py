"""What a pass remembers of the documents that came, without holding them: bits and hashes, not ids and texts."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from hashlib import blake2b

from shelflist.database import SqliteDatabase


class Seen:
    """Which documents of the ledger have come: one bit each, by document_key."""

    def __init__(self) -> None:
        self.bits = bytearray()

    def __contains__(self, document_key: int) -> bool:
        byte = document_key >> 3
        return byte < len(self.bits) and bool(self.bits[byte] & (1 << (document_key & 7)))

    def add(self, document_key: int) -> None:
        byte = document_key >> 3
        if byte >= len(self.bits):
            self.bits.extend(bytes(byte + 1024 - len(self.bits)))
        self.bits[byte] |= 1 << (document_key & 7)


class Names:
    """A set of byte strings that may outgrow memory: 16 bytes of the hash of each, in a database without a name."""

    def __init__(self) -> None:
        self._open = ExitStack()
        database = SqliteDatabase(None, spill=True)
        self._open.callback(database.close)
        self._rows = self._open.enter_context(database.write())
        self._rows.execute("CREATE TABLE names (name BLOB PRIMARY KEY) WITHOUT ROWID")

    def __contains__(self, name: bytes) -> bool:
        return self._rows.execute("SELECT 1 FROM names WHERE name = ?", (_short(name),)).fetchone() is not None

    def add(self, names: Iterable[bytes]) -> None:
        self._rows.executemany("INSERT OR IGNORE INTO names VALUES (?)", ((_short(one),) for one in names))

    def close(self) -> None:
        self._open.close()


def _short(name: bytes) -> bytes:
    return blake2b(name, digest_size=16).digest()
