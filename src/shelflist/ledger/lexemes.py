"""The keyword leg of a ledger in Postgres: any lexeme of the query, ranked by `ts_rank` over the ledger's own texts.

Normalisation 1 divides by 1 + log of the length: of Postgres's own rankings the nearest to BM25, though it does not
know how rare a lexeme is. Everything is one database's, so it commits with the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence

from shelflist.core.transaction import Database
from shelflist.ledger.dialect import dialect_of
from shelflist.ledger.keywords import Ranking

_LEXEMES = "to_tsvector('english', left(c.content, 250000))"
"""Of the beginning of a text that is very long: a tsvector holds a megabyte, less than all words of such a text."""
_ANY_OF = "string_agg('''' || replace(replace(lexeme, '\\', '\\\\'), '''', '''''') || '''', ' | ')::tsquery AS any_of"
_SEARCH = (
    f"WITH asked AS MATERIALIZED (SELECT {_ANY_OF} FROM unnest(to_tsvector('english', ?))) "
    "SELECT c.point_id, ts_rank(l.lexemes, asked.any_of, 1)::float8 AS score FROM asked "
    "JOIN sl_lexemes l ON l.lexemes @@ asked.any_of AND l.collection_id = ? "
    "JOIN sl_chunks c ON c.chunk_key = l.chunk_key JOIN sl_documents d ON d.document_key = c.document_key "
    "WHERE true {own}ORDER BY score DESC, c.point_id LIMIT ?"
)
_WORDS = "to_tsvector('simple', left(c.content, 250000))"
_BY_STOP_WORDS = (
    f"WITH asked AS MATERIALIZED (SELECT {_ANY_OF} FROM unnest(to_tsvector('simple', ?)) "
    "WHERE to_tsvector('english', ?) = ''), "
    f"found AS MATERIALIZED (SELECT c.point_id, ts_rank({_WORDS}, asked.any_of, 1)::float8 AS score FROM asked "
    f"JOIN sl_chunks c ON {_WORDS} @@ asked.any_of JOIN sl_documents d ON d.document_key = c.document_key "
    "WHERE asked.any_of IS NOT NULL AND d.collection_id = ? {own}LIMIT ?) "
    "SELECT point_id, score FROM found ORDER BY score DESC, point_id LIMIT ?"
)
"""For a query that has no other words: they are no lexemes, so the texts themselves are read."""
_FEW = 2_000
"""Of the texts with a stop word so many are ranked: nearly all have one, and to read them all takes seconds."""


class PostgresKeywords:
    """Lexemes of each chunk in a table of the ledger with a GIN index."""

    def __init__(self, database: Database, collection_id: int) -> None:
        self._database = database
        self._sql = dialect_of(database)
        self._collection_id = collection_id

    def add(self, chunk_keys: Sequence[int]) -> None:
        with self._database.write() as tx:
            for part in self._sql.parts(chunk_keys):
                chosen, keys = self._sql.among("c.chunk_key", part)
                tx.execute(
                    f"INSERT INTO sl_lexemes SELECT c.chunk_key, ?, {_LEXEMES} FROM sl_chunks c WHERE {chosen} "
                    "ON CONFLICT DO NOTHING",
                    (self._collection_id, *keys),
                )

    def remove(self, chunk_keys: Sequence[int]) -> None:
        """Nothing is left to do: a chunk's lexemes go with the chunk."""

    def search(self, text: str, *, limit: int, tenant: str | None) -> Ranking:
        own = "" if tenant is None else "AND d.tenant_id = ? "
        with self._database.read(single=True) as tx:
            whose = (self._collection_id, *(() if tenant is None else (tenant,)))
            rows = tx.execute(_SEARCH.format(own=own), (text, *whose, limit)).fetchall()
            if not rows:
                sql = _BY_STOP_WORDS.format(own=own)
                rows = tx.execute(sql, (text, text, *whose, max(limit, _FEW), limit)).fetchall()
        return Ranking(rows, exhausted=len(rows) < limit)

    def rows(self) -> int:
        with self._database.read(single=True) as tx:
            (count,) = tx.execute(
                "SELECT count(*) FROM sl_lexemes WHERE collection_id = ?", (self._collection_id,)
            ).fetchone()
        return int(count)

    def drop(self) -> None:
        """Nothing is left to do: lexemes go with their chunks."""

    def rebuild(self) -> None:
        with self._database.write() as tx:
            tx.execute("DELETE FROM sl_lexemes WHERE collection_id = ?", (self._collection_id,))
            tx.execute(
                f"INSERT INTO sl_lexemes SELECT c.chunk_key, ?, {_LEXEMES} FROM sl_chunks c "
                "JOIN sl_documents d ON d.document_key = c.document_key WHERE d.collection_id = ?",
                (self._collection_id, self._collection_id),
            )
