-- Jobs that wait for others, and batches of jobs that are counted together.

CREATE TABLE pgsync.job_dependency (
    parent bigint,
    child bigint,
    unsure boolean NOT NULL DEFAULT false,
    PRIMARY KEY (parent, child)
);

CREATE INDEX job_dependency_child ON pgsync.job_dependency (child);
CREATE INDEX job_dependency_unsure ON pgsync.job_dependency (parent) WHERE unsure;

COMMENT ON TABLE pgsync.job_dependency IS
    'Which jobs in pgsync.job_waiting wait for which others; a row goes when its parent ends.';
COMMENT ON COLUMN pgsync.job_dependency.parent IS 'The job that must end first.';
COMMENT ON COLUMN pgsync.job_dependency.child IS 'The job that waits for it.';
COMMENT ON COLUMN pgsync.job_dependency.unsure IS
    'Whether the parent may have ended without seeing this row: claims look again.';
COMMENT ON INDEX pgsync.job_dependency_child IS 'Finds what a job waits for.';
COMMENT ON INDEX pgsync.job_dependency_unsure IS 'Finds what claims must look at again.';

CREATE TABLE pgsync.job_batch (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    name text NOT NULL,
    state text NOT NULL DEFAULT 'filling' CHECK (state IN ('filling', 'running', 'ended')),
    created_at timestamptz NOT NULL,
    ended_at timestamptz,
    total integer NOT NULL DEFAULT 0,
    completed integer NOT NULL DEFAULT 0,
    discarded integer NOT NULL DEFAULT 0,
    cancelled integer NOT NULL DEFAULT 0,
    on_end jsonb,
    on_completed jsonb,
    callbacks bigint[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);

CREATE INDEX job_batch_ended ON pgsync.job_batch (ended_at) WHERE ended_at IS NOT NULL;

COMMENT ON TABLE pgsync.job_batch IS 'Batches of jobs. Its row is what completions of the batch queue for; who adds jobs does not.';
COMMENT ON COLUMN pgsync.job_batch.id IS 'The batch''s number.';
COMMENT ON COLUMN pgsync.job_batch.name IS 'What people know it by; need not be unique.';
COMMENT ON COLUMN pgsync.job_batch.state IS 'filling until it is sealed, running until all jobs have ended, ended.';
COMMENT ON COLUMN pgsync.job_batch.created_at IS 'When it was made.';
COMMENT ON COLUMN pgsync.job_batch.ended_at IS 'When its last job ended.';
COMMENT ON COLUMN pgsync.job_batch.total IS 'Its jobs, without those in pgsync.job_batch_added.';
COMMENT ON COLUMN pgsync.job_batch.completed IS 'How many of them completed.';
COMMENT ON COLUMN pgsync.job_batch.discarded IS 'How many were discarded.';
COMMENT ON COLUMN pgsync.job_batch.cancelled IS 'How many were cancelled.';
COMMENT ON COLUMN pgsync.job_batch.on_end IS 'The job to enqueue when all have ended: task, and args, queue, priority, max_attempts.';
COMMENT ON COLUMN pgsync.job_batch.on_completed IS 'As on_end, where all of them completed.';
COMMENT ON COLUMN pgsync.job_batch.callbacks IS 'The jobs that were enqueued so.';
COMMENT ON INDEX pgsync.job_batch_ended IS 'Finds batches to forget.';

CREATE TABLE pgsync.job_batch_added (
    batch bigint NOT NULL,
    jobs integer NOT NULL
);

CREATE INDEX job_batch_added_batch ON pgsync.job_batch_added (batch);

COMMENT ON TABLE pgsync.job_batch_added IS
    'Jobs added to batches and not yet counted in pgsync.job_batch: one row an addition, so that an enqueuer''s open transaction locks nothing.';
COMMENT ON COLUMN pgsync.job_batch_added.batch IS 'The batch.';
COMMENT ON COLUMN pgsync.job_batch_added.jobs IS 'How many.';
COMMENT ON INDEX pgsync.job_batch_added_batch IS 'Finds those of a batch.';
