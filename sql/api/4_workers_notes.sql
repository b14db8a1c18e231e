-- What an attempt leaves behind besides its end: that it was released, and what its handler logged.

CREATE OR REPLACE FUNCTION pgsync.note_jobs(
    jobs bigint[], attempts integer[], event text, workers bigint[], started timestamptz[], details jsonb[]
) RETURNS integer
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    most constant integer := 50;
    full_jobs bigint[];
    noted integer;
BEGIN
    WITH added AS (
        INSERT INTO pgsync.job_note AS n (job, number, attempt, event, at, worker, started_at, detail)
        SELECT g.job, coalesce(l.number, 0) + 1, g.attempt, note_jobs.event, pgsync.clock(), g.worker, g.started, g.detail
        FROM unnest(jobs, attempts, workers, started, details) AS g (job, attempt, worker, started, detail)
        LEFT JOIN LATERAL (
            SELECT o.number FROM pgsync.job_note AS o WHERE o.job = g.job ORDER BY o.number DESC LIMIT 1) AS l ON true
        -- A worker that was given up for dead may note at the same time as the next: one note is lost.
        ON CONFLICT DO NOTHING
        RETURNING n.job, n.number
    )
    SELECT count(*), array_agg(a.job) FILTER (WHERE a.number > most) INTO noted, full_jobs FROM added AS a;
    IF full_jobs IS NOT NULL THEN
        DELETE FROM pgsync.job_note AS n USING unnest(full_jobs) AS f (job)
        WHERE n.job = f.job AND n.number <= (
            SELECT max(l.number) FROM pgsync.job_note AS l WHERE l.job = f.job) - most;
    END IF;
    RETURN noted;
END
$$;

COMMENT ON FUNCTION pgsync.note_jobs(bigint[], integer[], text, bigint[], timestamptz[], jsonb[]) IS
    'Internal: keeps a note of each job, and of each job its last 50.';

CREATE OR REPLACE FUNCTION pgsync.keep_logs(worker bigint, ids bigint[], attempts integer[], logs jsonb[]) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF (cardinality(ids) = cardinality(attempts) AND cardinality(ids) = cardinality(logs)
        AND array_position(attempts, NULL) IS NULL) IS NOT TRUE THEN
        RAISE invalid_parameter_value USING MESSAGE = 'as many ids, attempts and logs belong together';
    END IF;
    RETURN pgsync.note_jobs(ids, attempts, 'log', array_fill(worker, ARRAY[cardinality(ids)]), NULL, logs);
END
$$;

COMMENT ON FUNCTION pgsync.keep_logs(bigint, bigint[], integer[], jsonb[]) IS
    'Keeps what the handlers of attempts that end have logged (lines: an array of times and texts; dropped: how many more there were), and says of how many.';

CREATE OR REPLACE FUNCTION pgsync.prune_notes(retention interval DEFAULT '7 days', batch integer DEFAULT 100000) RETURNS integer
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off AS $$
DECLARE
    horizon timestamptz := pgsync.clock() - greatest(retention, (SELECT max(q.retention) FROM pgsync.queue AS q));
    pruned integer;
BEGIN
    DELETE FROM pgsync.job_note AS n WHERE n.ctid = ANY (ARRAY(
        SELECT o.ctid FROM pgsync.job_note AS o WHERE o.at < horizon LIMIT batch));
    GET DIAGNOSTICS pruned = ROW_COUNT;
    RETURN pruned;
END
$$;

COMMENT ON FUNCTION pgsync.prune_notes(interval, integer) IS
    'Removes up to batch notes of jobs that are older than the history is kept, and says how many.';

CREATE OR REPLACE VIEW pgsync.job_notes AS
SELECT n.job, n.number, n.at, n.event, n.attempt, n.worker, n.started_at, n.detail
FROM pgsync.job_note AS n;

COMMENT ON VIEW pgsync.job_notes IS
    'What attempts left behind besides their end, in the order of number: that they were released (detail: delay, reason), and what their handlers logged (detail: lines, dropped). Of each job the last 50.';
