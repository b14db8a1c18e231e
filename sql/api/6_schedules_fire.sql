-- How each due time is enqueued once, over any number of daemons. A daemon takes what is due, row
-- locks and all, computes in the same transaction what comes next, and fires. That it enqueues once
-- rests on fire_schedules alone, which compares and sets; the locks save the others the work.

CREATE OR REPLACE FUNCTION pgsync.due_schedules(batch integer DEFAULT 100)
RETURNS TABLE (
    name text, kind text, expression text, timezone text, misfire text, misfire_grace interval,
    next_fire_at timestamptz, now timestamptz
)
LANGUAGE sql VOLATILE AS $$
    SELECT s.name, s.kind, s.expression, s.timezone, s.misfire, s.misfire_grace, s.next_fire_at, pgsync.clock()
    FROM pgsync.schedule AS s
    WHERE s.next_fire_at <= pgsync.clock() AND s.next_fire_at > '-infinity'
      AND s.paused_at IS NULL AND s.disabled_at IS NULL
    ORDER BY s.next_fire_at, s.name LIMIT batch
$$;

COMMENT ON FUNCTION pgsync.due_schedules(integer) IS
    'The schedules that are due, oldest first, with the server''s time. For daemons of older versions: later ones take them.';

CREATE OR REPLACE FUNCTION pgsync.next_schedule_at() RETURNS timestamptz
LANGUAGE sql VOLATILE AS $$
    -- Where one has yet to be computed it is due at once: no client reads -infinity.
    SELECT CASE WHEN n.at = '-infinity' THEN pgsync.clock() ELSE n.at END
    FROM (SELECT min(s.next_fire_at) FROM pgsync.schedule AS s
          WHERE s.paused_at IS NULL AND s.disabled_at IS NULL) AS n (at)
$$;

COMMENT ON FUNCTION pgsync.next_schedule_at() IS 'When the next schedule is due; null where none is.';

CREATE OR REPLACE FUNCTION pgsync.take_due_schedules(batch integer DEFAULT 100)
RETURNS TABLE (
    name text, kind text, expression text, timezone text, misfire text, misfire_grace interval,
    misfire_limit integer, due_at timestamptz, now timestamptz
)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    moment timestamptz := pgsync.clock();
BEGIN
    RETURN QUERY
    SELECT s.name, s.kind, s.expression, s.timezone, s.misfire, s.misfire_grace, s.misfire_limit,
           nullif(s.next_fire_at, '-infinity'), moment
    FROM pgsync.schedule AS s
    WHERE s.next_fire_at <= moment AND s.paused_at IS NULL AND s.disabled_at IS NULL
    ORDER BY s.next_fire_at, s.name LIMIT batch FOR UPDATE SKIP LOCKED;
END
$$;

COMMENT ON FUNCTION pgsync.take_due_schedules(integer) IS
    'Up to batch due schedules that no other daemon has taken, oldest first, with the server''s time; they are locked until the caller''s transaction ends. Without a due_at: its due time is yet to be computed.';

CREATE OR REPLACE FUNCTION pgsync.fire_schedules(
    names text[], due_at timestamptz[], next_fire_at timestamptz[], errors text[],
    fire_names text[], fire_times timestamptz[]
) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    due record;
    moment timestamptz;
    job bigint;
    jobs bigint[] := '{}';
BEGIN
    FOR due IN
        SELECT s.*, g.following, g.failure, ARRAY(
            SELECT f.fire_time FROM unnest(fire_names, fire_times) AS f (name, fire_time)
            WHERE f.name = s.name AND NOT EXISTS (
                SELECT FROM pgsync.schedule_fire AS e WHERE e.schedule = s.name AND e.fire_time = f.fire_time)
            ORDER BY f.fire_time) AS times
        FROM unnest(names, fire_schedules.due_at, fire_schedules.next_fire_at, errors)
            AS g (name, due_at, following, failure)
        JOIN pgsync.schedule AS s ON s.name = g.name
        -- Compare and set: of all daemons that saw this due time, one passes.
        WHERE s.next_fire_at = coalesce(g.due_at, '-infinity') AND s.paused_at IS NULL AND s.disabled_at IS NULL
        ORDER BY s.name FOR UPDATE OF s SKIP LOCKED
    LOOP
        FOREACH moment IN ARRAY due.times LOOP
            job := pgsync.enqueue(due.task, due.args, due.queue, due.priority::integer,
                run_at => CASE WHEN due.jitter > interval '0'
                               THEN moment + pgsync.schedule_jitter(due.name, moment, due.jitter) END,
                max_attempts => due.max_attempts::integer);
            INSERT INTO pgsync.schedule_fire (schedule, fire_time, job_id, fired_at)
            VALUES (due.name, moment, job, pgsync.clock());
            due.last_fire_at := moment;
            due.last_job_id := job;
            jobs := jobs || job;
        END LOOP;
        UPDATE pgsync.schedule AS s
        SET next_fire_at = due.following, error = due.failure,
            last_fire_at = due.last_fire_at, last_job_id = due.last_job_id
        WHERE s.name = due.name;
    END LOOP;
    RETURN jobs;
END
$$;

COMMENT ON FUNCTION pgsync.fire_schedules(text[], timestamptz[], timestamptz[], text[], text[], timestamptz[]) IS
    'Enqueues fires and moves their schedules on, in one transaction: of each schedule its due_at, its next due time, why that could not be computed, and of each fire its schedule and its time. Returns the jobs. What another daemon has fired is passed over.';

CREATE OR REPLACE FUNCTION pgsync.fire_schedule(
    name text, due_at timestamptz, fire_times timestamptz[], next_fire_at timestamptz
) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM FROM pgsync.schedule AS s
    WHERE s.name = fire_schedule.name AND s.next_fire_at = fire_schedule.due_at
      AND s.paused_at IS NULL AND s.disabled_at IS NULL
    FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    RETURN pgsync.fire_schedules(ARRAY[name], ARRAY[due_at], ARRAY[next_fire_at], ARRAY[NULL::text],
        ARRAY(SELECT name FROM unnest(fire_times)), fire_times);
END
$$;

COMMENT ON FUNCTION pgsync.fire_schedule(text, timestamptz, timestamptz[], timestamptz) IS
    'Enqueues the fires of a schedule due at due_at and moves it on, in one transaction. Returns the jobs, or null where another daemon has done it.';

DROP FUNCTION IF EXISTS pgsync.prune_schedule_fires(interval);

CREATE OR REPLACE FUNCTION pgsync.prune_schedule_fires(retention interval DEFAULT '30 days', keep integer DEFAULT 1000)
RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    removed integer;
BEGIN
    -- Fires are once only by the schedule's own row: these are for people.
    DELETE FROM pgsync.schedule_fire AS f
    USING (
        SELECT s.name, greatest(pgsync.clock() - retention, (
            SELECT o.fire_time FROM pgsync.schedule_fire AS o
            WHERE o.schedule = s.name ORDER BY o.fire_time DESC OFFSET keep - 1 LIMIT 1)) AS horizon
        FROM pgsync.schedule AS s
    ) AS old
    WHERE f.schedule = old.name AND f.fire_time < old.horizon;
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END
$$;

COMMENT ON FUNCTION pgsync.prune_schedule_fires(interval, integer) IS
    'Forgets fires that were due longer ago than retention, and of each schedule all but the last keep; says how many.';
