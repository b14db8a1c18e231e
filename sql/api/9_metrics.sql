-- Metrics of the database as a whole, for Prometheus or whoever asks: few rows, and nothing counted.

CREATE OR REPLACE VIEW pgsync.metrics AS
-- A snapshot that nobody renews says nothing any more: absent is what alerts can tell from zero.
WITH depth AS (
    SELECT s.* FROM pgsync.queue_snapshot AS s
    WHERE s.at = (SELECT max(l.at) FROM pgsync.queue_snapshot AS l) AND s.at > pgsync.clock() - interval '5 min'
), duration AS (
    SELECT t.queue, t.task, t.measure, 'pgsync_job_' || t.measure || '_seconds' AS metric,
           sum(t.jobs)::float8 AS jobs, extract(epoch FROM sum(t.total))::float8 AS seconds
    FROM pgsync.duration_total AS t GROUP BY t.queue, t.task, t.measure
), bucket AS (
    SELECT u.metric, u.queue, u.task, u.up_to,
           sum(sum(u.jobs)) OVER (PARTITION BY u.metric, u.queue, u.task ORDER BY u.up_to)::float8 AS jobs
    FROM (SELECT 'pgsync_job_' || t.measure || '_seconds' AS metric, t.queue, t.task, t.up_to, t.jobs
          FROM pgsync.duration_total AS t
          UNION ALL
          SELECT d.metric, d.queue, d.task, b.up_to, 0
          FROM duration AS d CROSS JOIN unnest(pgsync.duration_bounds()) AS b (up_to)) AS u
    GROUP BY u.metric, u.queue, u.task, u.up_to
)
SELECT 'pgsync_queue_jobs'::text AS metric,
       jsonb_build_object('queue', d.queue, 'state', c.state) AS labels, c.jobs::float8 AS value
FROM depth AS d CROSS JOIN LATERAL (VALUES
    ('available', d.available), ('scheduled', d.scheduled), ('waiting', d.waiting), ('running', d.running)
) AS c (state, jobs)
UNION ALL
SELECT 'pgsync_queue_oldest_ready_seconds', jsonb_build_object('queue', d.queue),
       coalesce(extract(epoch FROM d.oldest_ready), 0)::float8
FROM depth AS d
UNION ALL
SELECT 'pgsync_jobs_finished_total', jsonb_build_object('queue', t.queue, 'task', t.task, 'outcome', t.outcome),
       t.jobs::float8
FROM pgsync.throughput_total AS t
UNION ALL
SELECT b.metric || '_bucket', jsonb_build_object('queue', b.queue, 'task', b.task, 'le',
           CASE b.up_to WHEN 'Infinity' THEN '+Inf' ELSE b.up_to::text END), b.jobs
FROM bucket AS b
UNION ALL
SELECT d.metric || m.part, jsonb_build_object('queue', d.queue, 'task', d.task), m.value
FROM duration AS d CROSS JOIN LATERAL (VALUES ('_count', d.jobs), ('_sum', d.seconds)) AS m (part, value)
UNION ALL
SELECT 'pgsync_jobs_rescued_total', '{}',
       coalesce((SELECT t.total FROM pgsync.tally AS t WHERE t.name = 'jobs_rescued'), 0)::float8
UNION ALL
SELECT 'pgsync_workers', jsonb_build_object('kind', k.kind),
       (SELECT count(*) FROM pgsync.worker AS w
        WHERE k.kind = ANY (w.kinds) AND NOT w.given_up AND w.seen_at > pgsync.clock() - interval '1 min')::float8
FROM (VALUES ('worker'), ('scheduler'), ('maintenance')) AS k (kind)
UNION ALL
SELECT 'pgsync_schedule_lag_seconds', '{}',
       greatest(0, extract(epoch FROM pgsync.clock() - (
           SELECT min(s.next_fire_at) FROM pgsync.schedule AS s
           WHERE s.paused_at IS NULL AND s.disabled_at IS NULL AND s.next_fire_at > '-infinity')))::float8
UNION ALL
SELECT 'pgsync_maintenance_failures_total', jsonb_build_object('duty', d.duty), d.failures::float8
FROM pgsync.duty_run AS d
UNION ALL
SELECT 'pgsync_notify_queue_usage_ratio', '{}', pg_notification_queue_usage()
UNION ALL
SELECT 'pgsync_table_dead_ratio', jsonb_build_object('table', t.relname),
       t.n_dead_tup::float8 / greatest(t.n_live_tup + t.n_dead_tup, 1)
FROM pg_stat_user_tables AS t JOIN pg_class AS c ON c.oid = t.relid
-- Not the days of the history, whose number grows.
WHERE t.schemaname = 'pgsync' AND NOT c.relispartition
UNION ALL
SELECT 'pgsync_oldest_xmin_seconds', '{}',
       coalesce((SELECT extract(epoch FROM max(o.age)) FROM pgsync.oldest_snapshot AS o), 0)::float8;

COMMENT ON VIEW pgsync.metrics IS
    'Metrics of this database in the manner of Prometheus: name, labels and value. Depths are of the last snapshot (a minute old at most), ends of jobs are as far as they have been counted.';
