-- How attempts end. Each function takes the job from the worker and attempt that run it, and from
-- nobody else, and gives back in the same transaction what was taken for it.
--
-- Without sequential scans: a plan that is cached while a table is empty would scan it ever after.

CREATE OR REPLACE FUNCTION pgsync.complete_jobs(
    worker bigint, ids bigint[], attempts integer[], results jsonb[]
) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    -- One for all: the history's index on it is written where a later end comes, not for each job.
    moment timestamptz := pgsync.clock();
    accepted bigint[];
    queues text[];
    keys text[];
    unique_keys text[];
    unique_jobs bigint[];
    batches bigint[];
    locks bigint[];
BEGIN
    WITH given AS (
        SELECT g.id, g.attempt, g.result FROM unnest(ids, attempts, results) AS g (id, attempt, result)
    ), taken AS (
        DELETE FROM pgsync.job_running AS r USING (
            -- One probe an id. A plain join, planned while the table is empty, reads all of its index
            -- ever after, dead entries too.
            SELECT f.place, g.result FROM given AS g CROSS JOIN LATERAL (
                SELECT i.ctid AS place FROM pgsync.job_running AS i
                WHERE i.id = g.id AND i.attempt = g.attempt AND i.worker = complete_jobs.worker
                FOR UPDATE) AS f) AS found
        WHERE r.ctid = found.place
        RETURNING r.*, found.result
    ), finished AS (
        INSERT INTO pgsync.job_finished (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at,
            unique_key, errors, key, key_limit, ordered, batch, after, after_failed, lock_name, tenant, state, worker, started_at,
            finished_at, result)
        SELECT t.id, t.queue, t.task, t.args, t.priority, t.attempt, t.max_attempts, t.created_at, t.run_at,
               t.unique_key, t.errors, t.key, t.key_limit, t.ordered, t.batch, t.after, t.after_failed, t.lock_name, t.tenant,
               'completed', t.worker, t.started_at, moment, t.result
        FROM taken AS t
    )
    SELECT coalesce(array_agg(t.id), '{}'),
           array_agg(t.queue) FILTER (WHERE t.queue_slot),
           array_agg(t.key) FILTER (WHERE t.key_slot),
           array_agg(t.unique_key) FILTER (WHERE t.unique_key IS NOT NULL),
           array_agg(t.id) FILTER (WHERE t.unique_key IS NOT NULL),
           array_agg(t.batch) FILTER (WHERE t.batch IS NOT NULL),
           array_agg(t.lock_token) FILTER (WHERE t.lock_token IS NOT NULL)
    INTO accepted, queues, keys, unique_keys, unique_jobs, batches, locks FROM taken AS t;
    IF batches IS NOT NULL OR EXISTS (SELECT FROM pgsync.job_dependency AS d WHERE d.parent = ANY (accepted)) THEN
        PERFORM pgsync.jobs_ended(accepted, 'completed', batches);
    END IF;
    IF unique_keys IS NOT NULL THEN
        PERFORM pgsync.free_unique_keys(unique_keys, unique_jobs, 'completed');
    END IF;
    IF queues IS NOT NULL OR keys IS NOT NULL THEN
        PERFORM pgsync.free_slots(queues, keys);
    END IF;
    IF locks IS NOT NULL THEN
        PERFORM pgsync.free_job_locks(locks);
    END IF;
    RETURN accepted;
END
$$;

COMMENT ON FUNCTION pgsync.complete_jobs(bigint, bigint[], integer[], jsonb[]) IS
    'Records completions and returns the ids accepted: one that names another worker or attempt than the running one is late and changes nothing.';

CREATE OR REPLACE FUNCTION pgsync.complete_job(worker bigint, id bigint, attempt integer, result jsonb DEFAULT NULL)
RETURNS boolean
LANGUAGE sql VOLATILE AS $$
    SELECT cardinality(pgsync.complete_jobs(worker, ARRAY[id], ARRAY[attempt], ARRAY[result])) = 1;
$$;

COMMENT ON FUNCTION pgsync.complete_job(bigint, bigint, integer, jsonb) IS
    'Completes a job in the caller''s transaction, so that it commits or rolls back with the job''s effects; false where the attempt is no longer the running one. Call it last: a slot of its key or queue stays locked until the transaction ends.';

CREATE OR REPLACE FUNCTION pgsync.free_after(job pgsync.job_running, state text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    ended boolean := state IN ('completed', 'discarded', 'cancelled');
BEGIN
    IF ended AND job.unique_key IS NOT NULL THEN
        PERFORM pgsync.free_unique_keys(ARRAY[job.unique_key], ARRAY[job.id], state);
    END IF;
    -- One that runs in order keeps its slot: those behind it wait until it has ended.
    PERFORM pgsync.free_slots(
        CASE WHEN job.queue_slot THEN ARRAY[job.queue] END,
        CASE WHEN job.key_slot AND (ended OR NOT job.ordered) THEN ARRAY[job.key] END);
    IF job.lock_token IS NOT NULL THEN
        PERFORM pgsync.free_job_locks(ARRAY[job.lock_token]);
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.free_after(pgsync.job_running, text) IS
    'Internal: gives back what was taken for a job that ran and is now in a state.';

CREATE OR REPLACE FUNCTION pgsync.finish_job(job pgsync.job_running, state text, errors jsonb, result jsonb) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    INSERT INTO pgsync.job_finished (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at,
        unique_key, errors, key, key_limit, ordered, batch, after, after_failed, lock_name, tenant, state, worker, started_at,
        finished_at, result)
    VALUES (job.id, job.queue, job.task, job.args, job.priority, job.attempt, job.max_attempts, job.created_at,
            job.run_at, job.unique_key, finish_job.errors, job.key, job.key_limit, job.ordered, job.batch,
            job.after, job.after_failed, job.lock_name, job.tenant, finish_job.state, job.worker, job.started_at, pgsync.clock(),
            finish_job.result);
    PERFORM pgsync.jobs_ended(ARRAY[job.id], state, ARRAY[job.batch]);
    PERFORM pgsync.free_after(job, state);
    RETURN state;
END
$$;

COMMENT ON FUNCTION pgsync.finish_job(pgsync.job_running, text, jsonb, jsonb) IS
    'Internal: records the end of a job that ran.';

CREATE OR REPLACE FUNCTION pgsync.schedule_again(
    job pgsync.job_running, state text, attempt integer, due timestamptz, errors jsonb
) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    INSERT INTO pgsync.job_scheduled (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at,
        unique_key, errors, key, key_limit, ordered, key_slot, batch, after, after_failed, lock_name, tenant, state)
    VALUES (job.id, job.queue, job.task, job.args, job.priority, schedule_again.attempt, job.max_attempts,
            job.created_at, greatest(due, pgsync.clock()), job.unique_key, schedule_again.errors, job.key, job.key_limit, job.ordered,
            job.ordered AND job.key_slot, job.batch, job.after, job.after_failed, job.lock_name, job.tenant, schedule_again.state);
    PERFORM pgsync.free_after(job, state);
    RETURN state;
END
$$;

COMMENT ON FUNCTION pgsync.schedule_again(pgsync.job_running, text, integer, timestamptz, jsonb) IS
    'Internal: has a job that ran wait until it is due again.';

DROP FUNCTION IF EXISTS pgsync.fail_job(bigint, bigint, integer, jsonb, interval, interval, integer);

CREATE OR REPLACE FUNCTION pgsync.fail_job(
    worker bigint, id bigint, attempt integer, error jsonb, retry_in interval DEFAULT NULL,
    retry_until interval DEFAULT NULL, max_exceptions integer DEFAULT NULL, will_tell boolean DEFAULT false
) RETURNS text
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    job pgsync.job_running;
    moment timestamptz := pgsync.clock();
    all_errors jsonb;
BEGIN
    DELETE FROM pgsync.job_running AS r
    WHERE r.id = fail_job.id AND r.attempt = fail_job.attempt AND r.worker = fail_job.worker
    RETURNING r.* INTO job;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    all_errors := coalesce(job.errors, '[]') || (
        jsonb_build_object('attempt', job.attempt, 'started_at', job.started_at, 'at', moment, 'worker', job.worker)
        || error);
    IF job.cancel_requested_at IS NOT NULL THEN
        RETURN pgsync.finish_job(job, 'cancelled', all_errors, NULL);
    ELSIF retry_in IS NULL OR job.attempt >= job.max_attempts
        OR moment + retry_in > (all_errors -> 0 ->> 'started_at')::timestamptz + retry_until
        -- Those of dead workers have no traceback.
        OR jsonb_array_length(jsonb_path_query_array(all_errors, '$[*] ? (exists(@.traceback))')) >= max_exceptions
    THEN
        IF will_tell THEN
            INSERT INTO pgsync.job_untold_discard AS u (job, task, discarded_at, taken_at)
            VALUES (job.id, job.task, moment, moment)
            ON CONFLICT ON CONSTRAINT job_untold_discard_pkey
            DO UPDATE SET discarded_at = excluded.discarded_at, taken_at = excluded.taken_at;
        END IF;
        RETURN pgsync.finish_job(job, 'discarded', all_errors, NULL);
    END IF;
    RETURN pgsync.schedule_again(job, 'retryable', job.attempt, moment + retry_in, all_errors);
END
$$;

COMMENT ON FUNCTION pgsync.fail_job(bigint, bigint, integer, jsonb, interval, interval, integer, boolean) IS
    'Records a failed attempt: retryable in retry_in; discarded where that is null, or attempts are spent, or the next would begin later than retry_until after the first, or max_exceptions attempts have failed (those whose worker died are not counted); or cancelled where that was asked for. With will_tell the caller calls on_discard of a discarded job, and another worker will where it does not say discards_told. Null where the attempt is no longer the running one.';

CREATE OR REPLACE FUNCTION pgsync.release_job(
    worker bigint, id bigint, attempt integer, delay interval, reason text DEFAULT NULL
) RETURNS text
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    job pgsync.job_running;
BEGIN
    DELETE FROM pgsync.job_running AS r
    WHERE r.id = release_job.id AND r.attempt = release_job.attempt AND r.worker = release_job.worker
    RETURNING r.* INTO job;
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF job.cancel_requested_at IS NOT NULL THEN
        RETURN pgsync.finish_job(job, 'cancelled', job.errors, '{"reason": "cancelled while it ran"}');
    END IF;
    PERFORM pgsync.note_jobs(ARRAY[job.id], ARRAY[job.attempt], 'released', ARRAY[job.worker], ARRAY[job.started_at],
        ARRAY[jsonb_strip_nulls(jsonb_build_object('delay', delay, 'reason', nullif(left(reason, 500), '')))]);
    RETURN pgsync.schedule_again(job, 'scheduled', job.attempt - 1, pgsync.clock() + delay, job.errors);
END
$$;

COMMENT ON FUNCTION pgsync.release_job(bigint, bigint, integer, interval, text) IS
    'Puts a running job back for later without spending its attempt, or cancels it where that was asked for; null where the attempt is no longer the running one. pgsync.job_notes tells of it.';

CREATE OR REPLACE FUNCTION pgsync.stop_job(
    worker bigint, id bigint, attempt integer, reason jsonb
) RETURNS text
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    job pgsync.job_running;
BEGIN
    DELETE FROM pgsync.job_running AS r
    WHERE r.id = stop_job.id AND r.attempt = stop_job.attempt AND r.worker = stop_job.worker
    RETURNING r.* INTO job;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    RETURN pgsync.finish_job(job, 'cancelled', job.errors, reason);
END
$$;

COMMENT ON FUNCTION pgsync.stop_job(bigint, bigint, integer, jsonb) IS
    'Records that a running job was cancelled, by request or by itself, and why; null where the attempt is no longer the running one.';
