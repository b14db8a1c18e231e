-- Schedules that the code of an app declares.
--
-- In a rolling deploy two versions of an app run side by side, and each has a set of schedules. No
-- daemon decides alone what was removed: of the sets that some living daemon has, the one that came
-- last holds. A daemon shows that it lives by a shared advisory lock on its set, so that one of the
-- old version which is restarted meanwhile changes nothing, and after a rollback the old set holds
-- again as soon as the new version's daemons have gone.

DROP FUNCTION IF EXISTS pgsync.declare_schedule(text, text, jsonb, text, integer, integer, text, text, text, text, interval, timestamptz);

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
    app text DEFAULT NULL,
    misfire_limit integer DEFAULT 1000,
    jitter interval DEFAULT '0',
    OUT changed boolean,
    OUT due_at timestamptz
)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
BEGIN
    PERFORM pgsync.check_name(name, 'schedule name');
    PERFORM pgsync.check_job(task, args, queue, priority, max_attempts, NULL);
    PERFORM pgsync.check_schedule_options(kind, expression, misfire, misfire_grace, misfire_limit, jitter);
    PERFORM pgsync.check_given(timezone, 'timezone');
    INSERT INTO pgsync.schedule AS s
        (name, task, args, queue, priority, max_attempts, kind, expression, timezone, misfire,
         misfire_grace, next_fire_at, created_at, updated_at, app, misfire_limit, jitter)
    VALUES (declare_schedule.name, declare_schedule.task, declare_schedule.args,
            declare_schedule.queue, declare_schedule.priority, declare_schedule.max_attempts,
            declare_schedule.kind, declare_schedule.expression, declare_schedule.timezone,
            declare_schedule.misfire, declare_schedule.misfire_grace,
            declare_schedule.next_fire_at, moment, moment, declare_schedule.app,
            declare_schedule.misfire_limit, declare_schedule.jitter)
    ON CONFLICT ON CONSTRAINT schedule_pkey DO UPDATE
    SET task = excluded.task, args = excluded.args, queue = excluded.queue,
        priority = excluded.priority, max_attempts = excluded.max_attempts,
        kind = excluded.kind, expression = excluded.expression, timezone = excluded.timezone,
        misfire = excluded.misfire, misfire_grace = excluded.misfire_grace,
        misfire_limit = excluded.misfire_limit, jitter = excluded.jitter,
        app = coalesce(excluded.app, s.app), disabled_at = NULL, disabled_why = NULL, error = NULL,
        -- A new rhythm begins anew; an old one keeps its next fire over deploys.
        next_fire_at = CASE
            WHEN (s.kind, s.expression, s.timezone) = (excluded.kind, excluded.expression, excluded.timezone)
                 AND s.disabled_at IS NULL AND s.error IS NULL
            THEN s.next_fire_at ELSE excluded.next_fire_at END,
        updated_at = excluded.updated_at
    WHERE (s.task, s.args, s.queue, s.priority, s.max_attempts, s.kind, s.expression, s.timezone,
           s.misfire, s.misfire_grace, s.misfire_limit, s.jitter, s.app, s.disabled_at, s.error)
       IS DISTINCT FROM
          (excluded.task, excluded.args, excluded.queue, excluded.priority, excluded.max_attempts,
           excluded.kind, excluded.expression, excluded.timezone, excluded.misfire,
           excluded.misfire_grace, excluded.misfire_limit, excluded.jitter, coalesce(excluded.app, s.app),
           NULL, NULL);
    changed := FOUND;
    SELECT s.next_fire_at INTO due_at FROM pgsync.schedule AS s WHERE s.name = declare_schedule.name;
END
$$;

COMMENT ON FUNCTION pgsync.declare_schedule(text, text, jsonb, text, integer, integer, text, text, text, text, interval, timestamptz, text, integer, interval) IS
    'Creates a schedule or brings it up to its declaration. One row: changed, and when it is due next.';

CREATE OR REPLACE FUNCTION pgsync.schedule_set_key(app text, digest text) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT
RETURN pgsync.lock_key('pgsync.schedules:' || app || ':' || digest);

COMMENT ON FUNCTION pgsync.schedule_set_key(text, text) IS
    'The advisory lock that living daemons hold, shared, on the set of schedules that their code declares.';

CREATE OR REPLACE FUNCTION pgsync.schedule_set_lives(app text, digest text) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM pgsync.advisory_locks AS l
                   WHERE l.key = pgsync.schedule_set_key(app, digest) AND l.granted)
$$;

COMMENT ON FUNCTION pgsync.schedule_set_lives(text, text) IS 'Whether some living daemon has declared the set.';

CREATE OR REPLACE FUNCTION pgsync.declare_schedules(
    app text,
    digest text,
    declared jsonb,
    starting boolean DEFAULT true,
    OUT holds boolean,
    OUT changed text[],
    OUT disabled text[],
    OUT refused text[]
)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    own_key bigint := pgsync.schedule_set_key(app, digest);
    is_applied boolean;
    is_due boolean := true;
    given record;
BEGIN
    changed := '{}';
    disabled := '{}';
    refused := '{}';
    holds := true;
    IF jsonb_typeof(declared) IS DISTINCT FROM 'array' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'declared must be an array of schedules';
    END IF;
    IF app IS NOT NULL THEN
        PERFORM pgsync.check_name(app, 'app');
        PERFORM pgsync.check_name(digest, 'digest');
        -- One daemon of the app at a time: many start at once.
        PERFORM pg_advisory_xact_lock(pgsync.lock_key('pgsync.schedules:' || app));
        INSERT INTO pgsync.schedule_set AS s (app, digest, declared_at)
        VALUES (declare_schedules.app, declare_schedules.digest, moment)
        ON CONFLICT ON CONSTRAINT schedule_set_pkey DO UPDATE SET declared_at = excluded.declared_at
        WHERE starting AND NOT pgsync.schedule_set_lives(s.app, s.digest);
        SELECT s.digest = declare_schedules.digest, s.applied INTO holds, is_applied
        FROM pgsync.schedule_set AS s
        WHERE s.app = declare_schedules.app
          AND (s.digest = declare_schedules.digest OR pgsync.schedule_set_lives(s.app, s.digest))
        ORDER BY s.declared_at DESC, s.digest LIMIT 1;
        is_due := holds AND (starting OR NOT is_applied);
    END IF;
    FOR given IN
        SELECT d.*, s.app AS owner
        FROM jsonb_to_recordset(declared) AS d (
            name text, task text, args jsonb, queue text, priority integer, max_attempts integer, kind text,
            expression text, timezone text, misfire text, misfire_grace interval, next_fire_at timestamptz,
            misfire_limit integer, jitter interval)
        LEFT JOIN pgsync.schedule AS s ON s.name = d.name AND s.disabled_at IS NULL
        WHERE is_due
        ORDER BY d.name
    LOOP
        IF given.owner <> coalesce(app, '') AND EXISTS (
            SELECT FROM pgsync.schedule_set AS s
            WHERE s.app = given.owner AND pgsync.schedule_set_lives(s.app, s.digest))
        THEN
            refused := refused || given.name;
            CONTINUE;
        END IF;
        IF (SELECT d.changed FROM pgsync.declare_schedule(given.name, given.task, given.args, given.queue,
                given.priority, given.max_attempts, given.kind, given.expression, given.timezone, given.misfire,
                given.misfire_grace, given.next_fire_at, app, given.misfire_limit, given.jitter) AS d) THEN
            changed := changed || given.name;
        END IF;
    END LOOP;
    IF app IS NULL THEN
        RETURN;  -- Whose they are is not known, so none is missed.
    END IF;
    -- Not before what may be refused: an error gives no lock of a session back.
    IF NOT EXISTS (
        SELECT FROM pgsync.advisory_locks AS l WHERE l.key = own_key AND l.pid = pg_backend_pid()) THEN
        PERFORM pg_advisory_lock_shared(own_key);
    END IF;
    IF NOT is_due THEN
        RETURN;
    END IF;
    WITH gone AS (
        UPDATE pgsync.schedule AS s
        SET disabled_at = moment, disabled_why = format('the code of %s does not declare it any more', declare_schedules.app)
        WHERE s.app = declare_schedules.app AND s.disabled_at IS NULL
          AND s.name NOT IN (SELECT d ->> 'name' FROM jsonb_array_elements(declared) AS d)
        RETURNING s.name
    )
    SELECT coalesce(array_agg(g.name ORDER BY g.name), '{}') INTO disabled FROM gone AS g;
    UPDATE pgsync.schedule_set AS s SET applied = s.digest = declare_schedules.digest
    WHERE s.app = declare_schedules.app AND s.applied <> (s.digest = declare_schedules.digest);
    DELETE FROM pgsync.schedule_set AS s
    WHERE s.declared_at < moment - interval '30 days' AND NOT pgsync.schedule_set_lives(s.app, s.digest);
END
$$;

COMMENT ON FUNCTION pgsync.declare_schedules(text, text, jsonb, boolean) IS
    'Declares the set of schedules of an app''s code, on a session that lives as long as the daemon. One row: whether this set holds (a newer one of a living daemon may), which schedules were changed, which were disabled since the set has them no more, and which belong to another living app. Without an app nothing is disabled. Call it with starting when the process starts, and without now and then, in case the newer set''s daemons have gone.';
