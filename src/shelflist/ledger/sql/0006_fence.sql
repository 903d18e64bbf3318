-- The highest number that callers gave their revisions of a document, 0 without one, apart from the ledger's own count: a
-- deletion, or a repetition of what failed, takes a new number from the count and none from the caller.

ALTER TABLE sl_documents ADD COLUMN fence INTEGER NOT NULL DEFAULT 0;
-- Until now both were one; a removal had taken the next number.
UPDATE sl_documents SET fence = CASE WHEN removed_at IS NULL THEN revision ELSE revision - 1 END WHERE revision > 0;
ALTER TABLE sl_revisions ADD COLUMN fence INTEGER NOT NULL DEFAULT 0;
UPDATE sl_revisions SET fence = revision;
