-- What operators do to jobs and queues. Each answers with the state the job is in afterwards, null where there is no
-- such job, or it is past that.

CREATE OR REPLACE FUNCTION pgsync.end_waiting_job(id bigint, state text, reason text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    ended record;
BEGIN
    WITH taken AS (
        DELETE FROM pgsync.job_ready AS r WHERE r.id = end_waiting_job.id
        RETURNING r.id, r.queue, r.task, r.args, r.priority, r.attempt, r.max_attempts, r.created_at, r.run_at,
                  r.unique_key, r.errors, r.key, r.key_limit, r.ordered, r.batch, r.after, r.after_failed, r.lock_name, r.tenant,
                  r.key_slot, false AS waited
    ), taken_scheduled AS (
        DELETE FROM pgsync.job_scheduled AS s WHERE s.id = end_waiting_job.id
        RETURNING s.id, s.queue, s.task, s.args, s.priority, s.attempt, s.max_attempts, s.created_at, s.run_at,
                  s.unique_key, s.errors, s.key, s.key_limit, s.ordered, s.batch, s.after, s.after_failed, s.lock_name, s.tenant,
                  s.key_slot, false
    ), taken_waiting AS (
        DELETE FROM pgsync.job_waiting AS w WHERE w.id = end_waiting_job.id
        RETURNING w.id, w.queue, w.task, w.args, w.priority, w.attempt, w.max_attempts, w.created_at, w.run_at,
                  w.unique_key, w.errors, w.key, w.key_limit, w.ordered, w.batch, w.after, w.after_failed, w.lock_name, w.tenant,
                  w.key_slot, w.waits_for = 'key'
    ), all_taken AS (
        SELECT * FROM taken UNION ALL SELECT * FROM taken_scheduled UNION ALL SELECT * FROM taken_waiting
    ), finished AS (
        INSERT INTO pgsync.job_finished (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at,
            unique_key, errors, key, key_limit, ordered, batch, after, after_failed, lock_name, tenant, state, finished_at, result)
        SELECT a.id, a.queue, a.task, a.args, a.priority, a.attempt, a.max_attempts, a.created_at, a.run_at,
               a.unique_key, a.errors, a.key, a.key_limit, a.ordered, a.batch, a.after, a.after_failed, a.lock_name, a.tenant,
               end_waiting_job.state, pgsync.clock(),
               jsonb_strip_nulls(jsonb_build_object('reason', end_waiting_job.reason))
        FROM all_taken AS a
    ), untold AS (
        INSERT INTO pgsync.job_untold_discard AS u (job, task, discarded_at)
        SELECT a.id, a.task, pgsync.clock() FROM all_taken AS a WHERE end_waiting_job.state = 'discarded'
        ON CONFLICT (job) DO UPDATE SET discarded_at = excluded.discarded_at, taken_at = NULL
    )
    SELECT a.unique_key, a.key, a.key_slot, a.waited, a.batch, a.lock_name INTO ended FROM all_taken AS a;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM pgsync.job_dependency AS d WHERE d.child = end_waiting_job.id;
    PERFORM pgsync.jobs_ended(ARRAY[id], state, ARRAY[ended.batch]);
    IF ended.unique_key IS NOT NULL THEN
        PERFORM pgsync.free_unique_keys(ARRAY[ended.unique_key], ARRAY[end_waiting_job.id], end_waiting_job.state);
    END IF;
    IF ended.key IS NOT NULL THEN
        PERFORM pgsync.lock_keys(ARRAY[ended.key]);
        UPDATE pgsync.job_key AS k
        SET taken = k.taken - ended.key_slot::integer, waiting = k.waiting - ended.waited::integer
        WHERE k.key = ended.key;
        -- Also where it had no slot: others may have waited for their turn behind it.
        PERFORM pgsync.resume_keys(ARRAY[ended.key]);
    END IF;
    IF ended.lock_name IS NOT NULL THEN
        PERFORM pgsync.resume_lock_lines(ARRAY[ended.lock_name]);
    END IF;
    RETURN true;
END
$$;

COMMENT ON FUNCTION pgsync.end_waiting_job(bigint, text, text) IS
    'Internal: moves a job that is not running to the history. One that is discarded is told of by on_discard.';

CREATE OR REPLACE FUNCTION pgsync.cancel_job(id bigint, reason text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    worker bigint;
BEGIN
    LOOP
        IF pgsync.end_waiting_job(id, 'cancelled', reason) THEN
            RETURN 'cancelled';
        END IF;
        UPDATE pgsync.job_running AS r SET cancel_requested_at = pgsync.clock()
        WHERE r.id = cancel_job.id
        RETURNING r.worker INTO worker;
        IF FOUND THEN
            -- To be heard at once; its heartbeat would say so within seconds.
            PERFORM pg_notify('pgsync_jobs', 'cancel ' || worker);
            RETURN 'running';
        END IF;
        -- A job that moves between tables just now may be missed in both: look again.
        PERFORM FROM pgsync.jobs AS j WHERE j.id = cancel_job.id;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
    END LOOP;
END
$$;

COMMENT ON FUNCTION pgsync.cancel_job(bigint, text) IS
    'Cancels a waiting job (cancelled), or asks that a running one be cancelled (running); null where it has ended.';

CREATE OR REPLACE FUNCTION pgsync.discard_job(id bigint, reason text DEFAULT NULL) RETURNS text
LANGUAGE sql VOLATILE AS $$
    SELECT CASE WHEN pgsync.end_waiting_job(id, 'discarded', reason) THEN 'discarded' END;
$$;

COMMENT ON FUNCTION pgsync.discard_job(bigint, text) IS
    'Gives up on a job that waits; null where it runs or has ended. A worker that knows its task calls on_discard, as for a job that failed; cancel_job ends it without that.';

CREATE OR REPLACE FUNCTION pgsync.retry_job(id bigint) RETURNS text
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    job pgsync.job_finished;
    holder bigint;
BEGIN
    WITH taken AS (
        DELETE FROM pgsync.job_scheduled AS s WHERE s.id = retry_job.id RETURNING s.*
    )
    INSERT INTO pgsync.job_ready (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at,
        unique_key, errors, key, key_limit, ordered, key_slot, batch, after, after_failed, lock_name, tenant)
    SELECT t.id, t.queue, t.task, t.args, t.priority, t.attempt, t.max_attempts, t.created_at, pgsync.clock(),
           t.unique_key, t.errors, t.key, t.key_limit, t.ordered, t.key_slot, t.batch, t.after, t.after_failed, t.lock_name, t.tenant
    FROM taken AS t
    RETURNING queue INTO job.queue;
    IF FOUND THEN
        PERFORM pgsync.notify_workers(job.queue);
        RETURN 'available';
    END IF;
    DELETE FROM pgsync.job_finished AS f
    WHERE f.id = retry_job.id AND f.state IN ('discarded', 'cancelled')
    RETURNING f.* INTO job;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF job.unique_key IS NOT NULL THEN
        holder := pgsync.take_unique_key(job.unique_key, job.id, NULL, NULL);
        IF holder <> job.id THEN
            RAISE unique_violation USING
                MESSAGE = format('job %s cannot be retried: another unfinished job, %s, has its unique key', job.id, holder);
        END IF;
    END IF;
    -- One more attempt than it has spent, at least, and never fewer than it was given.
    INSERT INTO pgsync.job_ready (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at,
        unique_key, errors, key, key_limit, ordered, batch, after, after_failed, lock_name, tenant)
    VALUES (job.id, job.queue, job.task, job.args, job.priority, job.attempt,
            greatest(job.max_attempts, job.attempt + 1), job.created_at, pgsync.clock(), job.unique_key,
            job.errors, job.key, job.key_limit, job.ordered, job.batch, pgsync.still_after(job.after),
            job.after_failed, job.lock_name, job.tenant);
    IF job.batch IS NOT NULL THEN
        PERFORM pgsync.batch_retried(job.batch, job.state);
    END IF;
    PERFORM pgsync.notify_workers(job.queue);
    RETURN 'available';
END
$$;

COMMENT ON FUNCTION pgsync.retry_job(bigint) IS
    'Makes a job that waits for its time, was discarded or was cancelled available now, with its errors kept; null where there is no such job.';

CREATE OR REPLACE FUNCTION pgsync.forget_job(id bigint) RETURNS text
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
BEGIN
    DELETE FROM pgsync.job_finished AS f WHERE f.id = forget_job.id;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    DELETE FROM pgsync.job_note AS n WHERE n.job = forget_job.id;
    DELETE FROM pgsync.job_untold_discard AS u WHERE u.job = forget_job.id;
    RETURN 'forgotten';
END
$$;

COMMENT ON FUNCTION pgsync.forget_job(bigint) IS
    'Removes a job that has ended from the history, with its arguments and errors, before its time; null where there is none.';

CREATE OR REPLACE FUNCTION pgsync.pause_queue(queue text, by text DEFAULT NULL) RETURNS timestamptz
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    since timestamptz;
BEGIN
    PERFORM pgsync.check_name(queue, 'queue');
    INSERT INTO pgsync.queue AS q (name, paused_at, paused_by)
    VALUES (pause_queue.queue, moment, coalesce(pause_queue.by, session_user))
    ON CONFLICT (name) DO UPDATE
    SET paused_at = coalesce(q.paused_at, excluded.paused_at),
        paused_by = coalesce(q.paused_by, excluded.paused_by)
    RETURNING q.paused_at INTO since;
    IF since = moment THEN
        PERFORM pgsync.record_audit('queue.paused', queue, by);
    END IF;
    RETURN since;
END
$$;

COMMENT ON FUNCTION pgsync.pause_queue(text, text) IS
    'Stops claims from a queue and returns since when it is paused. Jobs that run go on. Audited.';

DROP FUNCTION IF EXISTS pgsync.resume_queue(text);

CREATE OR REPLACE FUNCTION pgsync.resume_queue(queue text, by text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE pgsync.queue AS q SET paused_at = NULL, paused_by = NULL
    WHERE q.name = resume_queue.queue AND q.paused_at IS NOT NULL;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM pgsync.record_audit('queue.resumed', queue, by);
    PERFORM pgsync.notify_workers(queue);
    RETURN true;
END
$$;

COMMENT ON FUNCTION pgsync.resume_queue(text, text) IS 'Ends a pause; false where the queue was not paused. Audited.';

CREATE OR REPLACE FUNCTION pgsync.limits_of_queue(queue pgsync.queue) RETURNS jsonb
LANGUAGE sql STABLE
RETURN jsonb_strip_nulls(jsonb_build_object(
    'max_running', queue.max_running, 'max_running_per_key', queue.max_running_per_key,
    'max_starts', queue.max_starts, 'starts_per', queue.starts_per,
    'max_starts_per_key', queue.max_starts_per_key, 'starts_per_key', queue.starts_per_key));

COMMENT ON FUNCTION pgsync.limits_of_queue(pgsync.queue) IS 'Internal: the limits of a queue, for the audit trail.';

CREATE OR REPLACE FUNCTION pgsync.limit_queue(
    queue text,
    max_running integer DEFAULT NULL,
    max_running_per_key integer DEFAULT NULL,
    max_starts integer DEFAULT NULL,
    starts_per interval DEFAULT NULL,
    max_starts_per_key integer DEFAULT NULL,
    starts_per_key interval DEFAULT NULL,
    by text DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    former jsonb;
    present jsonb;
BEGIN
    PERFORM pgsync.check_name(queue, 'queue');
    IF least(max_running, max_running_per_key, max_starts, max_starts_per_key) < 1 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a limit must be 1 or more; to stop a queue, pause it';
    ELSIF (max_starts IS NULL) <> (starts_per IS NULL) OR (max_starts_per_key IS NULL) <> (starts_per_key IS NULL) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a limit of starts needs its time, and a time its limit';
    END IF;
    PERFORM pgsync.check_duration(d, 'starts_per') FROM unnest(ARRAY[starts_per, starts_per_key]) AS d WHERE d IS NOT NULL;
    SELECT pgsync.limits_of_queue(q) INTO former FROM pgsync.queue AS q WHERE q.name = limit_queue.queue FOR UPDATE;
    INSERT INTO pgsync.queue AS q (name, max_running, max_running_per_key, max_starts, starts_per,
                                   max_starts_per_key, starts_per_key)
    VALUES (limit_queue.queue, limit_queue.max_running, limit_queue.max_running_per_key, limit_queue.max_starts,
            limit_queue.starts_per, limit_queue.max_starts_per_key, limit_queue.starts_per_key)
    ON CONFLICT (name) DO UPDATE
    SET max_running = excluded.max_running, max_running_per_key = excluded.max_running_per_key,
        max_starts = excluded.max_starts, starts_per = excluded.starts_per,
        max_starts_per_key = excluded.max_starts_per_key, starts_per_key = excluded.starts_per_key
    RETURNING pgsync.limits_of_queue(q) INTO present;
    -- An app that states its limits at each start leaves no entry for each.
    IF coalesce(former, '{}') <> present THEN
        PERFORM pgsync.record_audit('queue.limited', queue, by, jsonb_build_object('before', former, 'now', present));
    END IF;
    -- What runs already counts. Its rows first, then the count, as completions lock them.
    UPDATE pgsync.job_running AS r SET queue_slot = true
    WHERE r.queue = limit_queue.queue AND NOT r.queue_slot AND coalesce(limit_queue.max_running, limit_queue.max_starts) IS NOT NULL;
    PERFORM pgsync.lock_queue_slots(ARRAY[limit_queue.queue]);
    UPDATE pgsync.queue_slots AS s
    SET taken = (SELECT count(*) FROM pgsync.job_running AS r WHERE r.queue = limit_queue.queue AND r.queue_slot)
    WHERE s.queue = limit_queue.queue;
    PERFORM pgsync.notify_workers(queue);
END
$$;

COMMENT ON FUNCTION pgsync.limit_queue(text, integer, integer, integer, interval, integer, interval, text) IS
    'Sets the limits of a queue over all workers: how many of its jobs run at once, in all and of one key, and how many start in a time. Null removes a limit. What runs goes on. A change is audited.';

CREATE OR REPLACE FUNCTION pgsync.replace_args(ids bigint[], now jsonb[], later jsonb[]) RETURNS integer
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    replaced integer := 0;
    count integer;
BEGIN
    UPDATE pgsync.job_ready AS j SET args = g.later FROM unnest(ids, now, replace_args.later) AS g (id, now, later)
    WHERE j.id = g.id AND j.args = g.now;
    GET DIAGNOSTICS count = ROW_COUNT;
    replaced := replaced + count;
    UPDATE pgsync.job_scheduled AS j SET args = g.later FROM unnest(ids, now, replace_args.later) AS g (id, now, later)
    WHERE j.id = g.id AND j.args = g.now;
    GET DIAGNOSTICS count = ROW_COUNT;
    replaced := replaced + count;
    UPDATE pgsync.job_waiting AS j SET args = g.later FROM unnest(ids, now, replace_args.later) AS g (id, now, later)
    WHERE j.id = g.id AND j.args = g.now;
    GET DIAGNOSTICS count = ROW_COUNT;
    RETURN replaced + count;
END
$$;

COMMENT ON FUNCTION pgsync.replace_args(bigint[], jsonb[], jsonb[]) IS
    'Gives jobs that wait other arguments, where they still have those named, and says how many.';
