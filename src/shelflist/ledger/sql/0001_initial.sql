-- The ledger: the record of every document, chunk and state. All tables start with sl_.
-- tenant_id is '' for "no tenant": an empty tenant is refused at the door, so the two cannot meet.

CREATE TABLE sl_collections (
    collection_id INTEGER PRIMARY KEY,
    uid           BLOB NOT NULL UNIQUE,   -- 16 random bytes: survives rename and copy; every chunk id is made from it
    name          TEXT NOT NULL UNIQUE,
    tenancy       TEXT NOT NULL,
    fields        TEXT NOT NULL,          -- JSON: name -> type
    target_recall REAL NOT NULL,
    created_at    REAL NOT NULL
);

-- One physical build of a collection: one embedder, one index spec, one place in the store.
CREATE TABLE sl_generations (
    generation_id INTEGER PRIMARY KEY,
    collection_id INTEGER NOT NULL REFERENCES sl_collections,
    number        INTEGER NOT NULL,
    physical_name TEXT NOT NULL UNIQUE,
    status        TEXT NOT NULL,          -- active | building | retired
    embedder      TEXT,                   -- what opens the embedder again; NULL: vectors are given
    fingerprint   TEXT NOT NULL,
    dimensions    INTEGER NOT NULL,
    metric        TEXT NOT NULL,
    index_spec    TEXT,                   -- JSON; NULL: auto
    created_at    REAL NOT NULL,
    UNIQUE (collection_id, number)
);

-- Where documents come from; removal of missing documents stays inside one source and tenant.
CREATE TABLE sl_sources (
    source_id         INTEGER PRIMARY KEY,
    collection_id     INTEGER NOT NULL REFERENCES sl_collections,
    tenant_id         TEXT NOT NULL,
    name              TEXT NOT NULL,
    last_completed_at REAL,               -- the last pass that read everything and changed something, or the first
    UNIQUE (collection_id, tenant_id, name)
);

CREATE TABLE sl_documents (
    document_key  INTEGER PRIMARY KEY,
    collection_id INTEGER NOT NULL REFERENCES sl_collections,
    tenant_id     TEXT NOT NULL,
    document_id   TEXT NOT NULL,
    source_id     INTEGER NOT NULL REFERENCES sl_sources,
    revision      INTEGER NOT NULL,       -- what searches see; 0: nothing yet
    next_revision INTEGER NOT NULL,       -- highest number ever given out
    digest        BLOB,                   -- of the whole content; NULL: the next sync looks at every chunk
    source_digest BLOB,                   -- of the raw bytes the chunks were made from
    chunk_count   INTEGER NOT NULL,
    removed_at    REAL,                   -- the row stays as a fence against late writers
    updated_at    REAL NOT NULL,
    UNIQUE (collection_id, tenant_id, document_id)
);
CREATE INDEX sl_documents_source ON sl_documents (source_id);

-- One row a point: a chunk with its metadata and vector, as one revision introduced it. Never edited but for position.
CREATE TABLE sl_chunks (
    chunk_key      INTEGER PRIMARY KEY,
    document_key   INTEGER NOT NULL REFERENCES sl_documents,
    point_id       BLOB NOT NULL UNIQUE,
    chunk_id       BLOB NOT NULL,
    text_hash      BLOB NOT NULL,
    metadata_hash  BLOB NOT NULL,
    embedding_hash BLOB,                  -- of a given vector; NULL: the vector follows from the text
    first_revision INTEGER NOT NULL,
    position       INTEGER NOT NULL,
    token_count    INTEGER,
    section        TEXT,
    chunk_strategy TEXT,
    metadata       TEXT NOT NULL,         -- JSON, stored form
    content        TEXT NOT NULL
);
CREATE INDEX sl_chunks_document ON sl_chunks (document_key);
CREATE INDEX sl_chunks_text ON sl_chunks (text_hash) WHERE embedding_hash IS NULL;

-- The state of a point in a generation.
CREATE TABLE sl_states (
    generation_id INTEGER NOT NULL REFERENCES sl_generations,
    chunk_key     INTEGER NOT NULL REFERENCES sl_chunks,
    index_status  TEXT NOT NULL,          -- pending | indexed | stale | failed
    stale_reason  TEXT,                   -- superseded | marked
    acknowledged  INTEGER NOT NULL DEFAULT 0,
    vector_hash   BLOB,                   -- of the vector as stored, where no second copy of it is kept
    attempts      INTEGER NOT NULL DEFAULT 0,
    error         TEXT,
    lease_owner   TEXT,                   -- leases of single chunks are for workers; a sync leases whole revisions
    lease_until   REAL,
    purge_after   REAL,                   -- set when condemned
    PRIMARY KEY (chunk_key, generation_id) -- chunk first: no planner should start from a whole generation
) WITHOUT ROWID;
CREATE INDEX sl_states_condemned ON sl_states (generation_id, purge_after) WHERE purge_after IS NOT NULL;

-- Revisions that were begun and not yet switched to: what a crash leaves to finish.
CREATE TABLE sl_revisions (
    document_key  INTEGER NOT NULL REFERENCES sl_documents,
    revision      INTEGER NOT NULL,
    generation_id INTEGER NOT NULL REFERENCES sl_generations,
    base_revision INTEGER NOT NULL,
    source_id     INTEGER NOT NULL REFERENCES sl_sources,
    digest        BLOB,
    source_digest BLOB,
    members       TEXT NOT NULL,          -- JSON: chunk_key in order of position
    lease_owner   TEXT NOT NULL,
    lease_until   REAL NOT NULL,
    PRIMARY KEY (document_key, revision)
);

-- Vectors that were paid for, by vector space and text hash (or hash of a given vector).
CREATE TABLE sl_embeddings (
    fingerprint TEXT NOT NULL,
    hash        BLOB NOT NULL,
    vector      BLOB NOT NULL,
    created_at  REAL NOT NULL,
    PRIMARY KEY (fingerprint, hash)
);

-- Append-only.
CREATE TABLE sl_events (
    event_id      INTEGER PRIMARY KEY,
    at            REAL NOT NULL,
    collection_id INTEGER NOT NULL,
    kind          TEXT NOT NULL,
    document_id   TEXT,
    detail        TEXT NOT NULL           -- JSON
);
