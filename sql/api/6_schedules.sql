-- Schedules: made, changed, paused and run by people; see 6_schedules_declared.sql for those of an
-- app's code, and 6_schedules_fire.sql for how each due time is enqueued once.

CREATE OR REPLACE FUNCTION pgsync.check_schedule_options(
    kind text, expression text, misfire text, misfire_grace interval, misfire_limit integer, jitter interval
) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF kind IS NULL OR kind NOT IN ('cron', 'interval', 'date') THEN
        RAISE invalid_parameter_value USING MESSAGE = format('kind must be cron, interval or date, not %s', coalesce(kind, 'null'));
    ELSIF expression IS NULL OR length(expression) > 1000 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'expression must have at most 1000 characters';
    ELSIF misfire IS NULL OR misfire NOT IN ('skip', 'once', 'all') THEN
        RAISE invalid_parameter_value USING MESSAGE = format('misfire must be skip, once or all, not %s', coalesce(misfire, 'null'));
    ELSIF misfire_limit IS NULL OR misfire_limit NOT BETWEEN 1 AND 10000 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'misfire_limit must be from 1 to 10000';
    ELSIF jitter IS NULL OR jitter < interval '0' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'jitter must be zero or more';
    END IF;
    PERFORM pgsync.check_duration(misfire_grace, 'misfire_grace');
END
$$;

COMMENT ON FUNCTION pgsync.check_schedule_options(text, text, text, interval, integer, interval) IS
    'Internal: refuses what no schedule can have, as far as that is told without reading the expression and the time zone.';

CREATE OR REPLACE FUNCTION pgsync.check_schedule(
    kind text, expression text, timezone text, misfire text, misfire_grace interval, misfire_limit integer, jitter interval
) RETURNS void
LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM pgsync.check_schedule_options(kind, expression, misfire, misfire_grace, misfire_limit, jitter);
    IF NOT EXISTS (SELECT FROM pg_timezone_names AS z WHERE z.name = timezone) THEN
        RAISE invalid_parameter_value USING MESSAGE = format('unknown time zone %s', coalesce(timezone, 'null')),
            HINT = 'Use a name of pg_timezone_names, like Europe/Berlin.';
    END IF;
    -- What a daemon could not read would be found out only when it is due.
    BEGIN
        CASE kind
            WHEN 'interval' THEN PERFORM pgsync.interval_fire(expression, pgsync.clock());
            WHEN 'date' THEN PERFORM expression::timestamptz;
            ELSE IF cardinality(regexp_split_to_array(trim(expression), '\s+')) NOT IN (5, 6)
                    AND expression !~ '^(@\w+|.*=.*)$' THEN
                RAISE invalid_parameter_value;
            END IF;
        END CASE;
    EXCEPTION WHEN data_exception THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('%L is no expression of a schedule of kind %s', expression, kind),
            HINT = 'A crontab line, a number of seconds, or a moment with its time zone.';
    END;
END
$$;

COMMENT ON FUNCTION pgsync.check_schedule(text, text, text, text, interval, integer, interval) IS
    'Raises invalid_parameter_value for a schedule that can never work. The fields of a crontab line are judged by the daemon, which notes what is wrong in the schedule''s error.';

CREATE OR REPLACE FUNCTION pgsync.interval_fire(expression text, after timestamptz) RETURNS timestamptz
LANGUAGE plpgsql STABLE AS $$
DECLARE
    parts text[] := regexp_match(trim(expression), '^([0-9.]+)(?: from (.+))?$');
    start timestamptz := coalesce(parts[2], '2000-01-01T00:00:00Z')::timestamptz;
    step numeric := parts[1]::numeric;
BEGIN
    IF parts IS NULL OR step <= 0 THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%L is no number of seconds above zero', expression);
    END IF;
    -- Counted from a fixed start, so that whoever counts comes to the same times.
    RETURN start + (greatest(floor(extract(epoch FROM after - start) / step) + 1, 0) * step)::float8 * interval '1 second';
END
$$;

COMMENT ON FUNCTION pgsync.interval_fire(text, timestamptz) IS
    'The first due time after a moment of a schedule of kind interval, whose expression is "seconds" or "seconds from moment".';

CREATE OR REPLACE FUNCTION pgsync.schedule_jitter(name text, fire_time timestamptz, jitter interval) RETURNS interval
LANGUAGE sql STABLE AS $$
    -- 53 bits of a hash are a fraction that every client computes alike.
    SELECT CASE WHEN isfinite(fire_time) THEN
        floor(((pgsync.lock_key(name || '@' || (extract(epoch FROM fire_time) * 1000000)::bigint) >> 11)
               & 9007199254740991)::float8 / 9007199254740992
              * (extract(epoch FROM jitter) * 1000000)::float8) * interval '1 microsecond' END
$$;

COMMENT ON FUNCTION pgsync.schedule_jitter(text, timestamptz, interval) IS
    'How long after a due time its job runs: from zero to jitter, by a hash of the schedule''s name and the time, so the same whoever asks.';

CREATE OR REPLACE FUNCTION pgsync.add_schedule(
    name text,
    task text,
    expression text,
    kind text DEFAULT 'cron',
    timezone text DEFAULT 'UTC',
    args jsonb DEFAULT '{}',
    queue text DEFAULT 'default',
    priority integer DEFAULT 0,
    max_attempts integer DEFAULT 5,
    misfire text DEFAULT 'once',
    misfire_grace interval DEFAULT '1 minute',
    misfire_limit integer DEFAULT 1000,
    jitter interval DEFAULT '0'
) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    added boolean;
BEGIN
    PERFORM pgsync.check_name(name, 'schedule name');
    PERFORM pgsync.check_job(task, args, queue, priority, max_attempts, NULL);
    PERFORM pgsync.check_schedule(kind, expression, timezone, misfire, misfire_grace, misfire_limit, jitter);
    IF EXISTS (SELECT FROM pgsync.schedule AS s
               WHERE s.name = add_schedule.name AND s.app IS NOT NULL AND s.disabled_at IS NULL) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('schedule %L is declared by the code of an app; change it there', name);
    END IF;
    INSERT INTO pgsync.schedule AS s
        (name, task, args, queue, priority, max_attempts, kind, expression, timezone, misfire, misfire_grace,
         misfire_limit, jitter, next_fire_at, created_at, updated_at)
    VALUES (add_schedule.name, add_schedule.task, add_schedule.args, add_schedule.queue, add_schedule.priority,
            add_schedule.max_attempts, add_schedule.kind, regexp_replace(trim(add_schedule.expression), '\s+', ' ', 'g'),
            add_schedule.timezone, add_schedule.misfire, add_schedule.misfire_grace, add_schedule.misfire_limit,
            add_schedule.jitter, '-infinity', moment, moment)
    ON CONFLICT ON CONSTRAINT schedule_pkey DO UPDATE
    SET task = excluded.task, args = excluded.args, queue = excluded.queue, priority = excluded.priority,
        max_attempts = excluded.max_attempts, kind = excluded.kind, expression = excluded.expression,
        timezone = excluded.timezone, misfire = excluded.misfire, misfire_grace = excluded.misfire_grace,
        misfire_limit = excluded.misfire_limit, jitter = excluded.jitter, next_fire_at = excluded.next_fire_at,
        app = NULL, disabled_at = NULL, disabled_why = NULL, error = NULL, updated_at = excluded.updated_at
    -- A row that this statement has made is of no earlier transaction.
    RETURNING s.xmax = 0 INTO added;
    RETURN added;
END
$$;

COMMENT ON FUNCTION pgsync.add_schedule(text, text, text, text, text, jsonb, text, integer, integer, text, interval, integer, interval) IS
    'Makes a schedule, or changes it: false. A daemon computes its next due time within two seconds. Those that an app declares are refused.';

DROP FUNCTION IF EXISTS pgsync.change_schedule(text, text, text, text, text, integer, integer, text, text);

CREATE OR REPLACE FUNCTION pgsync.change_schedule(
    name text, kind text, expression text, timezone text, queue text, priority integer, max_attempts integer,
    by text DEFAULT NULL, why text DEFAULT NULL,
    args jsonb DEFAULT NULL,
    misfire text DEFAULT NULL,
    misfire_grace interval DEFAULT NULL,
    misfire_limit integer DEFAULT NULL,
    jitter interval DEFAULT NULL
) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    former pgsync.schedule;
    latter pgsync.schedule;
BEGIN
    SELECT s.* INTO former FROM pgsync.schedule AS s WHERE s.name = change_schedule.name FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM pgsync.add_schedule(name, former.task, expression, kind, timezone, coalesce(args, former.args), queue,
        priority, max_attempts, coalesce(misfire, former.misfire), coalesce(misfire_grace, former.misfire_grace),
        coalesce(misfire_limit, former.misfire_limit), coalesce(jitter, former.jitter));
    SELECT s.* INTO latter FROM pgsync.schedule AS s WHERE s.name = change_schedule.name;
    PERFORM pgsync.record_audit('schedule.changed', name, by, (
        SELECT jsonb_build_object('why', why, 'from', jsonb_object_agg(f.key, f.value), 'to', jsonb_object_agg(f.key, t.value))
        FROM jsonb_each(to_jsonb(former)) AS f JOIN jsonb_each(to_jsonb(latter)) AS t ON t.key = f.key
        WHERE t.value <> f.value AND f.key NOT IN ('next_fire_at', 'updated_at')));
    RETURN true;
END
$$;

COMMENT ON FUNCTION pgsync.change_schedule(text, text, text, text, text, integer, integer, text, text, jsonb, text, interval, integer, interval) IS
    'Changes when a schedule is due and how its jobs are enqueued, and writes what it was and is into the audit trail; false where there is none. What is null from args on stays as it was. Those that an app declares are refused.';

CREATE OR REPLACE FUNCTION pgsync.remove_schedule(name text, by text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    removed pgsync.schedule;
BEGIN
    DELETE FROM pgsync.schedule AS s WHERE s.name = remove_schedule.name RETURNING s.* INTO removed;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM pgsync.record_audit('schedule.removed', name, by, to_jsonb(removed));
    RETURN true;
END
$$;

COMMENT ON FUNCTION pgsync.remove_schedule(text, text) IS
    'Deletes a schedule and its fires, and keeps what it was in the audit trail; false where there is none. One that code declares comes back when that code is deployed.';

DROP FUNCTION IF EXISTS pgsync.run_schedule(text);

CREATE OR REPLACE FUNCTION pgsync.run_schedule(name text, by text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    job bigint;
BEGIN
    SELECT pgsync.enqueue(s.task, s.args, s.queue, s.priority::integer, max_attempts => s.max_attempts::integer)
    INTO job FROM pgsync.schedule AS s WHERE s.name = run_schedule.name;
    IF job IS NOT NULL THEN
        INSERT INTO pgsync.schedule_fire (schedule, fire_time, job_id, fired_at, by_hand)
        VALUES (run_schedule.name, moment, job, moment, true) ON CONFLICT DO NOTHING;
        UPDATE pgsync.schedule AS s SET last_job_id = job WHERE s.name = run_schedule.name;
        PERFORM pgsync.record_audit('schedule.run', name, by, jsonb_build_object('job', job));
    END IF;
    RETURN job;
END
$$;

COMMENT ON FUNCTION pgsync.run_schedule(text, text) IS
    'Enqueues a schedule''s task now, apart from its rhythm and even while it is paused; null where there is no such schedule. Audited.';

CREATE OR REPLACE FUNCTION pgsync.pause_schedule(name text, by text DEFAULT NULL, why text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE pgsync.schedule AS s
    SET paused_at = pgsync.clock(), paused_by = coalesce(pause_schedule.by, session_user), paused_why = why
    WHERE s.name = pause_schedule.name AND s.paused_at IS NULL;
    IF FOUND THEN
        PERFORM pgsync.record_audit('schedule.paused', name, by, jsonb_build_object('why', why));
        RETURN true;
    END IF;
    RETURN false;
END
$$;

DROP FUNCTION IF EXISTS pgsync.pause_schedule(text, text);

COMMENT ON FUNCTION pgsync.pause_schedule(text, text, text) IS
    'Stops a schedule''s fires, also over deploys; false where it was paused, or there is none.';

CREATE OR REPLACE FUNCTION pgsync.resume_schedule(name text, by text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE pgsync.schedule AS s SET paused_at = NULL, paused_by = NULL, paused_why = NULL
    WHERE s.name = resume_schedule.name AND s.paused_at IS NOT NULL;
    IF FOUND THEN
        PERFORM pgsync.record_audit('schedule.resumed', name, by);
        RETURN true;
    END IF;
    RETURN false;
END
$$;

DROP FUNCTION IF EXISTS pgsync.resume_schedule(text);

COMMENT ON FUNCTION pgsync.resume_schedule(text, text) IS
    'Ends a pause; fires that came due meanwhile are misfires. False where it was not paused.';

CREATE OR REPLACE FUNCTION pgsync.next_fires(name text, count integer DEFAULT 5)
RETURNS TABLE (fire_time timestamptz, run_at timestamptz)
LANGUAGE sql STABLE AS $$
    WITH RECURSIVE schedule AS (
        SELECT s.* FROM pgsync.schedule AS s WHERE s.name = next_fires.name AND s.disabled_at IS NULL
    ), due (fire_time, number) AS (
        SELECT s.next_fire_at, 1 FROM schedule AS s WHERE s.next_fire_at > '-infinity'
        UNION ALL
        SELECT pgsync.interval_fire(s.expression, d.fire_time), d.number + 1
        FROM due AS d CROSS JOIN schedule AS s WHERE s.kind = 'interval' AND d.number < next_fires.count
    )
    SELECT d.fire_time, d.fire_time + pgsync.schedule_jitter(s.name, d.fire_time, s.jitter)
    FROM due AS d CROSS JOIN schedule AS s ORDER BY d.fire_time LIMIT next_fires.count
$$;

COMMENT ON FUNCTION pgsync.next_fires(text, integer) IS
    'The next due times of a schedule, and when their jobs run. Of a cron schedule only the first: the others are computed by the client (pgsync schedules next).';

CREATE OR REPLACE FUNCTION pgsync.job_state(id bigint) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT coalesce(
        (SELECT j.state FROM pgsync.jobs AS j WHERE j.id = job_state.id LIMIT 1),
        (SELECT h.state FROM pgsync.job_finished AS h WHERE h.id = job_state.id LIMIT 1))
$$;

COMMENT ON FUNCTION pgsync.job_state(bigint) IS 'The state of a job, live or ended, in a word; null where it is not known any more.';

CREATE OR REPLACE VIEW pgsync.schedules AS
SELECT s.name, s.task, s.kind, s.expression, s.timezone,
       CASE WHEN s.disabled_at IS NOT NULL THEN 'disabled'
            WHEN s.paused_at IS NOT NULL THEN 'paused'
            WHEN s.error IS NOT NULL THEN 'broken'
            WHEN s.next_fire_at IS NULL THEN 'ended'
            WHEN s.next_fire_at = '-infinity' THEN 'new' ELSE 'active' END AS state,
       nullif(s.next_fire_at, '-infinity') AS next_fire_at,
       nullif(s.next_fire_at, '-infinity') - pgsync.clock() AS due_in,
       s.last_fire_at, s.last_job_id, s.queue, s.priority, s.args, s.max_attempts,
       s.misfire, s.misfire_grace, s.paused_at, s.paused_by, s.created_at, s.updated_at,
       pgsync.job_state(s.last_job_id) AS last_job_state,
       s.app, s.jitter, s.misfire_limit, s.paused_why, s.disabled_at, s.disabled_why, s.error
FROM pgsync.schedule AS s;

COMMENT ON VIEW pgsync.schedules IS
    'Recurring work: its rhythm, when it is due next, when it last fired and what became of that job. Its state is active, paused, disabled (no code declares it any more), broken (see error), ended (a date that has passed) or new (a daemon has yet to compute when it is due).';

CREATE OR REPLACE VIEW pgsync.schedule_fires AS
SELECT f.schedule, f.fire_time, f.fired_at, f.fired_at - f.fire_time AS lag, f.by_hand, f.job_id,
       pgsync.job_state(f.job_id) AS job_state
FROM pgsync.schedule_fire AS f;

COMMENT ON VIEW pgsync.schedule_fires IS
    'What schedules have enqueued: the due time, how late it was enqueued, and the state of the job. Ask for one schedule.';
