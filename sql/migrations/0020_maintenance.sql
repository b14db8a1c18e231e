-- The record of maintenance, and statistics that are kept so that nobody needs to count big tables.
-- Runs before the code: the tables are new, so the former version goes on. The index is built on the
-- whole history, which completions wait for: about a second for each two million jobs.

CREATE TABLE pgsync.duty_run (
    duty text PRIMARY KEY,
    last_run_at timestamptz NOT NULL,
    duration interval NOT NULL,
    rows bigint NOT NULL DEFAULT 0,
    outcome text NOT NULL CHECK (outcome IN ('done', 'failed')),
    error text,
    by text NOT NULL,
    done_at timestamptz,
    failed_at timestamptz,
    done_total bigint NOT NULL DEFAULT 0,
    failures bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

COMMENT ON TABLE pgsync.duty_run IS
    'The last run of each duty of the maintenance: written when it did something or failed, and else once a minute.';
COMMENT ON COLUMN pgsync.duty_run.duty IS 'The duty; see pgsync.duties().';
COMMENT ON COLUMN pgsync.duty_run.last_run_at IS 'When that run began.';
COMMENT ON COLUMN pgsync.duty_run.duration IS 'How long it took.';
COMMENT ON COLUMN pgsync.duty_run.rows IS 'How much it did, in the duty''s own unit: jobs, rows, partitions.';
COMMENT ON COLUMN pgsync.duty_run.outcome IS 'done or failed.';
COMMENT ON COLUMN pgsync.duty_run.error IS 'Why it failed last; stays after it has succeeded again.';
COMMENT ON COLUMN pgsync.duty_run.by IS 'Whose daemon did it: host and process.';
COMMENT ON COLUMN pgsync.duty_run.done_at IS 'When it last found something to do.';
COMMENT ON COLUMN pgsync.duty_run.failed_at IS 'When it last failed.';
COMMENT ON COLUMN pgsync.duty_run.done_total IS 'How much it has done in all.';
COMMENT ON COLUMN pgsync.duty_run.failures IS 'How often it has failed.';

-- A few bytes for each 64 pages, as what ends is appended: an index that completions hardly feel.
CREATE INDEX job_finished_at ON pgsync.job_finished USING brin (finished_at) WITH (pages_per_range = 64);

COMMENT ON INDEX pgsync.job_finished_at IS 'Finds what ended in a time, for the statistics.';

CREATE TABLE pgsync.throughput_mark (
    counted_until timestamptz NOT NULL
);

CREATE UNIQUE INDEX throughput_mark_one ON pgsync.throughput_mark ((true));

COMMENT ON TABLE pgsync.throughput_mark IS 'Has one row: how far the history has been counted.';
COMMENT ON COLUMN pgsync.throughput_mark.counted_until IS 'What ended before is counted, what ends later is not.';
COMMENT ON INDEX pgsync.throughput_mark_one IS 'One row.';

INSERT INTO pgsync.throughput_mark VALUES (clock_timestamp());

CREATE TABLE pgsync.throughput_minute (
    minute timestamptz NOT NULL,
    queue text NOT NULL,
    task text NOT NULL,
    outcome text NOT NULL,
    jobs bigint NOT NULL,
    waited interval NOT NULL,
    ran interval NOT NULL,
    longest_wait interval,
    longest_run interval,
    PRIMARY KEY (minute, queue, task, outcome)
);

COMMENT ON TABLE pgsync.throughput_minute IS 'Jobs that ended, by minute; kept for some hours.';
COMMENT ON COLUMN pgsync.throughput_minute.minute IS 'The minute, by its beginning.';
COMMENT ON COLUMN pgsync.throughput_minute.queue IS 'The queue.';
COMMENT ON COLUMN pgsync.throughput_minute.task IS 'The task.';
COMMENT ON COLUMN pgsync.throughput_minute.outcome IS 'completed, discarded or cancelled.';
COMMENT ON COLUMN pgsync.throughput_minute.jobs IS 'How many.';
COMMENT ON COLUMN pgsync.throughput_minute.waited IS 'How long all of them waited, from run_at to the start of the last attempt.';
COMMENT ON COLUMN pgsync.throughput_minute.ran IS 'How long the last attempts of all of them took.';
COMMENT ON COLUMN pgsync.throughput_minute.longest_wait IS 'The longest wait.';
COMMENT ON COLUMN pgsync.throughput_minute.longest_run IS 'The longest run.';

CREATE TABLE pgsync.throughput_hour (LIKE pgsync.throughput_minute);
ALTER TABLE pgsync.throughput_hour RENAME COLUMN minute TO hour;
ALTER TABLE pgsync.throughput_hour ADD PRIMARY KEY (hour, queue, task, outcome);

COMMENT ON TABLE pgsync.throughput_hour IS 'Jobs that ended, by hour; kept for some weeks.';
COMMENT ON COLUMN pgsync.throughput_hour.hour IS 'The hour, by its beginning.';
COMMENT ON COLUMN pgsync.throughput_hour.queue IS 'The queue.';
COMMENT ON COLUMN pgsync.throughput_hour.task IS 'The task.';
COMMENT ON COLUMN pgsync.throughput_hour.outcome IS 'completed, discarded or cancelled.';
COMMENT ON COLUMN pgsync.throughput_hour.jobs IS 'How many.';
COMMENT ON COLUMN pgsync.throughput_hour.waited IS 'As in throughput_minute.';
COMMENT ON COLUMN pgsync.throughput_hour.ran IS 'As in throughput_minute.';
COMMENT ON COLUMN pgsync.throughput_hour.longest_wait IS 'The longest wait.';
COMMENT ON COLUMN pgsync.throughput_hour.longest_run IS 'The longest run.';

CREATE TABLE pgsync.queue_snapshot (
    at timestamptz NOT NULL,
    queue text NOT NULL,
    available bigint NOT NULL,
    scheduled bigint NOT NULL,
    waiting bigint NOT NULL,
    running bigint NOT NULL,
    oldest_ready interval,
    PRIMARY KEY (at, queue)
);

COMMENT ON TABLE pgsync.queue_snapshot IS 'How deep the queues were, each minute; kept for a day. Counts end at 100,000.';
COMMENT ON COLUMN pgsync.queue_snapshot.at IS 'When.';
COMMENT ON COLUMN pgsync.queue_snapshot.queue IS 'The queue.';
COMMENT ON COLUMN pgsync.queue_snapshot.available IS 'Jobs that could be claimed.';
COMMENT ON COLUMN pgsync.queue_snapshot.scheduled IS 'Jobs that waited for their time; over all queues at most 100,000 are looked at, those due first.';
COMMENT ON COLUMN pgsync.queue_snapshot.waiting IS 'Jobs that waited for a slot of their key or for other jobs.';
COMMENT ON COLUMN pgsync.queue_snapshot.running IS 'Jobs that ran.';
COMMENT ON COLUMN pgsync.queue_snapshot.oldest_ready IS 'How long the first job of the longest waiting priority had been due.';
