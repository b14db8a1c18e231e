-- Workers tell that they end, and one queue's past is found by its name. Runs before the code: the column
-- may be null, and limit_queue takes the arguments of the former version too.

ALTER TABLE pgsync.worker ADD COLUMN stopping_at timestamptz;

COMMENT ON COLUMN pgsync.worker.stopping_at IS
    'When it was told to end while jobs of it ran: it claims no more, and waits for them.';

CREATE INDEX queue_snapshot_queue ON pgsync.queue_snapshot (queue, at);

COMMENT ON INDEX pgsync.queue_snapshot_queue IS 'Finds the past of one queue.';

DROP FUNCTION IF EXISTS pgsync.limit_queue(text, integer, integer, integer, interval, integer, interval);
