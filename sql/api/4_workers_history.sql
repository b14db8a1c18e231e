-- The history of jobs, and who keeps house.

CREATE OR REPLACE FUNCTION pgsync.prepare_history(days integer DEFAULT 7) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    day date;
    partition_name text;
    made integer := 0;
BEGIN
    FOR day IN SELECT (pgsync.clock() AT TIME ZONE 'UTC')::date + n FROM generate_series(0, days) AS n LOOP
        partition_name := 'job_finished_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass('pgsync.' || partition_name) IS NOT NULL;
        -- A partition cannot be made for rows that the default one has taken already.
        CONTINUE WHEN EXISTS (
            SELECT FROM pgsync.job_finished_default AS f
            WHERE f.finished_at >= day::timestamp AT TIME ZONE 'UTC'
              AND f.finished_at < (day + 1)::timestamp AT TIME ZONE 'UTC');
        EXECUTE format('CREATE TABLE pgsync.%I PARTITION OF pgsync.job_finished FOR VALUES FROM (%L) TO (%L)',
            partition_name, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
        EXECUTE format('COMMENT ON TABLE pgsync.%I IS %L', partition_name, 'History of ' || day || ' (UTC).');
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;

COMMENT ON FUNCTION pgsync.prepare_history(integer) IS
    'Makes the history''s partitions for today and the days ahead, and says how many were missing.';

CREATE OR REPLACE FUNCTION pgsync.prune_history(retention interval DEFAULT '7 days') RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    partition record;
    horizon timestamptz := pgsync.clock() - retention;
    dropped integer := 0;
BEGIN
    FOR partition IN
        SELECT c.relname, to_date(right(c.relname, 8), 'YYYYMMDD') AS day
        FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'pgsync.job_finished'::regclass AND c.relname ~ '^job_finished_\d{8}$'
    LOOP
        IF (partition.day + 1)::timestamp AT TIME ZONE 'UTC' <= horizon THEN
            EXECUTE format('DROP TABLE pgsync.%I', partition.relname);
            dropped := dropped + 1;
        END IF;
    END LOOP;
    DELETE FROM pgsync.job_finished_default AS f WHERE f.finished_at < horizon;
    RETURN dropped;
END
$$;

COMMENT ON FUNCTION pgsync.prune_history(interval) IS
    'Drops the history''s partitions that are older than retention, and says how many.';

CREATE OR REPLACE FUNCTION pgsync.lead_maintenance() RETURNS boolean
LANGUAGE sql VOLATILE AS $$
    SELECT pg_try_advisory_lock(pgsync.lock_key('pgsync.maintenance'))
$$;

COMMENT ON FUNCTION pgsync.lead_maintenance() IS
    'Makes this session the one that does the house-keeping, until it ends; false where another is. Ask once a session until it says true.';
