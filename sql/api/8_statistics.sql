-- Statistics that faces read instead of counting jobs. What ended is counted from the history, once
-- each, some seconds later: the completions themselves have nothing to do for it.

CREATE OR REPLACE FUNCTION pgsync.history_settled_until() RETURNS timestamptz
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    -- Read before the locks. A job's end may be read from the clock shortly before its row is
    -- written (give_back_jobs does), hence the ten seconds.
    moment timestamptz := pgsync.clock() - interval '10 seconds';
BEGIN
    -- Whoever writes history holds this lock until its transaction ends, and wrote no earlier end
    -- than its transaction's start. Where that start is not known (a prepared transaction, another
    -- role's session) nothing is settled.
    RETURN least(moment, (
        SELECT min(coalesce(a.xact_start, '-infinity')) FROM pg_locks AS l
        LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
        WHERE l.locktype = 'relation' AND l.relation = 'pgsync.job_finished'::regclass
          AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
          AND l.mode = 'RowExclusiveLock' AND l.pid IS DISTINCT FROM pg_backend_pid()));
END
$$;

COMMENT ON FUNCTION pgsync.history_settled_until() IS
    'No job will appear in the history any more that ended before this moment.';

-- As the owner of the index, which only its owner may summarize.
CREATE OR REPLACE FUNCTION pgsync.summarize_history(since timestamptz) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pgsync, pg_temp
SET lock_timeout = '200ms' AS $$
DECLARE
    part record;
    page bigint;
    summarized integer := 0;
BEGIN
    FOR part IN
        SELECT i.indexrelid AS index, pg_relation_size(i.indrelid) / current_setting('block_size')::integer AS pages
        FROM pg_inherits AS h
        JOIN pg_index AS i ON i.indexrelid = h.inhrelid
        JOIN pg_class AS c ON c.oid = i.indrelid
        WHERE h.inhparent = 'pgsync.job_finished_at'::regclass
          AND c.relname >= 'job_finished_' || to_char(since AT TIME ZONE 'UTC' - interval '1 day', 'YYYYMMDD')
    LOOP
        -- From the last range that nobody appends to any more, back to what was summarized before.
        -- Ranges at the end are not: each completion would have to widen them.
        page := (part.pages / 64 - 3) * 64;
        BEGIN
            WHILE page >= 0 AND brin_summarize_range(part.index::regclass, page) > 0 LOOP
                summarized := summarized + 1;
                page := page - 64;
            END LOOP;
        EXCEPTION WHEN lock_not_available THEN
            NULL;  -- It is being vacuumed, which summarizes too.
        END;
    END LOOP;
    RETURN summarized;
END
$$;

COMMENT ON FUNCTION pgsync.summarize_history(timestamptz) IS
    'Has the index on finished_at know the full ranges of pages of the days since then, so that what ended lately is found without reading the whole day. Says how many ranges were new.';

CREATE OR REPLACE FUNCTION pgsync.duration_bounds() RETURNS float8[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '{0.01,0.05,0.1,0.5,1,5,15,60,300,1800,7200,Infinity}'::float8[];

COMMENT ON FUNCTION pgsync.duration_bounds() IS
    'The longest durations, in seconds, of the buckets that jobs are counted in by how long they waited and ran.';

CREATE OR REPLACE FUNCTION pgsync.duration_bucket(duration interval) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- Each bound belongs to its bucket, hence the microsecond.
RETURN (pgsync.duration_bounds())[1 + width_bucket(duration, ARRAY[
    '00:00:00.010001', '00:00:00.050001', '00:00:00.100001', '00:00:00.500001', '00:00:01.000001', '00:00:05.000001',
    '00:00:15.000001', '00:01:00.000001', '00:05:00.000001', '00:30:00.000001', '02:00:00.000001']::interval[])];

COMMENT ON FUNCTION pgsync.duration_bucket(interval) IS
    'The first of duration_bounds() that is no less than a duration.';

CREATE OR REPLACE FUNCTION pgsync.count_throughput() RETURNS bigint
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    since timestamptz;
    settled timestamptz;
    counted bigint;
BEGIN
    SELECT m.counted_until INTO since FROM pgsync.throughput_mark AS m FOR UPDATE;
    settled := pgsync.history_settled_until();
    -- At most an hour at once: what a long pause has left is caught up with in steps.
    settled := least(settled, since + interval '1 hour');
    IF settled <= since THEN
        RETURN 0;
    END IF;
    PERFORM pgsync.summarize_history(since);
    WITH ended AS (
        SELECT date_trunc('minute', f.finished_at, 'UTC') AS minute, f.queue, f.task, f.state AS outcome,
               pgsync.duration_bucket(f.started_at - f.run_at) AS waited_up_to,
               pgsync.duration_bucket(f.finished_at - f.started_at) AS ran_up_to,
               count(*) AS jobs,
               coalesce(sum(f.started_at - f.run_at), '0') AS waited,
               coalesce(sum(f.finished_at - f.started_at), '0') AS ran,
               max(f.started_at - f.run_at) AS longest_wait, max(f.finished_at - f.started_at) AS longest_run
        FROM pgsync.job_finished AS f
        WHERE f.finished_at >= since AND f.finished_at < settled
        GROUP BY 1, 2, 3, 4, 5, 6
    ), minutes AS (
        INSERT INTO pgsync.throughput_minute AS t
        SELECT e.minute, e.queue, e.task, e.outcome, sum(e.jobs), sum(e.waited), sum(e.ran),
               max(e.longest_wait), max(e.longest_run)
        FROM ended AS e GROUP BY 1, 2, 3, 4
        ON CONFLICT (minute, queue, task, outcome) DO UPDATE
        SET jobs = t.jobs + excluded.jobs, waited = t.waited + excluded.waited, ran = t.ran + excluded.ran,
            longest_wait = greatest(t.longest_wait, excluded.longest_wait),
            longest_run = greatest(t.longest_run, excluded.longest_run)
    ), hours AS (
        INSERT INTO pgsync.throughput_hour AS t
        SELECT date_trunc('hour', e.minute, 'UTC'), e.queue, e.task, e.outcome, sum(e.jobs), sum(e.waited),
               sum(e.ran), max(e.longest_wait), max(e.longest_run)
        FROM ended AS e GROUP BY 1, 2, 3, 4
        ON CONFLICT (hour, queue, task, outcome) DO UPDATE
        SET jobs = t.jobs + excluded.jobs, waited = t.waited + excluded.waited, ran = t.ran + excluded.ran,
            longest_wait = greatest(t.longest_wait, excluded.longest_wait),
            longest_run = greatest(t.longest_run, excluded.longest_run)
    ), totals AS (
        INSERT INTO pgsync.throughput_total AS t
        SELECT e.queue, e.task, e.outcome, sum(e.jobs), sum(e.waited), sum(e.ran), settled
        FROM ended AS e GROUP BY 1, 2, 3
        ON CONFLICT (queue, task, outcome) DO UPDATE
        SET jobs = t.jobs + excluded.jobs, waited = t.waited + excluded.waited, ran = t.ran + excluded.ran,
            counted_at = excluded.counted_at
    ), durations AS (
        INSERT INTO pgsync.duration_total AS t
        SELECT e.queue, e.task, m.measure, m.up_to, sum(e.jobs), sum(m.total), settled
        FROM ended AS e
        CROSS JOIN LATERAL (VALUES ('wait', e.waited_up_to, e.waited), ('run', e.ran_up_to, e.ran)) AS m (measure, up_to, total)
        WHERE m.up_to IS NOT NULL
        GROUP BY 1, 2, 3, 4
        ON CONFLICT (queue, task, measure, up_to) DO UPDATE
        SET jobs = t.jobs + excluded.jobs, total = t.total + excluded.total, counted_at = excluded.counted_at
    )
    SELECT coalesce(sum(e.jobs), 0) INTO counted FROM ended AS e;
    UPDATE pgsync.throughput_mark AS m SET counted_until = settled;
    RETURN counted;
END
$$;

COMMENT ON FUNCTION pgsync.count_throughput() IS
    'Counts what has ended since the last time, as far as no open transaction can add to it, and says how many jobs that were. Each is counted once: the mark moves in the same transaction.';

CREATE OR REPLACE FUNCTION pgsync.queues_now(most integer DEFAULT 10000)
RETURNS TABLE (queue text, available bigint, scheduled bigint, waiting bigint, running bigint, oldest_ready interval)
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    moment timestamptz := pgsync.clock();
BEGIN
    RETURN QUERY
    WITH RECURSIVE heads AS (
        -- The first job of each queue and priority, from index entry to index entry.
        (SELECT r.queue, r.priority, r.run_at FROM pgsync.job_ready AS r
         ORDER BY r.queue, r.priority, r.position LIMIT 1)
        UNION ALL
        SELECT n.queue, n.priority, n.run_at
        FROM heads AS h CROSS JOIN LATERAL (
            SELECT r.queue, r.priority, r.run_at FROM pgsync.job_ready AS r
            WHERE (r.queue, r.priority) > (h.queue, h.priority)
            ORDER BY r.queue, r.priority, r.position LIMIT 1) AS n
    ), available AS (
        SELECT h.queue, min(h.run_at) AS oldest,
               (SELECT count(*) FROM (SELECT FROM pgsync.job_ready AS r WHERE r.queue = h.queue
                                      LIMIT queues_now.most) AS c) AS jobs
        FROM heads AS h GROUP BY h.queue
    ), others AS (
        SELECT j.queue, j.state, count(*) AS jobs FROM (
            (SELECT s.queue, 'scheduled' AS state FROM pgsync.job_scheduled AS s
             ORDER BY s.run_at LIMIT queues_now.most)
            UNION ALL (SELECT w.queue, 'waiting' FROM pgsync.job_waiting AS w LIMIT queues_now.most)
            UNION ALL (SELECT r.queue, 'running' FROM pgsync.job_running AS r LIMIT queues_now.most)
        ) AS j GROUP BY 1, 2
    )
    SELECT n.queue, coalesce(max(a.jobs), 0),
           coalesce(max(o.jobs) FILTER (WHERE o.state = 'scheduled'), 0),
           coalesce(max(o.jobs) FILTER (WHERE o.state = 'waiting'), 0),
           coalesce(max(o.jobs) FILTER (WHERE o.state = 'running'), 0),
           greatest(moment - min(a.oldest), '0')
    FROM (SELECT a.queue FROM available AS a UNION SELECT o.queue FROM others AS o) AS n
    LEFT JOIN available AS a ON a.queue = n.queue
    LEFT JOIN others AS o ON o.queue = n.queue
    GROUP BY n.queue;
END
$$;

COMMENT ON FUNCTION pgsync.queues_now(integer) IS
    'How deep each queue that has jobs is, counting to most, and how long its first jobs have waited.';

CREATE OR REPLACE FUNCTION pgsync.snapshot_queues(most integer DEFAULT 100000) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    seen integer;
BEGIN
    INSERT INTO pgsync.queue_snapshot (at, queue, available, scheduled, waiting, running, oldest_ready)
    SELECT moment, coalesce(n.queue, e.queue), coalesce(n.available, 0), coalesce(n.scheduled, 0),
           coalesce(n.waiting, 0), coalesce(n.running, 0), n.oldest_ready
    FROM pgsync.queues_now(most) AS n
    -- What has emptied since says so once.
    FULL JOIN (
        SELECT s.queue FROM pgsync.queue_snapshot AS s
        WHERE s.at = (SELECT max(l.at) FROM pgsync.queue_snapshot AS l)
          AND s.available + s.scheduled + s.waiting + s.running > 0
    ) AS e ON e.queue = n.queue
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS seen = ROW_COUNT;
    RETURN seen;
END
$$;

COMMENT ON FUNCTION pgsync.snapshot_queues(integer) IS
    'Notes how deep each queue is and how long its first jobs have waited, counting to most; says of how many queues.';

CREATE OR REPLACE FUNCTION pgsync.prune_statistics(
    minutes interval DEFAULT '6 hours', hours interval DEFAULT '35 days', snapshots interval DEFAULT '1 day'
) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    pruned bigint;
BEGIN
    WITH a AS (DELETE FROM pgsync.throughput_minute AS t WHERE t.minute < moment - minutes RETURNING 1),
         b AS (DELETE FROM pgsync.throughput_hour AS t WHERE t.hour < moment - hours RETURNING 1),
         c AS (DELETE FROM pgsync.queue_snapshot AS s WHERE s.at < moment - snapshots RETURNING 1),
         d AS (DELETE FROM pgsync.throughput_total AS t WHERE t.counted_at < moment - hours RETURNING 1),
         -- All buckets of a task together, or its count would fall.
         e AS (DELETE FROM pgsync.duration_total AS t WHERE NOT EXISTS (
                   SELECT FROM pgsync.duration_total AS o WHERE o.queue = t.queue AND o.task = t.task
                     AND o.counted_at >= moment - hours) RETURNING 1)
    SELECT (SELECT count(*) FROM a) + (SELECT count(*) FROM b) + (SELECT count(*) FROM c) + (SELECT count(*) FROM d)
         + (SELECT count(*) FROM e)
    INTO pruned;
    RETURN pruned;
END
$$;

COMMENT ON FUNCTION pgsync.prune_statistics(interval, interval, interval) IS
    'Forgets statistics by minute, by hour (and totals that have stood still as long) and snapshots of queues that are older than these, and says how many rows.';

CREATE OR REPLACE VIEW pgsync.throughput AS
SELECT t.minute, t.queue, t.task, t.outcome, t.jobs, t.waited / t.jobs AS mean_wait, t.ran / t.jobs AS mean_run,
       t.longest_wait, t.longest_run
FROM pgsync.throughput_minute AS t;

COMMENT ON VIEW pgsync.throughput IS
    'Jobs that ended in each minute of the last hours, by queue, task and outcome: how many, how long they waited and ran. Half a minute behind, or as long as a transaction that ends jobs stays open.';

CREATE OR REPLACE VIEW pgsync.throughput_hourly AS
SELECT t.hour, t.queue, t.task, t.outcome, t.jobs, t.waited / t.jobs AS mean_wait, t.ran / t.jobs AS mean_run,
       t.longest_wait, t.longest_run
FROM pgsync.throughput_hour AS t;

COMMENT ON VIEW pgsync.throughput_hourly IS 'As pgsync.throughput, for each hour of the last weeks.';

CREATE OR REPLACE VIEW pgsync.queue_depth AS
SELECT s.at, s.queue, s.available, s.scheduled, s.waiting, s.running, s.oldest_ready
FROM pgsync.queue_snapshot AS s;

COMMENT ON VIEW pgsync.queue_depth IS 'How deep the queues were in each minute of the last day; counts end at 100,000.';

CREATE OR REPLACE VIEW pgsync.figures AS
SELECT m.counted_until,
       coalesce((SELECT sum(t.jobs) FROM pgsync.throughput_minute AS t
                 WHERE t.minute = date_trunc('minute', m.counted_until - interval '1 minute', 'UTC')), 0)::bigint AS jobs_per_minute,
       h.jobs_past_hour, h.discarded_past_hour, w.discarded_past_week, h.longest_wait_past_hour,
       (SELECT t.queue FROM pgsync.throughput_minute AS t WHERE t.minute > m.counted_until - interval '1 hour'
        GROUP BY t.queue ORDER BY sum(t.jobs) DESC, t.queue LIMIT 1) AS busiest_queue,
       (SELECT t.queue FROM pgsync.throughput_minute AS t WHERE t.minute > m.counted_until - interval '1 hour'
        GROUP BY t.queue ORDER BY sum(t.ran) / sum(t.jobs) DESC, t.queue LIMIT 1) AS slowest_queue
FROM pgsync.throughput_mark AS m
CROSS JOIN LATERAL (
    SELECT coalesce(sum(t.jobs), 0)::bigint AS jobs_past_hour,
           coalesce(sum(t.jobs) FILTER (WHERE t.outcome = 'discarded'), 0)::bigint AS discarded_past_hour,
           max(t.longest_wait) AS longest_wait_past_hour
    FROM pgsync.throughput_minute AS t WHERE t.minute > m.counted_until - interval '1 hour') AS h
CROSS JOIN LATERAL (
    SELECT coalesce(sum(t.jobs), 0)::bigint AS discarded_past_week
    FROM pgsync.throughput_hour AS t
    WHERE t.outcome = 'discarded' AND t.hour > m.counted_until - interval '7 days') AS w;

COMMENT ON VIEW pgsync.figures IS
    'What an operator looks at first, in one row: jobs in the last full minute and in the past hour, discarded ones in the past hour and week, the longest wait, the busiest queue and the slowest (by mean run).';

CREATE OR REPLACE VIEW pgsync.workload AS
SELECT s.queue, s.available, s.scheduled, s.waiting, s.running, s.oldest_ready,
       coalesce(h.jobs, 0)::bigint AS jobs_past_hour, coalesce(h.discarded, 0)::bigint AS discarded_past_hour,
       h.mean_wait, h.mean_run, s.at
FROM pgsync.queue_snapshot AS s
LEFT JOIN (
    SELECT t.queue, sum(t.jobs) AS jobs, sum(t.jobs) FILTER (WHERE t.outcome = 'discarded') AS discarded,
           sum(t.waited) / sum(t.jobs) AS mean_wait, sum(t.ran) / sum(t.jobs) AS mean_run
    FROM pgsync.throughput_minute AS t
    WHERE t.minute > (SELECT m.counted_until FROM pgsync.throughput_mark AS m) - interval '1 hour'
    GROUP BY t.queue
) AS h ON h.queue = s.queue
WHERE s.at = (SELECT max(l.at) FROM pgsync.queue_snapshot AS l);

COMMENT ON VIEW pgsync.workload IS
    'Each queue at the last snapshot (a minute old at most), and what it did in the past hour, without counting jobs.';
