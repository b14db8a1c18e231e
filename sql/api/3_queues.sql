-- Job queues: putting jobs in, and what operators do to them. The workers' side is 4_workers.sql.

CREATE OR REPLACE FUNCTION pgsync.check_job(
    task text, args jsonb, queue text, priority integer, max_attempts integer, unique_key text
) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    PERFORM pgsync.check_name(task, 'task');
    PERFORM pgsync.check_name(queue, 'queue');
    IF unique_key IS NOT NULL THEN
        PERFORM pgsync.check_name(unique_key, 'unique_key');
    END IF;
    IF jsonb_typeof(args) IS DISTINCT FROM 'object' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'args must be a JSON object';
    ELSIF octet_length(args::text) > 1048576 THEN
        RAISE invalid_parameter_value USING MESSAGE = format(
            'args must have at most 1 MB (1048576 bytes) as JSON text, these have %s',
            octet_length(args::text)),
            HINT = 'Store the data in a table and pass its key.';
    ELSIF priority IS NULL OR priority NOT BETWEEN -32768 AND 32767 THEN
        RAISE invalid_parameter_value USING MESSAGE = format(
            'priority must be from -32768 to 32767, not %s', coalesce(priority::text, 'null'));
    ELSIF max_attempts IS NULL OR max_attempts NOT BETWEEN 1 AND 32767 THEN
        RAISE invalid_parameter_value USING MESSAGE = format(
            'max_attempts must be from 1 to 32767, not %s', coalesce(max_attempts::text, 'null'));
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.check_job(text, jsonb, text, integer, integer, text) IS
    'Raises invalid_parameter_value for a job that can never work.';

CREATE OR REPLACE FUNCTION pgsync.notify_workers(queue text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    -- NOTIFY takes a database-wide lock at commit, so it is sent only where a worker sleeps. One
    -- that falls asleep in this very moment finds the job at its next poll.
    PERFORM FROM pgsync.worker AS w
    WHERE w.idle AND (notify_workers.queue = ANY (w.queues) OR '*' = ANY (w.queues)) LIMIT 1;
    IF FOUND THEN
        PERFORM pg_notify('pgsync_jobs', notify_workers.queue);
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.notify_workers(text) IS
    'Internal: wakes sleeping workers of a queue, if there are any.';

CREATE OR REPLACE FUNCTION pgsync.add_jobs(
    task text,
    args jsonb[],
    queue text DEFAULT 'default',
    priority integer DEFAULT 0,
    run_at timestamptz DEFAULT NULL,
    max_attempts integer DEFAULT 5,
    delay interval DEFAULT NULL
) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    ids bigint[];
BEGIN
    PERFORM pgsync.check_job(task, a, queue, priority, max_attempts, NULL) FROM unnest(args) AS a;
    run_at := coalesce(run_at, moment + delay);
    IF run_at > moment THEN
        WITH added AS (
            INSERT INTO pgsync.job_scheduled AS j
                (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at, state)
            SELECT nextval('pgsync.job_id'), add_jobs.queue, add_jobs.task, a.args,
                   add_jobs.priority, 0, add_jobs.max_attempts, moment, add_jobs.run_at, 'scheduled'
            FROM unnest(add_jobs.args) WITH ORDINALITY AS a (args, number) ORDER BY a.number
            RETURNING j.id
        )
        SELECT array_agg(a.id ORDER BY a.id) INTO ids FROM added AS a;
    ELSE
        WITH added AS (
            INSERT INTO pgsync.job_ready AS j
                (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at)
            SELECT nextval('pgsync.job_id'), add_jobs.queue, add_jobs.task, a.args,
                   add_jobs.priority, 0, add_jobs.max_attempts, moment, coalesce(add_jobs.run_at, moment)
            FROM unnest(add_jobs.args) WITH ORDINALITY AS a (args, number) ORDER BY a.number
            RETURNING j.id
        )
        SELECT array_agg(a.id ORDER BY a.id) INTO ids FROM added AS a;
        PERFORM pgsync.notify_workers(queue);
    END IF;
    RETURN coalesce(ids, '{}');
END
$$;

COMMENT ON FUNCTION pgsync.add_jobs(text, jsonb[], text, integer, timestamptz, integer, interval) IS
    'Enqueues one job an element of args, and returns their ids in the same order.';

CREATE OR REPLACE FUNCTION pgsync.add_job(
    task text,
    args jsonb DEFAULT '{}',
    queue text DEFAULT 'default',
    priority integer DEFAULT 0,
    run_at timestamptz DEFAULT NULL,
    unique_key text DEFAULT NULL,
    max_attempts integer DEFAULT 5,
    delay interval DEFAULT NULL,
    OUT id bigint,
    OUT added boolean
)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
BEGIN
    PERFORM pgsync.check_job(task, args, queue, priority, max_attempts, unique_key);
    run_at := coalesce(run_at, moment + delay);
    id := nextval('pgsync.job_id');
    IF unique_key IS NOT NULL THEN
        LOOP
            INSERT INTO pgsync.job_unique AS u (key, job_id) VALUES (unique_key, add_job.id)
            ON CONFLICT (key) DO NOTHING;
            added := FOUND;
            EXIT WHEN added;
            -- Only looked at, not locked: a long transaction of the caller's must not hold up the
            -- completion of the other job. Where that has just ended, ours is tried again.
            SELECT u.job_id INTO id FROM pgsync.job_unique AS u WHERE u.key = unique_key;
            IF FOUND THEN
                RETURN;
            END IF;
            id := nextval('pgsync.job_id');
        END LOOP;
    END IF;
    added := true;
    IF run_at > moment THEN
        INSERT INTO pgsync.job_scheduled (id, queue, task, args, priority, attempt, max_attempts,
                                          created_at, run_at, unique_key, state)
        VALUES (add_job.id, queue, task, args, priority, 0, max_attempts,
                moment, run_at, unique_key, 'scheduled');
    ELSE
        INSERT INTO pgsync.job_ready (id, queue, task, args, priority, attempt, max_attempts,
                                      created_at, run_at, unique_key)
        VALUES (add_job.id, queue, task, args, priority, 0, max_attempts,
                moment, coalesce(run_at, moment), unique_key);
        PERFORM pgsync.notify_workers(queue);
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.add_job(text, jsonb, text, integer, timestamptz, text, integer, interval) IS
    'Enqueues a job in the caller''s transaction. One row: its id, and added; where an unfinished job has the unique key, that one''s id and false.';

CREATE OR REPLACE FUNCTION pgsync.enqueue(
    task text,
    args jsonb DEFAULT '{}',
    queue text DEFAULT 'default',
    priority integer DEFAULT 0,
    run_at timestamptz DEFAULT NULL,
    unique_key text DEFAULT NULL,
    max_attempts integer DEFAULT 5,
    delay interval DEFAULT NULL
) RETURNS bigint
LANGUAGE sql VOLATILE AS $$
    SELECT j.id FROM pgsync.add_job(task, args, queue, priority, run_at, unique_key, max_attempts, delay) AS j;
$$;

COMMENT ON FUNCTION pgsync.enqueue(text, jsonb, text, integer, timestamptz, text, integer, interval) IS
    'Enqueues a job for run_at, or delay from now, or at once, in the caller''s transaction and returns its id, or that of the unfinished job with the same unique key.';

CREATE OR REPLACE FUNCTION pgsync.promote_due_jobs(batch integer DEFAULT 1000) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    promoted integer;
    promoted_queues text[];
BEGIN
    WITH due AS (
        DELETE FROM pgsync.job_scheduled WHERE id = ANY (ARRAY(
            SELECT s.id FROM pgsync.job_scheduled AS s
            WHERE s.run_at <= pgsync.clock()
            ORDER BY s.run_at, s.priority, s.id LIMIT batch FOR UPDATE SKIP LOCKED))
        RETURNING *
    ), ready AS (
        INSERT INTO pgsync.job_ready (id, queue, task, args, priority, attempt, max_attempts,
                                      created_at, run_at, unique_key, errors)
        SELECT d.id, d.queue, d.task, d.args, d.priority, d.attempt, d.max_attempts,
               d.created_at, d.run_at, d.unique_key, d.errors
        FROM due AS d ORDER BY d.run_at, d.id
    )
    SELECT count(*), array_agg(DISTINCT d.queue) INTO promoted, promoted_queues FROM due AS d;
    PERFORM pgsync.notify_workers(q) FROM unnest(promoted_queues) AS q;
    RETURN promoted;
END
$$;

COMMENT ON FUNCTION pgsync.promote_due_jobs(integer) IS
    'Moves up to batch due jobs to where they can be claimed, in order of their time, and says how many. Every claim does so too.';

-- What operators do. Each answers with the state the job is in afterwards, null where there is no
-- such job, or it is past that.

CREATE OR REPLACE FUNCTION pgsync.end_waiting_job(id bigint, state text, reason text) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    WITH taken AS (
        DELETE FROM pgsync.job_ready AS r WHERE r.id = end_waiting_job.id
        RETURNING r.id, r.queue, r.task, r.args, r.priority, r.attempt, r.max_attempts,
                  r.created_at, r.run_at, r.unique_key, r.errors
    ), taken_scheduled AS (
        DELETE FROM pgsync.job_scheduled AS s WHERE s.id = end_waiting_job.id
        RETURNING s.id, s.queue, s.task, s.args, s.priority, s.attempt, s.max_attempts,
                  s.created_at, s.run_at, s.unique_key, s.errors
    ), ended AS (
        SELECT * FROM taken UNION ALL SELECT * FROM taken_scheduled
    ), freed AS (
        DELETE FROM pgsync.job_unique AS u USING ended AS e WHERE u.key = e.unique_key
    )
    INSERT INTO pgsync.job_finished (id, queue, task, args, priority, attempt, max_attempts,
                                     created_at, run_at, unique_key, errors, state, finished_at, result)
    SELECT e.*, end_waiting_job.state, pgsync.clock(),
           jsonb_strip_nulls(jsonb_build_object('reason', end_waiting_job.reason))
    FROM ended AS e;
    RETURN FOUND;
END
$$;

COMMENT ON FUNCTION pgsync.end_waiting_job(bigint, text, text) IS
    'Internal: moves a job that is not running to the history.';

CREATE OR REPLACE FUNCTION pgsync.cancel_job(id bigint, reason text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    LOOP
        IF pgsync.end_waiting_job(id, 'cancelled', reason) THEN
            RETURN 'cancelled';
        END IF;
        UPDATE pgsync.job_running AS r SET cancel_requested_at = pgsync.clock()
        WHERE r.id = cancel_job.id;
        IF FOUND THEN
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
    'Gives up on a job that waits; null where it runs or has ended.';

CREATE OR REPLACE FUNCTION pgsync.retry_job(id bigint) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    job pgsync.job_finished;
BEGIN
    WITH taken AS (
        DELETE FROM pgsync.job_scheduled AS s WHERE s.id = retry_job.id RETURNING s.*
    )
    INSERT INTO pgsync.job_ready (id, queue, task, args, priority, attempt, max_attempts,
                                  created_at, run_at, unique_key, errors)
    SELECT t.id, t.queue, t.task, t.args, t.priority, t.attempt, t.max_attempts,
           t.created_at, pgsync.clock(), t.unique_key, t.errors
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
        INSERT INTO pgsync.job_unique (key, job_id) VALUES (job.unique_key, job.id);
    END IF;
    -- One more attempt than it has spent, at least, and never fewer than it was given.
    INSERT INTO pgsync.job_ready (id, queue, task, args, priority, attempt, max_attempts,
                                  created_at, run_at, unique_key, errors)
    VALUES (job.id, job.queue, job.task, job.args, job.priority, job.attempt,
            greatest(job.max_attempts, job.attempt + 1), job.created_at, pgsync.clock(),
            job.unique_key, job.errors);
    PERFORM pgsync.notify_workers(job.queue);
    RETURN 'available';
EXCEPTION WHEN unique_violation THEN
    RAISE unique_violation USING MESSAGE = format(
        'job %s cannot be retried: another unfinished job has its unique key', retry_job.id);
END
$$;

COMMENT ON FUNCTION pgsync.retry_job(bigint) IS
    'Makes a job that waits for its time, was discarded or was cancelled available now, with its errors kept; null where there is no such job.';

CREATE OR REPLACE FUNCTION pgsync.pause_queue(queue text, by text DEFAULT NULL) RETURNS timestamptz
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    since timestamptz;
BEGIN
    PERFORM pgsync.check_name(queue, 'queue');
    INSERT INTO pgsync.queue AS q (name, paused_at, paused_by)
    VALUES (pause_queue.queue, pgsync.clock(), coalesce(pause_queue.by, session_user))
    ON CONFLICT (name) DO UPDATE
    SET paused_at = coalesce(q.paused_at, excluded.paused_at),
        paused_by = coalesce(q.paused_by, excluded.paused_by)
    RETURNING q.paused_at INTO since;
    RETURN since;
END
$$;

COMMENT ON FUNCTION pgsync.pause_queue(text, text) IS
    'Stops claims from a queue and returns since when it is paused. Jobs that run go on.';

CREATE OR REPLACE FUNCTION pgsync.resume_queue(queue text) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE pgsync.queue AS q SET paused_at = NULL, paused_by = NULL
    WHERE q.name = resume_queue.queue AND q.paused_at IS NOT NULL;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM pgsync.notify_workers(queue);
    RETURN true;
END
$$;

COMMENT ON FUNCTION pgsync.resume_queue(text) IS 'Ends a pause; false where the queue was not paused.';
