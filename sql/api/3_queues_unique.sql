-- Unique jobs: one row a key in job_unique, whose primary key decides between callers.

CREATE OR REPLACE FUNCTION pgsync.unique_key(task text, args jsonb, fields text[] DEFAULT NULL) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN 'task:' || task || ':' || encode(sha256(convert_to(
    -- The trace that a job belongs to, and its tags, travel with its arguments and are none of them.
    CASE WHEN fields IS NULL THEN CASE WHEN args ?| '{pgsync:trace,pgsync:tags}'
                                       THEN args - '{pgsync:trace,pgsync:tags}'::text[] ELSE args END
         ELSE (SELECT jsonb_object_agg(f, args -> f) FROM unnest(fields) AS f) END ::text, 'UTF8')), 'hex');

COMMENT ON FUNCTION pgsync.unique_key(text, jsonb, text[]) IS
    'A unique key of a task''s arguments, or of the named ones among them.';

CREATE OR REPLACE FUNCTION pgsync.check_unique(unique_for interval, unique_states text[], replace text[]) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    ends constant text[] := '{completed,discarded,cancelled}';
BEGIN
    IF unique_for IS NOT NULL THEN
        PERFORM pgsync.check_duration(unique_for, 'unique_for');
    END IF;
    IF NOT unique_states <@ ('{scheduled,available,running,retryable}' || ends) THEN
        RAISE invalid_parameter_value USING MESSAGE = format(
            'unique_states are scheduled, available, running, retryable, completed, discarded and cancelled, which %s are not all', unique_states);
    ELSIF NOT unique_states @> '{scheduled,available}' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'unique_states must have scheduled and available: a job begins in one of them';
    ELSIF unique_states && ends AND unique_for IS NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a job that keeps its unique key when it has ended needs unique_for, to say how long';
    ELSIF NOT replace <@ '{args,run_at,priority,max_attempts}' THEN
        RAISE invalid_parameter_value USING MESSAGE = format(
            'what can be replaced are args, run_at, priority and max_attempts, which %s are not all', replace);
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.check_unique(interval, text[], text[]) IS
    'Raises invalid_parameter_value for a way of being unique that can never work.';

CREATE OR REPLACE FUNCTION pgsync.keeps_unique_key(job bigint, states text[]) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
DECLARE
    state text := (SELECT j.state FROM pgsync.jobs AS j WHERE j.id = job);
BEGIN
    IF state IS NULL AND states IS NOT NULL THEN
        state := (SELECT f.state FROM pgsync.job_finished AS f WHERE f.id = job ORDER BY f.finished_at DESC LIMIT 1);
    END IF;
    RETURN coalesce(CASE state WHEN 'waiting' THEN 'available' ELSE state END
        = ANY (coalesce(states, '{scheduled,available,running,retryable}')), false);
END
$$;

COMMENT ON FUNCTION pgsync.keeps_unique_key(bigint, text[]) IS
    'Internal: whether a job is in one of the states (null: any before its end) in which it keeps its unique key.';

CREATE OR REPLACE FUNCTION pgsync.take_unique_key(key text, job bigint, until timestamptz, states text[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    holder pgsync.job_unique;
BEGIN
    LOOP
        INSERT INTO pgsync.job_unique AS u (key, job_id, until, states)
        VALUES (take_unique_key.key, job, take_unique_key.until, take_unique_key.states)
        ON CONFLICT ON CONSTRAINT job_unique_pkey DO NOTHING;
        IF FOUND THEN
            RETURN NULL;
        END IF;
        -- Only looked at, not locked: a long transaction of the caller's must not hold up the
        -- completion of the other job. Where that has just ended, ours is tried again.
        SELECT u.* INTO holder FROM pgsync.job_unique AS u WHERE u.key = take_unique_key.key;
        CONTINUE WHEN NOT FOUND;
        IF coalesce(holder.until > pgsync.clock(), true) AND pgsync.keeps_unique_key(holder.job_id, holder.states) THEN
            RETURN holder.job_id;
        END IF;
        UPDATE pgsync.job_unique AS u
        SET job_id = job, until = take_unique_key.until, states = take_unique_key.states
        WHERE u.key = take_unique_key.key AND u.job_id = holder.job_id;
        IF FOUND THEN
            RETURN NULL;
        END IF;
    END LOOP;
END
$$;

COMMENT ON FUNCTION pgsync.take_unique_key(text, bigint, timestamptz, text[]) IS
    'Internal: takes a unique key for a job and returns null, or the job that has it.';

CREATE OR REPLACE FUNCTION pgsync.free_unique_keys(keys text[], jobs bigint[], ending text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    -- A row that somebody's open transaction is taking over is left to it.
    DELETE FROM pgsync.job_unique AS d WHERE d.ctid = ANY (ARRAY(
        SELECT u.ctid FROM unnest(keys, jobs) AS f (key, job) JOIN pgsync.job_unique AS u ON u.key = f.key
        WHERE u.job_id = f.job AND NOT coalesce(ending = ANY (u.states), false)
        ORDER BY u.key FOR UPDATE OF u SKIP LOCKED));
END
$$;

COMMENT ON FUNCTION pgsync.free_unique_keys(text[], bigint[], text) IS
    'Internal: gives up the unique keys of jobs that come into a state, unless they keep them there.';

CREATE OR REPLACE FUNCTION pgsync.replace_job(
    job bigint, fields text[], args jsonb, run_at timestamptz, priority integer, max_attempts integer
) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    due timestamptz := coalesce(replace_job.run_at, moment);
BEGIN
    IF 'run_at' = ANY (fields) THEN
        IF NOT pgsync.reschedule_job(job, due) THEN
            RETURN false;
        END IF;
    END IF;
    UPDATE pgsync.job_ready AS r
    SET args = CASE WHEN 'args' = ANY (fields) THEN replace_job.args ELSE r.args END,
        priority = CASE WHEN 'priority' = ANY (fields) THEN replace_job.priority ELSE r.priority END,
        -- A new place in the order, as positions of a priority only grow.
        position = CASE WHEN 'priority' = ANY (fields) AND replace_job.priority <> r.priority
                        THEN nextval('pgsync.job_ready_position_seq') ELSE r.position END,
        max_attempts = CASE WHEN 'max_attempts' = ANY (fields) THEN replace_job.max_attempts ELSE r.max_attempts END
    WHERE r.id = job;
    IF FOUND THEN
        RETURN true;
    END IF;
    UPDATE pgsync.job_scheduled AS s
    SET args = CASE WHEN 'args' = ANY (fields) THEN replace_job.args ELSE s.args END,
        priority = CASE WHEN 'priority' = ANY (fields) THEN replace_job.priority ELSE s.priority END,
        max_attempts = CASE WHEN 'max_attempts' = ANY (fields) THEN replace_job.max_attempts ELSE s.max_attempts END
    WHERE s.id = job;
    IF FOUND THEN
        RETURN true;
    END IF;
    UPDATE pgsync.job_waiting AS w
    SET args = CASE WHEN 'args' = ANY (fields) THEN replace_job.args ELSE w.args END,
        priority = CASE WHEN 'priority' = ANY (fields) THEN replace_job.priority ELSE w.priority END,
        max_attempts = CASE WHEN 'max_attempts' = ANY (fields) THEN replace_job.max_attempts ELSE w.max_attempts END
    WHERE w.id = job;
    RETURN FOUND;
END
$$;

COMMENT ON FUNCTION pgsync.replace_job(bigint, text[], jsonb, timestamptz, integer, integer) IS
    'Internal: gives a job that waits other arguments, due time, priority or attempts; false where it runs or has ended.';

CREATE OR REPLACE FUNCTION pgsync.reschedule_job(job bigint, due timestamptz) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    its_queue text;
    freed text;
BEGIN
    IF due > pgsync.clock() THEN
        UPDATE pgsync.job_scheduled AS s SET run_at = greatest(due, pgsync.clock()) WHERE s.id = job;
        IF FOUND THEN
            RETURN true;
        END IF;
        SELECT r.key INTO freed FROM pgsync.job_ready AS r
        WHERE r.id = job AND r.key_slot AND NOT r.ordered FOR UPDATE;
        WITH taken AS (
            DELETE FROM pgsync.job_ready AS r WHERE r.id = job RETURNING r.*
        )
        INSERT INTO pgsync.job_scheduled (id, queue, task, args, priority, attempt, max_attempts,
            created_at, run_at, unique_key, errors, key, key_limit, ordered, key_slot, batch, after, after_failed, lock_name, tenant, state)
        SELECT t.id, t.queue, t.task, t.args, t.priority, t.attempt, t.max_attempts, t.created_at,
               greatest(due, pgsync.clock()), t.unique_key, t.errors, t.key, t.key_limit, t.ordered, t.ordered AND t.key_slot, t.batch, t.after, t.after_failed, t.lock_name, t.tenant, 'scheduled'
        FROM taken AS t;
        IF FOUND AND freed IS NOT NULL THEN
            PERFORM pgsync.free_slots(NULL, ARRAY[freed]);
            RETURN true;
        END IF;
        RETURN FOUND;
    END IF;
    WITH taken AS (
        DELETE FROM pgsync.job_scheduled AS s WHERE s.id = job RETURNING s.*
    )
    INSERT INTO pgsync.job_ready (id, queue, task, args, priority, attempt, max_attempts,
        created_at, run_at, unique_key, errors, key, key_limit, ordered, key_slot, batch, after, after_failed, lock_name, tenant)
    SELECT t.id, t.queue, t.task, t.args, t.priority, t.attempt, t.max_attempts, t.created_at, due,
           t.unique_key, t.errors, t.key, t.key_limit, t.ordered, t.key_slot, t.batch, t.after, t.after_failed, t.lock_name, t.tenant
    FROM taken AS t
    RETURNING queue INTO its_queue;
    IF FOUND THEN
        PERFORM pgsync.notify_workers(its_queue);
        RETURN true;
    END IF;
    RETURN EXISTS (SELECT FROM pgsync.job_ready AS r WHERE r.id = job);
END
$$;

COMMENT ON FUNCTION pgsync.reschedule_job(bigint, timestamptz) IS
    'Internal: moves a job that waits for its time, or to be claimed, to another time; false where it is neither.';

CREATE OR REPLACE FUNCTION pgsync.prune_unique_keys() RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    pruned integer;
BEGIN
    DELETE FROM pgsync.job_unique AS d WHERE d.ctid = ANY (ARRAY(
        SELECT u.ctid FROM pgsync.job_unique AS u
        WHERE coalesce(u.until <= pgsync.clock(), true)
          AND NOT EXISTS (SELECT FROM pgsync.jobs AS j WHERE j.id = u.job_id)
        FOR UPDATE OF u SKIP LOCKED));
    GET DIAGNOSTICS pruned = ROW_COUNT;
    RETURN pruned;
END
$$;

COMMENT ON FUNCTION pgsync.prune_unique_keys() IS
    'Removes unique keys of jobs that have ended, when their time is over, and says how many.';
