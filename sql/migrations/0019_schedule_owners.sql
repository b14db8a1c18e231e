-- Schedules: whose they are, jitter, bounded misfires, pauses that say why, and what an app has
-- declared. Runs before the code: the columns have defaults, so the former version goes on.

ALTER TABLE pgsync.schedule
    ADD COLUMN app text,
    ADD COLUMN jitter interval NOT NULL DEFAULT '0' CHECK (jitter >= interval '0'),
    ADD COLUMN misfire_limit integer NOT NULL DEFAULT 1000 CHECK (misfire_limit > 0),
    ADD COLUMN paused_why text,
    ADD COLUMN disabled_at timestamptz,
    ADD COLUMN disabled_why text,
    ADD COLUMN error text;

COMMENT ON COLUMN pgsync.schedule.expression IS
    'A crontab line; seconds, as 300 or 300 from 2026-01-01T00:00:00+00:00; or a moment.';
COMMENT ON COLUMN pgsync.schedule.next_fire_at IS
    'The next due time; null when there is none, -infinity where a daemon has yet to compute it.';
COMMENT ON COLUMN pgsync.schedule.app IS 'The app whose code declares it; null where a person made it.';
COMMENT ON COLUMN pgsync.schedule.jitter IS 'Its jobs run up to so much after their due time; see pgsync.schedule_jitter.';
COMMENT ON COLUMN pgsync.schedule.misfire_limit IS 'How many missed due times are made up for at most, the latest.';
COMMENT ON COLUMN pgsync.schedule.paused_why IS 'Why it is paused, in words.';
COMMENT ON COLUMN pgsync.schedule.disabled_at IS 'Since when no code declares it any more; it is not due then.';
COMMENT ON COLUMN pgsync.schedule.disabled_why IS 'How that came, in words.';
COMMENT ON COLUMN pgsync.schedule.error IS 'Why no due time could be computed; its next change tries again.';

DROP INDEX pgsync.schedule_due;
CREATE INDEX schedule_due ON pgsync.schedule (next_fire_at) WHERE paused_at IS NULL AND disabled_at IS NULL;

COMMENT ON INDEX pgsync.schedule_due IS 'Finds due schedules.';

ALTER TABLE pgsync.schedule_fire ADD COLUMN by_hand boolean NOT NULL DEFAULT false;

COMMENT ON COLUMN pgsync.schedule_fire.by_hand IS 'Whether somebody ran it apart from its rhythm: its fire_time is when.';

CREATE TABLE pgsync.schedule_set (
    app text NOT NULL,
    digest text NOT NULL,
    declared_at timestamptz NOT NULL,
    applied boolean NOT NULL DEFAULT false,
    PRIMARY KEY (app, digest)
);

COMMENT ON TABLE pgsync.schedule_set IS
    'The sets of schedules that versions of an app declare. Of those that some living daemon has, the newest holds.';
COMMENT ON COLUMN pgsync.schedule_set.app IS 'The app.';
COMMENT ON COLUMN pgsync.schedule_set.digest IS 'Names the set: SHA-256 of its declarations, in hex.';
COMMENT ON COLUMN pgsync.schedule_set.declared_at IS 'When a daemon came with it while no other living one had it.';
COMMENT ON COLUMN pgsync.schedule_set.applied IS 'Whether pgsync.schedule is as it says.';
