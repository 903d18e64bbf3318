-- The keyword index beside the ledger, for collections whose store has none: where it is, and its last commit.
CREATE TABLE sl_keywords (
    collection_id INTEGER PRIMARY KEY REFERENCES sl_collections,
    place         INTEGER NOT NULL,       -- number of the build: a rebuild gets a new one, readers follow
    stamp         INTEGER NOT NULL        -- of the index's last commit: files that are older have been put back
);
