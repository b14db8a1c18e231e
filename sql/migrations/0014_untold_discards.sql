-- Jobs that were discarded with their worker's death, until on_discard of their task has been called.

CREATE TABLE pgsync.job_untold_discard (
    job bigint PRIMARY KEY,
    task text NOT NULL,
    discarded_at timestamptz NOT NULL,
    taken_at timestamptz
);

COMMENT ON TABLE pgsync.job_untold_discard IS
    'Jobs that were discarded because their last attempt''s worker died, and of which on_discard of their task has not been told.';
COMMENT ON COLUMN pgsync.job_untold_discard.job IS 'The job, in the history.';
COMMENT ON COLUMN pgsync.job_untold_discard.task IS 'Its task: a worker that has declared on_discard for it takes it.';
COMMENT ON COLUMN pgsync.job_untold_discard.discarded_at IS 'When it was discarded.';
COMMENT ON COLUMN pgsync.job_untold_discard.taken_at IS 'When a worker last took it, to call on_discard; null while none has.';

-- Replaced by one with more arguments, all of them defaulted.
DROP FUNCTION IF EXISTS pgsync.fail_job(bigint, bigint, integer, jsonb, interval);
