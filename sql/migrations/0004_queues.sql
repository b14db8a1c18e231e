-- Job queues. A job is in one of four tables, by what may happen to it next:
--   job_ready      may be claimed now; inserted and deleted, never updated
--   job_scheduled  waits for run_at (delays, retries, releases); promoted to job_ready when due
--   job_running    claimed by a worker
--   job_finished   history, partitioned by day, pruned by dropping partitions
-- So the claim scans one index of claimable jobs only, and history costs it nothing.

CREATE SEQUENCE pgsync.job_id AS bigint CACHE 1;

COMMENT ON SEQUENCE pgsync.job_id IS 'Job ids, over all queues and tables.';

CREATE TABLE pgsync.job_ready (
    id bigint PRIMARY KEY,
    queue text NOT NULL,
    task text NOT NULL,
    args jsonb NOT NULL,
    priority smallint NOT NULL,
    attempt smallint NOT NULL,
    max_attempts smallint NOT NULL,
    created_at timestamptz NOT NULL,
    run_at timestamptz NOT NULL,
    unique_key text,
    errors jsonb,
    position bigint NOT NULL GENERATED ALWAYS AS IDENTITY
) WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000
);

-- The order of the claim, led by the queue. A job that comes back gets a new position, so that
-- positions only grow.
CREATE INDEX job_ready_claim ON pgsync.job_ready (queue, priority, position);

COMMENT ON TABLE pgsync.job_ready IS 'Jobs that a worker may claim now.';
COMMENT ON COLUMN pgsync.job_ready.id IS 'The job''s number, for life.';
COMMENT ON COLUMN pgsync.job_ready.queue IS 'The queue it waits in.';
COMMENT ON COLUMN pgsync.job_ready.task IS 'What to run: a name that the workers have declared.';
COMMENT ON COLUMN pgsync.job_ready.args IS 'The task''s keyword arguments, a JSON object.';
COMMENT ON COLUMN pgsync.job_ready.priority IS 'Lower runs first; 0 is usual.';
COMMENT ON COLUMN pgsync.job_ready.attempt IS 'Attempts spent so far.';
COMMENT ON COLUMN pgsync.job_ready.max_attempts IS 'After this many failed attempts it is discarded.';
COMMENT ON COLUMN pgsync.job_ready.created_at IS 'When it was enqueued.';
COMMENT ON COLUMN pgsync.job_ready.run_at IS 'Not before this moment.';
COMMENT ON COLUMN pgsync.job_ready.unique_key IS 'While a job with this key is unfinished, another is not enqueued.';
COMMENT ON COLUMN pgsync.job_ready.errors IS 'One object a failed attempt: attempt, at, worker, error, traceback.';
COMMENT ON COLUMN pgsync.job_ready.position IS 'Order of arrival within a priority.';
COMMENT ON INDEX pgsync.job_ready_claim IS 'The order in which jobs are claimed.';

CREATE TABLE pgsync.job_scheduled (
    id bigint PRIMARY KEY,
    queue text NOT NULL,
    task text NOT NULL,
    args jsonb NOT NULL,
    priority smallint NOT NULL,
    attempt smallint NOT NULL,
    max_attempts smallint NOT NULL,
    created_at timestamptz NOT NULL,
    run_at timestamptz NOT NULL,
    unique_key text,
    errors jsonb,
    state text NOT NULL CHECK (state IN ('scheduled', 'retryable'))
);

CREATE INDEX job_scheduled_due ON pgsync.job_scheduled (run_at, priority, id);

COMMENT ON TABLE pgsync.job_scheduled IS 'Jobs that wait for their time; columns as in job_ready.';
COMMENT ON COLUMN pgsync.job_scheduled.state IS 'scheduled, or retryable after a failed attempt.';
COMMENT ON INDEX pgsync.job_scheduled_due IS 'Finds due jobs.';

CREATE TABLE pgsync.job_running (
    id bigint PRIMARY KEY,
    queue text NOT NULL,
    task text NOT NULL,
    args jsonb NOT NULL,
    priority smallint NOT NULL,
    attempt smallint NOT NULL,
    max_attempts smallint NOT NULL,
    created_at timestamptz NOT NULL,
    run_at timestamptz NOT NULL,
    unique_key text,
    errors jsonb,
    worker bigint NOT NULL,
    started_at timestamptz NOT NULL,
    cancel_requested_at timestamptz
) WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000
);

COMMENT ON TABLE pgsync.job_running IS 'Jobs that a worker has claimed; columns as in job_ready.';
COMMENT ON COLUMN pgsync.job_running.attempt IS 'The attempt that runs, from 1; its completion must name it.';
COMMENT ON COLUMN pgsync.job_running.worker IS 'The worker (pgsync.workers.id) that runs it.';
COMMENT ON COLUMN pgsync.job_running.started_at IS 'When this attempt was claimed.';
COMMENT ON COLUMN pgsync.job_running.cancel_requested_at IS 'When somebody asked that it be cancelled.';

CREATE TABLE pgsync.job_finished (
    id bigint NOT NULL,
    queue text NOT NULL,
    task text NOT NULL,
    args jsonb NOT NULL,
    priority smallint NOT NULL,
    attempt smallint NOT NULL,
    max_attempts smallint NOT NULL,
    created_at timestamptz NOT NULL,
    run_at timestamptz NOT NULL,
    unique_key text,
    errors jsonb,
    state text NOT NULL CHECK (state IN ('completed', 'discarded', 'cancelled')),
    worker bigint,
    started_at timestamptz,
    finished_at timestamptz NOT NULL,
    result jsonb
) PARTITION BY RANGE (finished_at);

CREATE INDEX job_finished_id ON pgsync.job_finished (id);

-- Takes what finishes on a day whose partition is not there yet.
CREATE TABLE pgsync.job_finished_default PARTITION OF pgsync.job_finished DEFAULT;

COMMENT ON TABLE pgsync.job_finished IS 'History, a partition a day; columns as in job_ready and job_running.';
COMMENT ON TABLE pgsync.job_finished_default IS 'History of days that had no partition of their own when it was written.';
COMMENT ON COLUMN pgsync.job_finished.state IS 'completed, discarded (out of attempts, or by hand) or cancelled.';
COMMENT ON COLUMN pgsync.job_finished.finished_at IS 'When it ended.';
COMMENT ON COLUMN pgsync.job_finished.result IS 'What the task returned, or why it was cancelled.';
COMMENT ON INDEX pgsync.job_finished_id IS 'Finds one job in the history.';

CREATE TABLE pgsync.job_unique (
    key text PRIMARY KEY,
    job_id bigint NOT NULL
);

COMMENT ON TABLE pgsync.job_unique IS 'The unique keys of unfinished jobs, over all their tables.';
COMMENT ON COLUMN pgsync.job_unique.key IS 'The unique key.';
COMMENT ON COLUMN pgsync.job_unique.job_id IS 'The unfinished job that has it.';

CREATE TABLE pgsync.queue (
    name text PRIMARY KEY,
    paused_at timestamptz,
    paused_by text
);

COMMENT ON TABLE pgsync.queue IS 'Queues that somebody has set something for; others need no row.';
COMMENT ON COLUMN pgsync.queue.name IS 'The queue.';
COMMENT ON COLUMN pgsync.queue.paused_at IS 'Since when its jobs are not claimed; null while it runs.';
COMMENT ON COLUMN pgsync.queue.paused_by IS 'Who paused it.';

CREATE TABLE pgsync.worker (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    name text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    version text NOT NULL,
    queues text[] NOT NULL,
    concurrency integer NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    idle boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);

COMMENT ON TABLE pgsync.worker IS
    'Workers. A worker lives as long as its session holds the advisory lock pgsync.worker_key(id).';
COMMENT ON COLUMN pgsync.worker.id IS 'The worker''s number; a restarted one gets a new number.';
COMMENT ON COLUMN pgsync.worker.name IS 'A name for people.';
COMMENT ON COLUMN pgsync.worker.host IS 'The machine it runs on, as it says.';
COMMENT ON COLUMN pgsync.worker.pid IS 'Its process there.';
COMMENT ON COLUMN pgsync.worker.version IS 'The version of pgsync that it runs.';
COMMENT ON COLUMN pgsync.worker.queues IS 'The queues it claims from, in order.';
COMMENT ON COLUMN pgsync.worker.concurrency IS 'How many jobs it runs at once.';
COMMENT ON COLUMN pgsync.worker.started_at IS 'When it registered.';
COMMENT ON COLUMN pgsync.worker.seen_at IS 'Its last heartbeat.';
COMMENT ON COLUMN pgsync.worker.idle IS 'Whether it waits for a notification: enqueuing notifies only where a worker waits.';
