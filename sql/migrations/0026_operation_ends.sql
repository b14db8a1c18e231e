-- How runs of operations end, and their state found by an index. Runs before the code. The index is
-- built on all runs that are kept.

ALTER TABLE pgsync.operation_run DROP CONSTRAINT operation_run_state_check;
ALTER TABLE pgsync.operation_run ADD CONSTRAINT operation_run_state_check CHECK (state IN
    ('running', 'completed', 'failed', 'cancelled', 'blocked', 'released', 'limited', 'abandoned'));

COMMENT ON COLUMN pgsync.operation_run.state IS 'running; completed; failed; cancelled; blocked (refused, since the lock was held); released (put back to its queue, since the lock was held); limited (refused by the rate limit); abandoned (its process died).';

CREATE INDEX operation_run_ran ON pgsync.operation_run (operation, key, id DESC)
    WHERE state NOT IN ('blocked', 'released', 'limited');

COMMENT ON INDEX pgsync.operation_run_ran IS 'The newest run of an operation and key that was not refused, however many were.';
