-- What daemons tell of themselves, and totals for metrics. Runs before the code: the column has a
-- default, and register_worker takes the arguments of the former version too.

ALTER TABLE pgsync.worker ADD COLUMN kinds text[] NOT NULL DEFAULT '{worker}';

COMMENT ON TABLE pgsync.worker IS
    'Processes that work: as workers, schedulers or for the maintenance. One lives as long as its session holds the advisory lock pgsync.worker_key(id).';
COMMENT ON COLUMN pgsync.worker.kinds IS 'What it does: worker, scheduler, maintenance.';
COMMENT ON COLUMN pgsync.worker.queues IS 'The queues it claims from, in order; none where it is no worker.';

DROP FUNCTION IF EXISTS pgsync.register_worker(text, text, integer, text, text[], integer);

CREATE TABLE pgsync.throughput_total (
    queue text NOT NULL,
    task text NOT NULL,
    outcome text NOT NULL,
    jobs bigint NOT NULL,
    waited interval NOT NULL,
    ran interval NOT NULL,
    counted_at timestamptz NOT NULL,
    PRIMARY KEY (queue, task, outcome)
);

COMMENT ON TABLE pgsync.throughput_total IS
    'Jobs that ended, in all: never falls, as counters of metrics must not. What has not ended for weeks is forgotten.';
COMMENT ON COLUMN pgsync.throughput_total.queue IS 'The queue.';
COMMENT ON COLUMN pgsync.throughput_total.task IS 'The task.';
COMMENT ON COLUMN pgsync.throughput_total.outcome IS 'completed, discarded or cancelled.';
COMMENT ON COLUMN pgsync.throughput_total.jobs IS 'How many.';
COMMENT ON COLUMN pgsync.throughput_total.waited IS 'As in throughput_minute.';
COMMENT ON COLUMN pgsync.throughput_total.ran IS 'As in throughput_minute.';
COMMENT ON COLUMN pgsync.throughput_total.counted_at IS 'When jobs were last counted here.';

INSERT INTO pgsync.throughput_total (queue, task, outcome, jobs, waited, ran, counted_at)
SELECT t.queue, t.task, t.outcome, sum(t.jobs), sum(t.waited), sum(t.ran), clock_timestamp()
FROM pgsync.throughput_hour AS t GROUP BY t.queue, t.task, t.outcome;

CREATE TABLE pgsync.tally (
    name text PRIMARY KEY,
    total bigint NOT NULL
) WITH (fillfactor = 50);

COMMENT ON TABLE pgsync.tally IS 'How often something seldom has happened: jobs_rescued.';
COMMENT ON COLUMN pgsync.tally.name IS 'What.';
COMMENT ON COLUMN pgsync.tally.total IS 'How often in all.';
