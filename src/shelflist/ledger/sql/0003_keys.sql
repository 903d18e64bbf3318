-- Keys of documents and chunks are never given out twice, not even after a purge of the highest: a sync remembers by
-- key what it has seen, and indexes beside the ledger name chunks by key. Postgres has a sequence for each of them.

-- sqlite only:
CREATE TABLE sl_keys (
    kind TEXT PRIMARY KEY,
    last INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO sl_keys SELECT 'document', coalesce(max(document_key), 0) FROM sl_documents;
INSERT INTO sl_keys SELECT 'chunk', coalesce(max(chunk_key), 0) FROM sl_chunks;
-- both:

-- postgres only:
ALTER TABLE sl_embeddings ALTER COLUMN vector SET STORAGE EXTERNAL;  -- vectors do not compress
ALTER TABLE sl_states SET (fillfactor = 60);                         -- room for the states that a row goes through
-- both:
