-- Imports that go on where they were cut off: each chunk of a file is staged and merged in one
-- transaction, which also notes how far it came. Runs with the code, while no import is under way.

DROP TABLE pgsync_modules.contact_import_row;

ALTER TABLE pgsync_modules.contact
    ADD COLUMN import_id bigint;

COMMENT ON COLUMN pgsync_modules.contact.import_id IS 'The import that last made or changed it.';

ALTER TABLE pgsync_modules.contact_import
    DROP COLUMN merged_through,
    DROP CONSTRAINT contact_import_state_check,
    ADD COLUMN digest text,
    ADD COLUMN settings jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN total bigint,
    ADD COLUMN through bigint NOT NULL DEFAULT 0,
    ADD COLUMN resumed integer NOT NULL DEFAULT 0,
    ALTER COLUMN state SET DEFAULT 'running';

UPDATE pgsync_modules.contact_import
SET state = 'abandoned', finished_at = clock_timestamp()
WHERE state IN ('reading', 'merging');

ALTER TABLE pgsync_modules.contact_import
    ADD CONSTRAINT contact_import_state_check
        CHECK (state IN ('running', 'completed', 'failed', 'abandoned'));

COMMENT ON COLUMN pgsync_modules.contact_import.state IS 'running, completed, failed (an import of the same file goes on with it), or abandoned (an import of another file took its place).';
COMMENT ON COLUMN pgsync_modules.contact_import.rows IS 'Rows done that are not blank, without the header: imported + updated + duplicates + rejected.';
COMMENT ON COLUMN pgsync_modules.contact_import.digest IS 'SHA-256 of the file, in hex.';
COMMENT ON COLUMN pgsync_modules.contact_import.settings IS 'How the file was read: with other settings the same file is another import.';
COMMENT ON COLUMN pgsync_modules.contact_import.total IS 'How many rows the file has that are not blank, without the header.';
COMMENT ON COLUMN pgsync_modules.contact_import.through IS 'The number of the last row that is done; 0 before the first.';
COMMENT ON COLUMN pgsync_modules.contact_import.resumed IS 'How often it was cut off and went on.';
