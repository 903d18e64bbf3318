-- Texts that somebody is embedding at this moment: whoever needs them too waits for the vectors instead of paying again.

CREATE TABLE sl_claims (
    fingerprint TEXT NOT NULL,
    hash        BLOB NOT NULL,
    lease_owner TEXT NOT NULL,
    lease_until REAL NOT NULL,
    PRIMARY KEY (fingerprint, hash)
);
