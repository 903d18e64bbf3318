-- The keyword index of a ledger in Postgres, for collections whose store has none. SQLite has tantivy beside it.

-- postgres only:
CREATE TABLE sl_lexemes (
    chunk_key     INTEGER PRIMARY KEY REFERENCES sl_chunks ON DELETE CASCADE, -- they go with the chunk
    collection_id INTEGER NOT NULL,
    lexemes       tsvector NOT NULL
);
CREATE INDEX sl_lexemes_collection ON sl_lexemes (collection_id);
CREATE INDEX sl_lexemes_gin ON sl_lexemes USING gin (lexemes);
-- both:
