-- The queues as people read them.

CREATE OR REPLACE VIEW pgsync.jobs AS
SELECT r.id, r.queue, r.task, r.args, 'available'::text AS state, r.priority, r.attempt,
       r.max_attempts, r.created_at, r.run_at, r.unique_key, r.errors,
       NULL::bigint AS worker, NULL::timestamptz AS started_at,
       NULL::timestamptz AS cancel_requested_at, r.key, r.batch, r.after,
       NULL::jsonb AS progress, r.lock_name, r.tenant, r.args -> 'pgsync:tags' AS tags
FROM pgsync.job_ready AS r
UNION ALL
SELECT s.id, s.queue, s.task, s.args, s.state, s.priority, s.attempt,
       s.max_attempts, s.created_at, s.run_at, s.unique_key, s.errors, NULL, NULL, NULL,
       s.key, s.batch, s.after, NULL, s.lock_name, s.tenant, s.args -> 'pgsync:tags'
FROM pgsync.job_scheduled AS s
UNION ALL
SELECT w.id, w.queue, w.task, w.args, 'waiting', w.priority, w.attempt,
       w.max_attempts, w.created_at, w.run_at, w.unique_key, w.errors, NULL, NULL, NULL,
       w.key, w.batch, w.after, NULL, w.lock_name, w.tenant, w.args -> 'pgsync:tags'
FROM pgsync.job_waiting AS w
UNION ALL
SELECT r.id, r.queue, r.task, r.args, 'running', r.priority, r.attempt,
       r.max_attempts, r.created_at, r.run_at, r.unique_key, r.errors,
       r.worker, r.started_at, r.cancel_requested_at, r.key, r.batch, r.after, r.progress,
       r.lock_name, r.tenant, r.args -> 'pgsync:tags'
FROM pgsync.job_running AS r;

COMMENT ON VIEW pgsync.jobs IS
    'Jobs that have not ended: available, scheduled, retryable, waiting (for a slot of their key, for their lock, or for other jobs) or running.';

CREATE OR REPLACE VIEW pgsync.job_history AS
SELECT f.id, f.queue, f.task, f.args, f.state, f.priority, f.attempt,
       f.max_attempts, f.created_at, f.run_at, f.unique_key, f.errors,
       f.worker, f.started_at, f.finished_at, f.result,
       f.started_at - f.run_at AS waited, f.finished_at - f.started_at AS ran,
       f.key, f.batch, f.after, f.lock_name, f.tenant, f.args -> 'pgsync:tags' AS tags
FROM pgsync.job_finished AS f;

COMMENT ON VIEW pgsync.job_history IS 'Jobs that have ended: completed, discarded or cancelled.';

CREATE OR REPLACE VIEW pgsync.all_jobs AS
SELECT j.id, j.queue, j.task, j.args, j.state, j.priority, j.attempt, j.max_attempts, j.created_at, j.run_at,
       j.unique_key, j.errors, j.worker, j.started_at, NULL::timestamptz AS finished_at, NULL::jsonb AS result,
       j.key, j.batch, j.after, j.progress, j.lock_name, j.tenant, j.tags
FROM pgsync.jobs AS j
UNION ALL
SELECT h.id, h.queue, h.task, h.args, h.state, h.priority, h.attempt, h.max_attempts, h.created_at, h.run_at,
       h.unique_key, h.errors, h.worker, h.started_at, h.finished_at, h.result, h.key, h.batch, h.after, NULL,
       h.lock_name, h.tenant, h.tags
FROM pgsync.job_history AS h;

COMMENT ON VIEW pgsync.all_jobs IS 'Every job, live or ended, in whatever state.';

-- Each table is read once, and where one queue is asked for, no more than that one's rows.
CREATE OR REPLACE VIEW pgsync.queues AS
SELECT n.name,
       q.paused_at IS NOT NULL AS paused,
       n.available, n.scheduled, n.running,
       pgsync.clock() - n.oldest AS oldest_wait,
       (SELECT count(*) FROM pgsync.worker AS w WHERE n.name = ANY (w.queues) OR '*' = ANY (w.queues)) AS workers,
       q.paused_at,
       q.paused_by,
       n.waiting,
       q.max_running, q.max_running_per_key, q.max_starts, q.starts_per, q.max_starts_per_key, q.starts_per_key
FROM (
    SELECT c.name, sum(c.available)::bigint AS available, sum(c.scheduled)::bigint AS scheduled,
           sum(c.running)::bigint AS running, sum(c.waiting)::bigint AS waiting, min(c.oldest) AS oldest
    FROM (
        -- Of one type each, else a condition on the name would be judged only after the counting.
        SELECT r.queue AS name, count(*) AS available, 0::bigint AS scheduled, 0::bigint AS running,
               0::bigint AS waiting, min(r.run_at) AS oldest
        FROM pgsync.job_ready AS r GROUP BY r.queue
        UNION ALL
        SELECT s.queue, 0::bigint, count(*), 0::bigint, 0::bigint, NULL::timestamptz
        FROM pgsync.job_scheduled AS s GROUP BY s.queue
        UNION ALL
        SELECT r.queue, 0::bigint, 0::bigint, count(*), 0::bigint, NULL::timestamptz
        FROM pgsync.job_running AS r GROUP BY r.queue
        UNION ALL
        SELECT w.queue, 0::bigint, 0::bigint, 0::bigint, count(*), NULL::timestamptz
        FROM pgsync.job_waiting AS w GROUP BY w.queue
        UNION ALL
        SELECT q.name, 0::bigint, 0::bigint, 0::bigint, 0::bigint, NULL::timestamptz FROM pgsync.queue AS q
        UNION ALL
        SELECT u.name, 0::bigint, 0::bigint, 0::bigint, 0::bigint, NULL::timestamptz
        FROM pgsync.worker AS w CROSS JOIN unnest(w.queues) AS u (name)
    ) AS c
    GROUP BY c.name
) AS n
LEFT JOIN pgsync.queue AS q ON q.name = n.name
WHERE n.name <> '*';

COMMENT ON VIEW pgsync.queues IS 'Each queue that has jobs, workers or a pause: its depth and how long its oldest job has waited.';

CREATE OR REPLACE VIEW pgsync.workers AS
SELECT w.id, w.name, w.host, w.pid, w.version, w.queues, w.concurrency,
       CASE WHEN w.stopping_at IS NOT NULL THEN 'stopping' WHEN r.running > 0 THEN 'busy' ELSE 'idle' END AS state,
       r.running,
       w.started_at, w.seen_at, pgsync.clock() - w.seen_at AS silence, w.kinds, w.stopping_at, w.deaf_since
FROM pgsync.worker AS w
CROSS JOIN LATERAL (
    SELECT count(*) AS running FROM pgsync.job_running AS j WHERE j.worker = w.id
) AS r;

COMMENT ON VIEW pgsync.workers IS
    'Processes that work and have not ended in order: what each does (kinds: worker, scheduler, maintenance), what it claims, and when it was last heard of.';

CREATE OR REPLACE VIEW pgsync.job_keys AS
SELECT k.key, k.taken AS slots_taken, k.waiting, k.permits_at,
       ARRAY(SELECT r.id FROM pgsync.job_running AS r WHERE r.key = k.key ORDER BY r.id) AS running
FROM pgsync.job_key AS k
WHERE k.taken > 0 OR k.waiting > 0;

COMMENT ON VIEW pgsync.job_keys IS
    'Concurrency keys in use: how many of their slots are taken, by which running jobs, and how many jobs wait.';

CREATE OR REPLACE VIEW pgsync.job_attempts AS
SELECT j.id AS job, j.queue, j.task, a.attempt, a.worker, a.started_at, a.at AS ended_at, 'failed'::text AS outcome,
       a.error, a.traceback
FROM pgsync.all_jobs AS j
CROSS JOIN LATERAL jsonb_to_recordset(j.errors) AS a (
    attempt integer, worker bigint, started_at timestamptz, at timestamptz, error text, traceback text)
UNION ALL
SELECT r.id, r.queue, r.task, r.attempt, r.worker, r.started_at, NULL, 'running', NULL, NULL
FROM pgsync.job_running AS r
UNION ALL
SELECT f.id, f.queue, f.task, f.attempt, f.worker, f.started_at, f.finished_at, f.state, NULL, NULL
FROM pgsync.job_finished AS f WHERE f.state = 'completed';

COMMENT ON VIEW pgsync.job_attempts IS
    'Every attempt at a job, live or ended: its worker, its times, its outcome (running, completed or failed) and its error. Ask for one job.';
