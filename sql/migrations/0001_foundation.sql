-- The schema and the record of what has been applied to it.
-- Runs before the code that needs it. No superuser: the role needs CREATE on the database, or to
-- own a schema pgsync that a DBA made for it.

DO $$
BEGIN
    -- CREATE SCHEMA IF NOT EXISTS asks for CREATE on the database even where the schema exists.
    IF to_regnamespace('pgsync') IS NULL THEN
        CREATE SCHEMA pgsync;
    END IF;
END
$$;

COMMENT ON SCHEMA pgsync IS
    'Coordination: locks, job queues, rate limits, schedules and operations. Read the views, call the functions.';

CREATE TABLE pgsync.schema_migration (
    component text NOT NULL,
    version integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (component, version)
);

COMMENT ON TABLE pgsync.schema_migration IS 'Every migration applied to this database.';
COMMENT ON COLUMN pgsync.schema_migration.component IS 'kernel, api (version 0, whose checksum names the functions and views installed) or modules.';
COMMENT ON COLUMN pgsync.schema_migration.version IS 'The number that the file name begins with.';
COMMENT ON COLUMN pgsync.schema_migration.name IS 'The file name without its number and ending.';
COMMENT ON COLUMN pgsync.schema_migration.checksum IS 'SHA-256 of the file''s text, in hex.';
COMMENT ON COLUMN pgsync.schema_migration.applied_at IS 'When it was applied.';
