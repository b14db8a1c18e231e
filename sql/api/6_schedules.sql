-- Schedules: declared from code, fired once each over all daemons.

CREATE OR REPLACE FUNCTION pgsync.declare_schedule(
    name text,
    task text,
    args jsonb,
    queue text,
    priority integer,
    max_attempts integer,
    kind text,
    expression text,
    timezone text,
    misfire text,
    misfire_grace interval,
    next_fire_at timestamptz,
    OUT changed boolean,
    OUT due_at timestamptz
)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
BEGIN
    PERFORM pgsync.check_name(name, 'schedule name');
    PERFORM pgsync.check_job(task, args, queue, priority, max_attempts, NULL);
    INSERT INTO pgsync.schedule AS s
        (name, task, args, queue, priority, max_attempts, kind, expression, timezone, misfire,
         misfire_grace, next_fire_at, created_at, updated_at)
    VALUES (declare_schedule.name, declare_schedule.task, declare_schedule.args,
            declare_schedule.queue, declare_schedule.priority, declare_schedule.max_attempts,
            declare_schedule.kind, declare_schedule.expression, declare_schedule.timezone,
            declare_schedule.misfire, declare_schedule.misfire_grace,
            declare_schedule.next_fire_at, moment, moment)
    ON CONFLICT ON CONSTRAINT schedule_pkey DO UPDATE
    SET task = excluded.task, args = excluded.args, queue = excluded.queue,
        priority = excluded.priority, max_attempts = excluded.max_attempts,
        kind = excluded.kind, expression = excluded.expression, timezone = excluded.timezone,
        misfire = excluded.misfire, misfire_grace = excluded.misfire_grace,
        -- A new rhythm begins anew; an old one keeps its next fire over deploys.
        next_fire_at = CASE
            WHEN (s.kind, s.expression, s.timezone) = (excluded.kind, excluded.expression, excluded.timezone)
            THEN s.next_fire_at ELSE excluded.next_fire_at END,
        updated_at = excluded.updated_at
    WHERE (s.task, s.args, s.queue, s.priority, s.max_attempts, s.kind, s.expression, s.timezone,
           s.misfire, s.misfire_grace)
       IS DISTINCT FROM
          (excluded.task, excluded.args, excluded.queue, excluded.priority, excluded.max_attempts,
           excluded.kind, excluded.expression, excluded.timezone, excluded.misfire,
           excluded.misfire_grace);
    changed := FOUND;
    SELECT s.next_fire_at INTO due_at FROM pgsync.schedule AS s WHERE s.name = declare_schedule.name;
END
$$;

COMMENT ON FUNCTION pgsync.declare_schedule(text, text, jsonb, text, integer, integer, text, text, text, text, interval, timestamptz) IS
    'Creates a schedule or brings it up to its declaration. One row: changed, and when it is due next.';

CREATE OR REPLACE FUNCTION pgsync.due_schedules(batch integer DEFAULT 100)
RETURNS TABLE (
    name text, kind text, expression text, timezone text, misfire text, misfire_grace interval,
    next_fire_at timestamptz, now timestamptz
)
LANGUAGE sql VOLATILE AS $$
    SELECT s.name, s.kind, s.expression, s.timezone, s.misfire, s.misfire_grace, s.next_fire_at, pgsync.clock()
    FROM pgsync.schedule AS s
    WHERE s.next_fire_at <= pgsync.clock() AND s.paused_at IS NULL
    ORDER BY s.next_fire_at, s.name LIMIT batch
$$;

COMMENT ON FUNCTION pgsync.due_schedules(integer) IS
    'The schedules that are due, oldest first, with the server''s time.';

CREATE OR REPLACE FUNCTION pgsync.next_schedule_at() RETURNS timestamptz
LANGUAGE sql STABLE AS $$
    SELECT min(s.next_fire_at) FROM pgsync.schedule AS s WHERE s.paused_at IS NULL
$$;

COMMENT ON FUNCTION pgsync.next_schedule_at() IS 'When the next schedule is due; null where none is.';

CREATE OR REPLACE FUNCTION pgsync.fire_schedule(
    name text, due_at timestamptz, fire_times timestamptz[], next_fire_at timestamptz
) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    due pgsync.schedule;
    moment timestamptz;
    job bigint;
    jobs bigint[] := '{}';
BEGIN
    -- Compare and set: of all daemons that saw this due time, one passes.
    SELECT s.* INTO due FROM pgsync.schedule AS s
    WHERE s.name = fire_schedule.name AND s.next_fire_at = due_at AND s.paused_at IS NULL
    FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    FOREACH moment IN ARRAY fire_times LOOP
        CONTINUE WHEN EXISTS (
            SELECT FROM pgsync.schedule_fire AS f
            WHERE f.schedule = due.name AND f.fire_time = moment);
        job := pgsync.enqueue(due.task, due.args, due.queue, due.priority::integer,
            max_attempts => due.max_attempts::integer);
        INSERT INTO pgsync.schedule_fire (schedule, fire_time, job_id, fired_at)
        VALUES (due.name, moment, job, pgsync.clock());
        jobs := jobs || job;
    END LOOP;
    UPDATE pgsync.schedule AS s
    SET next_fire_at = fire_schedule.next_fire_at,
        last_fire_at = coalesce(fire_times[cardinality(fire_times)], s.last_fire_at),
        last_job_id = coalesce(jobs[cardinality(jobs)], s.last_job_id)
    WHERE s.name = due.name;
    RETURN jobs;
END
$$;

COMMENT ON FUNCTION pgsync.fire_schedule(text, timestamptz, timestamptz[], timestamptz) IS
    'Enqueues the fires of a schedule due at due_at and moves it on, in one transaction. Returns the jobs, or null where another daemon has done it.';

CREATE OR REPLACE FUNCTION pgsync.run_schedule(name text) RETURNS bigint
LANGUAGE sql VOLATILE AS $$
    SELECT pgsync.enqueue(s.task, s.args, s.queue, s.priority::integer, max_attempts => s.max_attempts::integer)
    FROM pgsync.schedule AS s WHERE s.name = run_schedule.name
$$;

COMMENT ON FUNCTION pgsync.run_schedule(text) IS
    'Enqueues a schedule''s task now, apart from its rhythm; null where there is no such schedule.';

CREATE OR REPLACE FUNCTION pgsync.pause_schedule(name text, by text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE pgsync.schedule AS s
    SET paused_at = pgsync.clock(), paused_by = coalesce(pause_schedule.by, session_user)
    WHERE s.name = pause_schedule.name AND s.paused_at IS NULL;
    RETURN FOUND;
END
$$;

COMMENT ON FUNCTION pgsync.pause_schedule(text, text) IS 'Stops a schedule''s fires; false where it was not running.';

CREATE OR REPLACE FUNCTION pgsync.resume_schedule(name text) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE pgsync.schedule AS s SET paused_at = NULL, paused_by = NULL
    WHERE s.name = resume_schedule.name AND s.paused_at IS NOT NULL;
    RETURN FOUND;
END
$$;

COMMENT ON FUNCTION pgsync.resume_schedule(text) IS
    'Ends a pause; fires that came due meanwhile are misfires. False where it was not paused.';

CREATE OR REPLACE FUNCTION pgsync.prune_schedule_fires(retention interval DEFAULT '7 days') RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    removed integer;
BEGIN
    DELETE FROM pgsync.schedule_fire AS f WHERE f.fired_at < pgsync.clock() - retention;
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END
$$;

COMMENT ON FUNCTION pgsync.prune_schedule_fires(interval) IS
    'Forgets fires older than retention, and says how many.';

CREATE OR REPLACE VIEW pgsync.schedules AS
SELECT s.name, s.task, s.kind, s.expression, s.timezone,
       CASE WHEN s.paused_at IS NOT NULL THEN 'paused'
            WHEN s.next_fire_at IS NULL THEN 'ended' ELSE 'active' END AS state,
       s.next_fire_at, s.next_fire_at - pgsync.clock() AS due_in,
       s.last_fire_at, s.last_job_id, s.queue, s.priority, s.args, s.max_attempts,
       s.misfire, s.misfire_grace, s.paused_at, s.paused_by, s.created_at, s.updated_at
FROM pgsync.schedule AS s;

COMMENT ON VIEW pgsync.schedules IS 'Recurring work: its rhythm, when it is due next and when it last fired.';
