-- Histograms of how long jobs waited and ran. Runs before the code: the table is new. The counters of
-- these two metrics begin anew with it, as after a restart.

CREATE TABLE pgsync.duration_total (
    queue text NOT NULL,
    task text NOT NULL,
    measure text NOT NULL CHECK (measure IN ('wait', 'run')),
    up_to float8 NOT NULL,
    jobs bigint NOT NULL,
    total interval NOT NULL,
    counted_at timestamptz NOT NULL,
    PRIMARY KEY (queue, task, measure, up_to)
) WITH (fillfactor = 50);

COMMENT ON TABLE pgsync.duration_total IS
    'How long jobs that began had waited, and those that ended ran, by buckets of durations: never falls, as counters of metrics must not. What has not ended for weeks is forgotten.';
COMMENT ON COLUMN pgsync.duration_total.queue IS 'The queue.';
COMMENT ON COLUMN pgsync.duration_total.task IS 'The task.';
COMMENT ON COLUMN pgsync.duration_total.measure IS 'wait (from the due time to the start) or run (of the last attempt).';
COMMENT ON COLUMN pgsync.duration_total.up_to IS 'The longest duration of the bucket, in seconds; Infinity in the last.';
COMMENT ON COLUMN pgsync.duration_total.jobs IS 'How many jobs.';
COMMENT ON COLUMN pgsync.duration_total.total IS 'Their durations, added up.';
COMMENT ON COLUMN pgsync.duration_total.counted_at IS 'When jobs were last counted here.';
