-- Operations: what was run under which lock, by whom, and what came of it.

CREATE TABLE pgsync.operation_run (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    operation text NOT NULL,
    key text NOT NULL,
    args jsonb NOT NULL,
    state text NOT NULL CHECK (state IN
        ('running', 'completed', 'failed', 'blocked', 'released', 'limited', 'abandoned')),
    actor text NOT NULL,
    job_id bigint,
    lock_name text,
    lock_token bigint,
    requested_at timestamptz NOT NULL,
    finished_at timestamptz,
    done bigint,
    total bigint,
    outcome jsonb,
    error text,
    blocked_by text
);

CREATE INDEX operation_run_status ON pgsync.operation_run (operation, key, id DESC);
CREATE INDEX operation_run_running ON pgsync.operation_run (operation, key) WHERE state = 'running';
CREATE INDEX operation_run_requested ON pgsync.operation_run (requested_at);

COMMENT ON TABLE pgsync.operation_run IS 'One row a run, or a refused try, of an operation.';
COMMENT ON COLUMN pgsync.operation_run.id IS 'The run''s number.';
COMMENT ON COLUMN pgsync.operation_run.operation IS 'The operation''s name, for example template_sync.';
COMMENT ON COLUMN pgsync.operation_run.key IS 'What it works on: the lock''s name, for example template_sync:connection:7.';
COMMENT ON COLUMN pgsync.operation_run.args IS 'The arguments it was run with.';
COMMENT ON COLUMN pgsync.operation_run.state IS 'running; completed; failed; blocked (refused, since the lock was held); released (put back to its queue, since the lock was held); limited (refused by the rate limit); abandoned (its process died).';
COMMENT ON COLUMN pgsync.operation_run.actor IS 'Who asked for it.';
COMMENT ON COLUMN pgsync.operation_run.job_id IS 'The job that ran it; null where it was called directly.';
COMMENT ON COLUMN pgsync.operation_run.lock_name IS 'The lock it ran under.';
COMMENT ON COLUMN pgsync.operation_run.lock_token IS 'The fencing token of that lock.';
COMMENT ON COLUMN pgsync.operation_run.requested_at IS 'When it began, or was refused.';
COMMENT ON COLUMN pgsync.operation_run.finished_at IS 'When it ended.';
COMMENT ON COLUMN pgsync.operation_run.done IS 'Progress: parts done.';
COMMENT ON COLUMN pgsync.operation_run.total IS 'Progress: parts in all; null where not known.';
COMMENT ON COLUMN pgsync.operation_run.outcome IS 'What its handler returned.';
COMMENT ON COLUMN pgsync.operation_run.error IS 'Why it failed or was refused, in words.';
COMMENT ON COLUMN pgsync.operation_run.blocked_by IS 'Who held the lock when it was refused.';
COMMENT ON INDEX pgsync.operation_run_status IS 'The newest run of an operation and key.';
COMMENT ON INDEX pgsync.operation_run_running IS 'Runs that have not ended.';
COMMENT ON INDEX pgsync.operation_run_requested IS 'Finds old runs for the clean-up.';

CREATE TABLE pgsync.operation_event_log (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    run_id bigint NOT NULL REFERENCES pgsync.operation_run (id) ON DELETE CASCADE,
    at timestamptz NOT NULL,
    event text NOT NULL,
    detail jsonb NOT NULL DEFAULT '{}'
);

CREATE INDEX operation_event_log_run ON pgsync.operation_event_log (run_id);

COMMENT ON TABLE pgsync.operation_event_log IS 'What happened in each run, in order: its changes of state, and what its handler noted.';
COMMENT ON COLUMN pgsync.operation_event_log.id IS 'The event''s number.';
COMMENT ON COLUMN pgsync.operation_event_log.run_id IS 'The run.';
COMMENT ON COLUMN pgsync.operation_event_log.at IS 'When.';
COMMENT ON COLUMN pgsync.operation_event_log.event IS 'What, in a word: a state, or a word of the handler''s.';
COMMENT ON COLUMN pgsync.operation_event_log.detail IS 'More, as JSON.';
COMMENT ON INDEX pgsync.operation_event_log_run IS 'The events of a run.';
