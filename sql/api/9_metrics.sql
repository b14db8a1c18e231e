-- Metrics of the database as a whole, for Prometheus or whoever asks: few rows, and nothing counted.

CREATE OR REPLACE VIEW pgsync.metrics AS
-- A snapshot that nobody renews says nothing any more: absent is what alerts can tell from zero.
WITH depth AS (
    SELECT s.* FROM pgsync.queue_snapshot AS s
    WHERE s.at = (SELECT max(l.at) FROM pgsync.queue_snapshot AS l) AND s.at > pgsync.clock() - interval '5 min'
), duration AS (
    SELECT jsonb_build_object('queue', t.queue, 'task', t.task) AS labels,
           sum(t.jobs)::float8 AS jobs, sum(t.waited) AS waited, sum(t.ran) AS ran
    FROM pgsync.throughput_total AS t GROUP BY t.queue, t.task
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
SELECT m.metric, d.labels, m.value
FROM duration AS d CROSS JOIN LATERAL (VALUES
    ('pgsync_job_wait_seconds_count', d.jobs), ('pgsync_job_wait_seconds_sum', extract(epoch FROM d.waited)::float8),
    ('pgsync_job_run_seconds_count', d.jobs), ('pgsync_job_run_seconds_sum', extract(epoch FROM d.ran)::float8)
) AS m (metric, value)
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
