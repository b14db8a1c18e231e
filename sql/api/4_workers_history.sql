-- The history of jobs.
--
-- To add or drop a partition takes a lock for which everybody's completions would queue behind it
-- while somebody reads the history. So it waits but for a moment, and is tried again later.

CREATE OR REPLACE FUNCTION pgsync.prepare_history(days integer DEFAULT 7) RETURNS integer
LANGUAGE plpgsql VOLATILE SET lock_timeout = '200ms' AS $$
DECLARE
    day date;
    partition_name text;
    made integer := 0;
BEGIN
    PERFORM pgsync.check_count(days, 0, 366, 'days');
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
EXCEPTION WHEN lock_not_available THEN
    RETURN 0;
END
$$;

COMMENT ON FUNCTION pgsync.prepare_history(integer) IS
    'Makes the history''s partitions for today and the days ahead, and says how many were missing.';

CREATE OR REPLACE FUNCTION pgsync.drop_history(partition_name text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET lock_timeout = '200ms' AS $$
BEGIN
    EXECUTE format('DROP TABLE pgsync.%I', partition_name);
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;

COMMENT ON FUNCTION pgsync.drop_history(text) IS
    'Internal: drops one partition of the history; false where somebody reads it just now.';

CREATE OR REPLACE FUNCTION pgsync.prune_history(retention interval DEFAULT '7 days') RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    partition record;
    horizon timestamptz := pgsync.clock() - greatest(retention, (SELECT max(q.retention) FROM pgsync.queue AS q));
    dropped integer := 0;
BEGIN
    FOR partition IN
        SELECT c.relname, to_date(right(c.relname, 8), 'YYYYMMDD') AS day
        FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'pgsync.job_finished'::regclass AND c.relname ~ '^job_finished_\d{8}$'
        ORDER BY c.relname
    LOOP
        IF (partition.day + 1)::timestamp AT TIME ZONE 'UTC' <= horizon THEN
            dropped := dropped + pgsync.drop_history(partition.relname)::integer;
        END IF;
    END LOOP;
    DELETE FROM pgsync.job_finished_default AS f WHERE f.finished_at < horizon;
    RETURN dropped;
END
$$;

COMMENT ON FUNCTION pgsync.prune_history(interval) IS
    'Drops the history''s partitions that are older than retention, or than that of the queue that keeps its jobs longest, and says how many.';

CREATE OR REPLACE FUNCTION pgsync.prune_queue_history(
    retention interval DEFAULT '7 days', batch integer DEFAULT 1000000
) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    shortest interval := (SELECT min(q.retention) FROM pgsync.queue AS q);
    pruned integer;
BEGIN
    IF shortest IS NULL THEN
        RETURN 0;
    END IF;
    DELETE FROM pgsync.job_finished AS f
    USING (
        SELECT o.tableoid, o.ctid FROM pgsync.job_finished AS o LEFT JOIN pgsync.queue AS q ON q.name = o.queue
        WHERE o.finished_at < moment - least(prune_queue_history.retention, shortest)
          AND o.finished_at < moment - coalesce(q.retention, prune_queue_history.retention)
        LIMIT prune_queue_history.batch
    ) AS old
    WHERE f.tableoid = old.tableoid AND f.ctid = old.ctid;
    GET DIAGNOSTICS pruned = ROW_COUNT;
    RETURN pruned;
END
$$;

COMMENT ON FUNCTION pgsync.prune_queue_history(interval, integer) IS
    'Where a queue has a retention of its own: deletes up to batch ended jobs that are older than their queue keeps them, and says how many.';

CREATE OR REPLACE FUNCTION pgsync.retain_queue(queue text, retention interval) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pgsync.check_name(queue, 'queue');
    IF retention IS NOT NULL THEN
        PERFORM pgsync.check_duration(retention, 'retention');
    END IF;
    INSERT INTO pgsync.queue AS q (name, retention) VALUES (retain_queue.queue, retain_queue.retention)
    ON CONFLICT (name) DO UPDATE SET retention = excluded.retention;
END
$$;

COMMENT ON FUNCTION pgsync.retain_queue(text, interval) IS
    'Sets how long the ended jobs of a queue are kept; null: as long as those of others.';
