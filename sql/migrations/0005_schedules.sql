-- Schedules: recurring work. The next fire is computed by the daemon (APScheduler's triggers) and
-- taken by compare-and-set, so that any number of daemons fire each due time once.

CREATE TABLE pgsync.schedule (
    name text PRIMARY KEY,
    task text NOT NULL,
    args jsonb NOT NULL DEFAULT '{}',
    queue text NOT NULL DEFAULT 'default',
    priority smallint NOT NULL DEFAULT 0,
    max_attempts smallint NOT NULL DEFAULT 1,
    kind text NOT NULL CHECK (kind IN ('cron', 'interval', 'date')),
    expression text NOT NULL,
    timezone text NOT NULL,
    misfire text NOT NULL CHECK (misfire IN ('skip', 'once', 'all')),
    misfire_grace interval NOT NULL,
    next_fire_at timestamptz,
    last_fire_at timestamptz,
    last_job_id bigint,
    paused_at timestamptz,
    paused_by text,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);

CREATE INDEX schedule_due ON pgsync.schedule (next_fire_at) WHERE paused_at IS NULL;

COMMENT ON TABLE pgsync.schedule IS 'Work that recurs, each fire enqueued once over all daemons.';
COMMENT ON COLUMN pgsync.schedule.name IS 'The schedule''s name.';
COMMENT ON COLUMN pgsync.schedule.task IS 'The task that a fire enqueues.';
COMMENT ON COLUMN pgsync.schedule.args IS 'Its arguments.';
COMMENT ON COLUMN pgsync.schedule.queue IS 'The queue it goes to.';
COMMENT ON COLUMN pgsync.schedule.priority IS 'Its priority there.';
COMMENT ON COLUMN pgsync.schedule.max_attempts IS 'Its attempts.';
COMMENT ON COLUMN pgsync.schedule.kind IS 'cron, interval or date: how to read the expression.';
COMMENT ON COLUMN pgsync.schedule.expression IS 'A crontab line, a number of seconds, or a moment.';
COMMENT ON COLUMN pgsync.schedule.timezone IS 'The zone in which a cron expression is meant.';
COMMENT ON COLUMN pgsync.schedule.misfire IS 'What becomes of fires that came due while no daemon ran: skip, once, all.';
COMMENT ON COLUMN pgsync.schedule.misfire_grace IS 'A fire later than this is a misfire.';
COMMENT ON COLUMN pgsync.schedule.next_fire_at IS 'The next due time; null when there is none.';
COMMENT ON COLUMN pgsync.schedule.last_fire_at IS 'The due time that was enqueued last.';
COMMENT ON COLUMN pgsync.schedule.last_job_id IS 'The job of that fire.';
COMMENT ON COLUMN pgsync.schedule.paused_at IS 'Since when it is paused; null while it runs.';
COMMENT ON COLUMN pgsync.schedule.paused_by IS 'Who paused it.';
COMMENT ON COLUMN pgsync.schedule.created_at IS 'When it was declared.';
COMMENT ON COLUMN pgsync.schedule.updated_at IS 'When its declaration last changed.';
COMMENT ON INDEX pgsync.schedule_due IS 'Finds due schedules.';

CREATE TABLE pgsync.schedule_fire (
    schedule text NOT NULL REFERENCES pgsync.schedule (name) ON DELETE CASCADE,
    fire_time timestamptz NOT NULL,
    job_id bigint NOT NULL,
    fired_at timestamptz NOT NULL,
    PRIMARY KEY (schedule, fire_time)
);

COMMENT ON TABLE pgsync.schedule_fire IS 'Each fire that was enqueued: the key makes a second one impossible.';
COMMENT ON COLUMN pgsync.schedule_fire.schedule IS 'The schedule.';
COMMENT ON COLUMN pgsync.schedule_fire.fire_time IS 'The due time.';
COMMENT ON COLUMN pgsync.schedule_fire.job_id IS 'The job it enqueued.';
COMMENT ON COLUMN pgsync.schedule_fire.fired_at IS 'When it was enqueued.';
