-- Finding jobs by what people know of them, and acting on all that were found. A search looks at a
-- bounded number of jobs, the newest first, and says how far it has looked.

CREATE OR REPLACE FUNCTION pgsync.check_job_filter(filter jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    unknown text;
BEGIN
    IF filter IS NULL OR jsonb_typeof(filter) <> 'object' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a filter of jobs must be a JSON object';
    END IF;
    SELECT string_agg(format('%s', f.name), ', ') INTO unknown FROM jsonb_object_keys(filter) AS f (name)
    WHERE f.name NOT IN ('states', 'queue', 'task', 'tags', 'text', 'args', 'attempts', 'since', 'until');
    IF unknown IS NOT NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = format('unknown in a filter of jobs: %s', unknown),
            HINT = 'It may have states, queue, task, tags, text, args, attempts, since and until.';
    ELSIF jsonb_typeof(filter -> 'states') <> 'array' OR jsonb_typeof(filter -> 'tags') <> 'array'
        OR jsonb_typeof(filter -> 'args') <> 'object' OR jsonb_typeof(filter -> 'attempts') <> 'number'
    THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'in a filter of jobs, states and tags must be arrays, args an object and attempts a number';
    END IF;
    SELECT string_agg(format('%s', s.state), ', ') INTO unknown
    FROM jsonb_array_elements_text(filter -> 'states') AS s (state)
    WHERE s.state NOT IN ('available', 'scheduled', 'retryable', 'waiting', 'running', 'completed', 'discarded', 'cancelled');
    IF unknown IS NOT NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = format('no state of a job: %s', unknown);
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.check_job_filter(jsonb) IS
    'Raises invalid_parameter_value for a filter of jobs that pgsync.find_jobs cannot read.';

CREATE OR REPLACE FUNCTION pgsync.find_jobs(
    filter jsonb DEFAULT '{}',
    before bigint DEFAULT NULL,
    most integer DEFAULT 50,
    look integer DEFAULT 10000,
    OUT ids bigint[],
    OUT next_before bigint,
    OUT looked_at_all boolean
)
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    top bigint := coalesce(before, 9223372036854775807);
    states text[] := ARRAY(SELECT jsonb_array_elements_text(filter -> 'states'));
    every boolean := coalesce(jsonb_array_length(filter -> 'states'), 0) = 0;
    wanted_queue text := filter ->> 'queue';
    wanted_task text := filter ->> 'task';
    wanted_text text := lower(filter ->> 'text');
    wanted_tags text[] := ARRAY(SELECT jsonb_array_elements_text(filter -> 'tags'));
    attempts numeric;
    since timestamptz;
    until timestamptz;
    horizon bigint;
BEGIN
    PERFORM pgsync.check_job_filter(filter);
    attempts := (filter ->> 'attempts')::numeric;
    since := (filter ->> 'since')::timestamptz;
    until := (filter ->> 'until')::timestamptz;
    -- What every newest job fits needs no look at more of them than are shown.
    IF filter - 'states' = '{}' AND (every OR NOT states && ARRAY['scheduled', 'retryable']) THEN
        look := least(look, most + 1);
    END IF;
    WITH looked AS MATERIALIZED (
        (SELECT 'ready' AS part, r.id, 'available' AS state, r.queue, r.task, r.args, r.errors, r.key, r.unique_key, r.tenant,
                r.created_at, r.attempt
         FROM pgsync.job_ready AS r
         WHERE (every OR 'available' = ANY (states)) AND r.id < top ORDER BY r.id DESC LIMIT look)
        UNION ALL
        (SELECT 'scheduled', s.id, s.state, s.queue, s.task, s.args, s.errors, s.key, s.unique_key, s.tenant,
                s.created_at, s.attempt
         FROM pgsync.job_scheduled AS s
         WHERE (every OR states && ARRAY['scheduled', 'retryable']) AND s.id < top ORDER BY s.id DESC LIMIT look)
        UNION ALL
        (SELECT 'waiting', w.id, 'waiting', w.queue, w.task, w.args, w.errors, w.key, w.unique_key, w.tenant,
                w.created_at, w.attempt
         FROM pgsync.job_waiting AS w
         WHERE (every OR 'waiting' = ANY (states)) AND w.id < top ORDER BY w.id DESC LIMIT look)
        UNION ALL
        (SELECT 'running', r.id, 'running', r.queue, r.task, r.args, r.errors, r.key, r.unique_key, r.tenant,
                r.created_at, r.attempt
         FROM pgsync.job_running AS r
         WHERE (every OR 'running' = ANY (states)) AND r.id < top ORDER BY r.id DESC LIMIT look)
        UNION ALL
        (SELECT 'completed', f.id, f.state, f.queue, f.task, f.args, f.errors, f.key, f.unique_key, f.tenant,
                f.created_at, f.attempt
         FROM pgsync.job_finished AS f
         WHERE (every OR 'completed' = ANY (states)) AND f.state = 'completed' AND f.id < top
         ORDER BY f.id DESC LIMIT look)
        UNION ALL
        (SELECT 'discarded', f.id, f.state, f.queue, f.task, f.args, f.errors, f.key, f.unique_key, f.tenant,
                f.created_at, f.attempt
         FROM pgsync.job_finished AS f
         WHERE (every OR 'discarded' = ANY (states)) AND f.state = 'discarded' AND f.id < top
         ORDER BY f.id DESC LIMIT look)
        UNION ALL
        (SELECT 'cancelled', f.id, f.state, f.queue, f.task, f.args, f.errors, f.key, f.unique_key, f.tenant,
                f.created_at, f.attempt
         FROM pgsync.job_finished AS f
         WHERE (every OR 'cancelled' = ANY (states)) AND f.state = 'cancelled' AND f.id < top
         ORDER BY f.id DESC LIMIT look)
    ), reach AS (
        -- Below the highest end of a look that was cut off, others might be missing.
        SELECT max(p.lowest) AS horizon FROM (
            SELECT min(l.id) AS lowest FROM looked AS l GROUP BY l.part HAVING count(*) >= look) AS p
    ), found AS (
        SELECT l.id FROM looked AS l
        WHERE l.id >= coalesce((SELECT r.horizon FROM reach AS r), 0)
          AND (every OR l.state = ANY (states))
          AND (wanted_queue IS NULL OR l.queue = wanted_queue)
          AND (wanted_task IS NULL OR l.task = wanted_task)
          AND (since IS NULL OR l.created_at >= since)
          AND (until IS NULL OR l.created_at < until)
          AND (attempts IS NULL OR l.attempt >= attempts)
          AND (wanted_tags = '{}' OR l.args -> 'pgsync:tags' ?& wanted_tags)
          AND (wanted_text IS NULL
               OR strpos(lower(concat_ws(' ', l.task, l.queue, l.key, l.unique_key, l.tenant, l.errors)), wanted_text) > 0)
          AND NOT EXISTS (SELECT FROM jsonb_each_text(coalesce(filter -> 'args', '{}')) AS a (name, value)
                          WHERE l.args #>> string_to_array(a.name, '.') IS DISTINCT FROM a.value)
        ORDER BY l.id DESC LIMIT most + 1
    )
    SELECT array_agg(f.id ORDER BY f.id DESC), (SELECT r.horizon FROM reach AS r) INTO ids, horizon FROM found AS f;
    ids := coalesce(ids, '{}');
    looked_at_all := horizon IS NULL;
    next_before := CASE WHEN cardinality(ids) > most THEN ids[most] ELSE horizon END;
    ids := ids[1:most];
END
$$;

COMMENT ON FUNCTION pgsync.find_jobs(jsonb, bigint, integer, integer) IS
    'Finds jobs, the newest first: filter may have states (an array), queue, task, tags (an array, all of which it has), text (in the task, the queue, the keys, the tenant and the errors), args (an object of names, with dots for nested ones, and values as text), attempts (how many have begun at least), since and until (when it was enqueued, the latter excluded). Looks at no more than look jobs of each state below the id before, and returns at most most ids; next_before goes on from there, null at the end.';

CREATE OR REPLACE FUNCTION pgsync.act_on_jobs(
    action text, past text, acts_on text[], filter jsonb, ids bigint[], by text, most integer,
    OUT changed integer, OUT passed_over integer
)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    wanted text[];
    job bigint;
    done bigint[] := '{}';
    state text;
BEGIN
    IF filter IS NULL AND ids IS NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = 'give a filter of jobs, or their ids';
    ELSIF ids IS NULL THEN
        PERFORM pgsync.check_job_filter(filter);
        wanted := ARRAY(SELECT jsonb_array_elements_text(filter -> 'states'));
        -- A job that waits for its time is not hurried unless that is what was asked for.
        wanted := CASE WHEN cardinality(wanted) > 0 THEN ARRAY(
                           SELECT w FROM unnest(wanted) AS w WHERE w = ANY (acts_on))
                       WHEN action = 'retry' THEN array_remove(acts_on, 'scheduled') ELSE acts_on END;
        act_on_jobs.ids := CASE WHEN cardinality(wanted) > 0 THEN (
            SELECT f.ids FROM pgsync.find_jobs(filter || jsonb_build_object('states', wanted), most => act_on_jobs.most) AS f)
            ELSE '{}' END;
    END IF;
    FOR job IN SELECT DISTINCT i FROM unnest(ids) AS i ORDER BY i LOOP
        BEGIN
            state := CASE action WHEN 'retry' THEN pgsync.retry_job(job)
                                 WHEN 'cancel' THEN pgsync.cancel_job(job, 'cancelled by ' || coalesce(by, session_user))
                                 WHEN 'forget' THEN pgsync.forget_job(job)
                                 ELSE pgsync.discard_job(job, 'discarded by ' || coalesce(by, session_user)) END;
        EXCEPTION WHEN unique_violation THEN
            state := NULL;  -- Another job has taken its unique key since.
        END;
        IF state IS NOT NULL THEN
            done := done || job;
        END IF;
    END LOOP;
    changed := cardinality(done);
    passed_over := cardinality(ARRAY(SELECT DISTINCT i FROM unnest(ids) AS i)) - changed;
    IF changed > 0 THEN
        PERFORM pgsync.record_audit('job.' || past,
            CASE changed WHEN 1 THEN format('job %s', done[1]) ELSE format('%s jobs', changed) END, by,
            jsonb_build_object('filter', filter, 'jobs', done));
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.act_on_jobs(text, text, text[], jsonb, bigint[], text, integer) IS
    'Internal: does one thing to jobs by their ids or a filter, and writes one entry of the audit trail. With both, to those ids; the filter is how they were found.';

CREATE OR REPLACE FUNCTION pgsync.retry_jobs(
    filter jsonb DEFAULT NULL, ids bigint[] DEFAULT NULL, by text DEFAULT NULL, most integer DEFAULT 1000,
    OUT changed integer, OUT passed_over integer
)
LANGUAGE sql VOLATILE AS $$
    SELECT * FROM pgsync.act_on_jobs('retry', 'retried', ARRAY['scheduled', 'retryable', 'discarded', 'cancelled'],
                                     filter, ids, by, most)
$$;

COMMENT ON FUNCTION pgsync.retry_jobs(jsonb, bigint[], text, integer) IS
    'Makes jobs available again, by ids or by a filter as in pgsync.find_jobs (of those at most most, the newest first): retryable, discarded and cancelled ones, and scheduled ones where the filter names that state. Says how many, and how many were passed over, as their state or their unique key does not allow it. Audited.';

CREATE OR REPLACE FUNCTION pgsync.cancel_jobs(
    filter jsonb DEFAULT NULL, ids bigint[] DEFAULT NULL, by text DEFAULT NULL, most integer DEFAULT 1000,
    OUT changed integer, OUT passed_over integer
)
LANGUAGE sql VOLATILE AS $$
    SELECT * FROM pgsync.act_on_jobs('cancel', 'cancelled',
                                     ARRAY['available', 'scheduled', 'retryable', 'waiting', 'running'], filter, ids, by, most)
$$;

COMMENT ON FUNCTION pgsync.cancel_jobs(jsonb, bigint[], text, integer) IS
    'As retry_jobs, but cancels those that have not ended; of those that run it is asked.';

CREATE OR REPLACE FUNCTION pgsync.discard_jobs(
    filter jsonb DEFAULT NULL, ids bigint[] DEFAULT NULL, by text DEFAULT NULL, most integer DEFAULT 1000,
    OUT changed integer, OUT passed_over integer
)
LANGUAGE sql VOLATILE AS $$
    SELECT * FROM pgsync.act_on_jobs('discard', 'discarded', ARRAY['available', 'scheduled', 'retryable', 'waiting'],
                                     filter, ids, by, most)
$$;

COMMENT ON FUNCTION pgsync.discard_jobs(jsonb, bigint[], text, integer) IS
    'As retry_jobs, but gives up on those that wait.';

CREATE OR REPLACE FUNCTION pgsync.forget_jobs(
    filter jsonb DEFAULT NULL, ids bigint[] DEFAULT NULL, by text DEFAULT NULL, most integer DEFAULT 1000,
    OUT changed integer, OUT passed_over integer
)
LANGUAGE sql VOLATILE AS $$
    SELECT * FROM pgsync.act_on_jobs('forget', 'forgotten', ARRAY['completed', 'discarded', 'cancelled'],
                                     filter, ids, by, most)
$$;

COMMENT ON FUNCTION pgsync.forget_jobs(jsonb, bigint[], text, integer) IS
    'As retry_jobs, but removes those that have ended from the history, before their time.';
