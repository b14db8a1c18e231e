-- Floors under the claim, for when dead rows cannot be vacuumed.
-- Runs before the code: the tables are new, so the former version goes on.

-- Unlogged: floors only save work, and after a crash there are none.
CREATE UNLOGGED TABLE pgsync.queue_floor (
    queue text NOT NULL,
    priority smallint NOT NULL,
    resumed boolean NOT NULL,
    position bigint NOT NULL,
    moves integer NOT NULL DEFAULT 0,
    PRIMARY KEY (queue, priority, resumed)
) WITH (fillfactor = 50);

COMMENT ON TABLE pgsync.queue_floor IS
    'Where the scans of job_ready may begin: no job of the queue, priority and band has, or will have, a position below its floor. Filled only while floors are kept.';
COMMENT ON COLUMN pgsync.queue_floor.queue IS 'The queue.';
COMMENT ON COLUMN pgsync.queue_floor.priority IS 'The priority.';
COMMENT ON COLUMN pgsync.queue_floor.resumed IS
    'The band: true for negative positions (jobs that came back to the front), false for arrivals.';
COMMENT ON COLUMN pgsync.queue_floor.position IS 'The floor.';
COMMENT ON COLUMN pgsync.queue_floor.moves IS
    'How often it has been moved: each move may have left a dead row here.';

CREATE UNLOGGED TABLE pgsync.floors_kept (
    since timestamptz NOT NULL,
    due_from timestamptz NOT NULL DEFAULT '-infinity',
    moves integer NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

COMMENT ON TABLE pgsync.floors_kept IS 'Has one row while floors are kept, and is empty otherwise.';
COMMENT ON COLUMN pgsync.floors_kept.since IS 'Since when.';
COMMENT ON COLUMN pgsync.floors_kept.due_from IS
    'The floor of job_scheduled: no job there is, or will be, due before.';
COMMENT ON COLUMN pgsync.floors_kept.moves IS 'How often due_from has been moved.';

-- A heartbeat asks for these; without it, each reads all rows of job_running, dead ones too.
CREATE INDEX job_running_cancelled ON pgsync.job_running (worker) WHERE cancel_requested_at IS NOT NULL;

COMMENT ON INDEX pgsync.job_running_cancelled IS 'Finds the jobs of a worker that are to be cancelled.';
