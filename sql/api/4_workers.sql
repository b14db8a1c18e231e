-- The workers' side of the queues: registering, claiming, ending jobs, rescue and history.

CREATE OR REPLACE FUNCTION pgsync.worker_key(worker bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT
RETURN pgsync.lock_key('pgsync.worker:' || worker);

COMMENT ON FUNCTION pgsync.worker_key(bigint) IS 'The advisory lock that a living worker holds.';

CREATE OR REPLACE FUNCTION pgsync.register_worker(
    name text, host text, pid integer, version text, queues text[], concurrency integer
) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    worker bigint;
BEGIN
    IF coalesce(cardinality(queues), 0) = 0 OR concurrency IS NULL OR concurrency < 1 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a worker needs at least one queue and a concurrency of 1 or more';
    END IF;
    INSERT INTO pgsync.worker AS w (name, host, pid, version, queues, concurrency, started_at, seen_at)
    VALUES (register_worker.name, register_worker.host, register_worker.pid, register_worker.version,
            register_worker.queues, register_worker.concurrency, pgsync.clock(), pgsync.clock())
    RETURNING w.id INTO worker;
    PERFORM pg_advisory_lock(pgsync.worker_key(worker));
    RETURN worker;
END
$$;

COMMENT ON FUNCTION pgsync.register_worker(text, text, integer, text, text[], integer) IS
    'Makes this session a worker and returns its number. When the session ends, however, its jobs are rescued.';

CREATE OR REPLACE FUNCTION pgsync.worker_heartbeat(
    worker bigint, idle boolean, OUT known boolean, OUT cancelled bigint[]
)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE pgsync.worker AS w SET seen_at = pgsync.clock(), idle = worker_heartbeat.idle
    WHERE w.id = worker_heartbeat.worker;
    known := FOUND;
    cancelled := ARRAY(
        SELECT r.id FROM pgsync.job_running AS r
        WHERE r.worker = worker_heartbeat.worker AND r.cancel_requested_at IS NOT NULL);
END
$$;

COMMENT ON FUNCTION pgsync.worker_heartbeat(bigint, boolean) IS
    'Says that a worker lives and whether it sleeps until notified. One row: known (false: it was given up for dead), and which of its jobs are to be cancelled.';

CREATE OR REPLACE FUNCTION pgsync.give_back_jobs(
    worker bigint, error text, ids bigint[] DEFAULT NULL
) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    given_back integer;
    ready_queues text[];
BEGIN
    -- With an error the attempt is spent; without one it is as if it had not begun.
    WITH taken AS (
        DELETE FROM pgsync.job_running AS r
        WHERE r.worker = give_back_jobs.worker
          AND (give_back_jobs.ids IS NULL OR r.id = ANY (give_back_jobs.ids))
        RETURNING r.*
    ), told AS (
        SELECT t.*,
               CASE WHEN t.cancel_requested_at IS NOT NULL THEN 'cancelled'
                    WHEN give_back_jobs.error IS NOT NULL AND t.attempt >= t.max_attempts THEN 'discarded'
               END AS ending,
               CASE WHEN give_back_jobs.error IS NULL THEN t.errors ELSE
                   coalesce(t.errors, '[]') || jsonb_build_object(
                       'attempt', t.attempt, 'at', moment, 'worker', t.worker,
                       'error', give_back_jobs.error) END AS all_errors
        FROM taken AS t
    ), ended AS (
        INSERT INTO pgsync.job_finished (id, queue, task, args, priority, attempt, max_attempts,
            created_at, run_at, unique_key, errors, state, worker, started_at, finished_at)
        SELECT t.id, t.queue, t.task, t.args, t.priority, t.attempt, t.max_attempts,
               t.created_at, t.run_at, t.unique_key, t.all_errors, t.ending, t.worker, t.started_at, moment
        FROM told AS t WHERE t.ending IS NOT NULL
    ), freed AS (
        DELETE FROM pgsync.job_unique AS u USING told AS t
        WHERE t.ending IS NOT NULL AND t.unique_key IS NOT NULL AND u.key = t.unique_key
    ), returned AS (
        INSERT INTO pgsync.job_ready (id, queue, task, args, priority, attempt, max_attempts,
            created_at, run_at, unique_key, errors)
        SELECT t.id, t.queue, t.task, t.args, t.priority,
               t.attempt - CASE WHEN give_back_jobs.error IS NULL THEN 1 ELSE 0 END,
               t.max_attempts, t.created_at, t.run_at, t.unique_key, t.all_errors
        FROM told AS t WHERE t.ending IS NULL ORDER BY t.priority, t.started_at, t.id
    )
    SELECT count(*), array_agg(DISTINCT t.queue) FILTER (WHERE t.ending IS NULL)
    INTO given_back, ready_queues FROM told AS t;
    PERFORM pgsync.notify_workers(q) FROM unnest(ready_queues) AS q;
    RETURN given_back;
END
$$;

COMMENT ON FUNCTION pgsync.give_back_jobs(bigint, text, bigint[]) IS
    'Takes running jobs (all, or those named) from a worker and makes them available again; an error spends their attempt, and discards those that have no other. Where a cancel was asked for they end as cancelled.';

CREATE OR REPLACE FUNCTION pgsync.unregister_worker(worker bigint) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    given_back integer := pgsync.give_back_jobs(worker, NULL);
BEGIN
    DELETE FROM pgsync.worker AS w WHERE w.id = unregister_worker.worker;
    PERFORM pg_advisory_unlock(pgsync.worker_key(worker));
    RETURN given_back;
END
$$;

COMMENT ON FUNCTION pgsync.unregister_worker(bigint) IS
    'Ends a worker in order: jobs it still has go back unspent, and their number is returned.';

CREATE OR REPLACE FUNCTION pgsync.rescue_jobs(silence interval DEFAULT '60 seconds') RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    candidate record;
    rescued integer := 0;
BEGIN
    FOR candidate IN
        SELECT w.id, w.seen_at < pgsync.clock() - silence AS is_silent FROM pgsync.worker AS w
    LOOP
        -- Session locks stack, so this session's own worker would look dead to its own try.
        CONTINUE WHEN EXISTS (
            SELECT FROM pgsync.advisory_locks AS l
            WHERE l.pid = pg_backend_pid() AND l.key = pgsync.worker_key(candidate.id));
        -- In a loop, never in WHERE: the planner may call a try-lock for rows it then drops.
        IF pg_try_advisory_xact_lock(pgsync.worker_key(candidate.id)) OR candidate.is_silent THEN
            DELETE FROM pgsync.worker AS w WHERE w.id = candidate.id;
            IF FOUND THEN
                rescued := rescued + pgsync.give_back_jobs(candidate.id,
                    CASE WHEN candidate.is_silent THEN 'the worker fell silent' ELSE 'the worker died' END);
            END IF;
        END IF;
    END LOOP;
    RETURN rescued;
END
$$;

COMMENT ON FUNCTION pgsync.rescue_jobs(interval) IS
    'Makes the jobs of dead workers (their session is gone, or no heartbeat for silence) available again, or discards those out of attempts, and says how many.';

CREATE OR REPLACE FUNCTION pgsync.claimable_queues(queues text[]) RETURNS text[]
LANGUAGE sql STABLE AS $$
    WITH RECURSIVE present (name) AS (
        -- A loose index scan: one index probe a queue, however many jobs it has.
        (SELECT r.queue FROM pgsync.job_ready AS r WHERE '*' = ANY (queues) ORDER BY r.queue LIMIT 1)
        UNION ALL
        SELECT (SELECT r.queue FROM pgsync.job_ready AS r WHERE r.queue > p.name ORDER BY r.queue LIMIT 1)
        FROM present AS p WHERE p.name IS NOT NULL
    ), wanted (name, rank) AS (
        SELECT q.name, q.rank FROM unnest(queues) WITH ORDINALITY AS q (name, rank) WHERE q.name <> '*'
        UNION ALL
        SELECT p.name, 32768 FROM present AS p WHERE p.name IS NOT NULL AND NOT p.name = ANY (queues)
    )
    SELECT coalesce(array_agg(w.name ORDER BY w.rank, w.name), '{}')
    FROM wanted AS w
    WHERE NOT EXISTS (SELECT FROM pgsync.queue AS q WHERE q.name = w.name AND q.paused_at IS NOT NULL)
$$;

COMMENT ON FUNCTION pgsync.claimable_queues(text[]) IS
    'Internal: the queues to claim from, in order, without the paused; * stands for all others that have jobs.';

CREATE OR REPLACE FUNCTION pgsync.claim_jobs(worker bigint, queues text[], batch integer)
RETURNS TABLE (
    id bigint, queue text, task text, args jsonb, priority smallint, attempt smallint,
    max_attempts smallint, created_at timestamptz, run_at timestamptz
)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    moment timestamptz := pgsync.clock();
    current_queue text;
    remaining integer := batch;
    claimed integer;
BEGIN
    PERFORM FROM pgsync.job_scheduled AS s WHERE s.run_at <= moment LIMIT 1;
    IF FOUND THEN
        PERFORM pgsync.promote_due_jobs();
    END IF;
    -- A worker that was given up for dead must not claim: nobody would rescue its jobs.
    PERFORM FROM pgsync.worker AS w WHERE w.id = claim_jobs.worker FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'PS003',
            MESSAGE = format('worker %s is not registered', claim_jobs.worker),
            HINT = 'It was given up for dead: register again.';
    END IF;
    FOREACH current_queue IN ARRAY pgsync.claimable_queues(queues) LOOP
        EXIT WHEN remaining <= 0;
        RETURN QUERY
        WITH taken AS (
            DELETE FROM pgsync.job_ready AS r WHERE r.ctid = ANY (ARRAY(
                SELECT c.ctid FROM pgsync.job_ready AS c
                WHERE c.queue = current_queue
                ORDER BY c.priority, c.position LIMIT remaining FOR UPDATE SKIP LOCKED))
            RETURNING r.*
        ), started AS (
            INSERT INTO pgsync.job_running (id, queue, task, args, priority, attempt, max_attempts,
                created_at, run_at, unique_key, errors, worker, started_at)
            SELECT t.id, t.queue, t.task, t.args, t.priority, t.attempt + 1, t.max_attempts,
                   t.created_at, t.run_at, t.unique_key, t.errors, claim_jobs.worker, moment
            FROM taken AS t
        )
        SELECT t.id, t.queue, t.task, t.args, t.priority, (t.attempt + 1)::smallint, t.max_attempts,
               t.created_at, t.run_at
        FROM taken AS t ORDER BY t.priority, t.position;
        GET DIAGNOSTICS claimed = ROW_COUNT;
        remaining := remaining - claimed;
    END LOOP;
END
$$;

COMMENT ON FUNCTION pgsync.claim_jobs(bigint, text[], integer) IS
    'Takes up to batch jobs for a worker: queues in the order given, within one by priority and arrival. Raises PS003 for a worker that was given up for dead.';

CREATE OR REPLACE FUNCTION pgsync.complete_jobs(
    worker bigint, ids bigint[], attempts integer[], results jsonb[]
) RETURNS bigint[]
LANGUAGE sql VOLATILE AS $$
    WITH given AS (
        SELECT g.id, g.attempt, g.result FROM unnest(ids, attempts, results) AS g (id, attempt, result)
    ), taken AS (
        DELETE FROM pgsync.job_running AS r USING given AS g
        WHERE r.id = g.id AND r.attempt = g.attempt AND r.worker = complete_jobs.worker
        RETURNING r.*, g.result
    ), finished AS (
        INSERT INTO pgsync.job_finished (id, queue, task, args, priority, attempt, max_attempts,
            created_at, run_at, unique_key, errors, state, worker, started_at, finished_at, result)
        SELECT t.id, t.queue, t.task, t.args, t.priority, t.attempt, t.max_attempts,
               t.created_at, t.run_at, t.unique_key, t.errors, 'completed', t.worker, t.started_at,
               pgsync.clock(), t.result
        FROM taken AS t
    ), freed AS (
        DELETE FROM pgsync.job_unique AS u USING taken AS t
        WHERE t.unique_key IS NOT NULL AND u.key = t.unique_key
    )
    SELECT coalesce(array_agg(t.id), '{}') FROM taken AS t
$$;

COMMENT ON FUNCTION pgsync.complete_jobs(bigint, bigint[], integer[], jsonb[]) IS
    'Records completions and returns the ids accepted: one that names another worker or attempt than the running one is late and changes nothing.';

CREATE OR REPLACE FUNCTION pgsync.fail_job(
    worker bigint, id bigint, attempt integer, error jsonb, retry_in interval DEFAULT NULL
) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    job pgsync.job_running;
    moment timestamptz := pgsync.clock();
    all_errors jsonb;
    ending text;
BEGIN
    DELETE FROM pgsync.job_running AS r
    WHERE r.id = fail_job.id AND r.attempt = fail_job.attempt AND r.worker = fail_job.worker
    RETURNING r.* INTO job;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    all_errors := coalesce(job.errors, '[]') || (
        jsonb_build_object('attempt', job.attempt, 'at', moment, 'worker', job.worker) || error);
    IF retry_in IS NOT NULL AND job.attempt < job.max_attempts AND job.cancel_requested_at IS NULL THEN
        INSERT INTO pgsync.job_scheduled (id, queue, task, args, priority, attempt, max_attempts,
            created_at, run_at, unique_key, errors, state)
        VALUES (job.id, job.queue, job.task, job.args, job.priority, job.attempt, job.max_attempts,
                job.created_at, moment + retry_in, job.unique_key, all_errors, 'retryable');
        RETURN 'retryable';
    END IF;
    ending := CASE WHEN job.cancel_requested_at IS NULL THEN 'discarded' ELSE 'cancelled' END;
    INSERT INTO pgsync.job_finished (id, queue, task, args, priority, attempt, max_attempts,
        created_at, run_at, unique_key, errors, state, worker, started_at, finished_at)
    VALUES (job.id, job.queue, job.task, job.args, job.priority, job.attempt, job.max_attempts,
            job.created_at, job.run_at, job.unique_key, all_errors, ending, job.worker,
            job.started_at, moment);
    DELETE FROM pgsync.job_unique AS u WHERE u.key = job.unique_key;
    RETURN ending;
END
$$;

COMMENT ON FUNCTION pgsync.fail_job(bigint, bigint, integer, jsonb, interval) IS
    'Records a failed attempt: retryable in retry_in, discarded where that is null or attempts are spent, or cancelled where that was asked for; null where the attempt is no longer the running one.';

CREATE OR REPLACE FUNCTION pgsync.release_job(
    worker bigint, id bigint, attempt integer, delay interval
) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    WITH taken AS (
        DELETE FROM pgsync.job_running AS r
        WHERE r.id = release_job.id AND r.attempt = release_job.attempt
          AND r.worker = release_job.worker AND r.cancel_requested_at IS NULL
        RETURNING r.*
    )
    INSERT INTO pgsync.job_scheduled (id, queue, task, args, priority, attempt, max_attempts,
        created_at, run_at, unique_key, errors, state)
    SELECT t.id, t.queue, t.task, t.args, t.priority, t.attempt - 1, t.max_attempts,
           t.created_at, pgsync.clock() + delay, t.unique_key, t.errors, 'scheduled'
    FROM taken AS t;
    IF FOUND THEN
        RETURN 'scheduled';
    END IF;
    RETURN pgsync.stop_job(worker, id, attempt, '{"reason": "cancelled while it ran"}');
END
$$;

COMMENT ON FUNCTION pgsync.release_job(bigint, bigint, integer, interval) IS
    'Puts a running job back for later without spending its attempt, or cancels it where that was asked for; null where the attempt is no longer the running one.';

CREATE OR REPLACE FUNCTION pgsync.stop_job(
    worker bigint, id bigint, attempt integer, reason jsonb
) RETURNS text
LANGUAGE sql VOLATILE AS $$
    WITH taken AS (
        DELETE FROM pgsync.job_running AS r
        WHERE r.id = stop_job.id AND r.attempt = stop_job.attempt AND r.worker = stop_job.worker
        RETURNING r.*
    ), finished AS (
        INSERT INTO pgsync.job_finished (id, queue, task, args, priority, attempt, max_attempts,
            created_at, run_at, unique_key, errors, state, worker, started_at, finished_at, result)
        SELECT t.id, t.queue, t.task, t.args, t.priority, t.attempt, t.max_attempts, t.created_at,
               t.run_at, t.unique_key, t.errors, 'cancelled', t.worker, t.started_at, pgsync.clock(), reason
        FROM taken AS t
    ), freed AS (
        DELETE FROM pgsync.job_unique AS u USING taken AS t WHERE u.key = t.unique_key
    )
    SELECT 'cancelled' FROM taken
$$;

COMMENT ON FUNCTION pgsync.stop_job(bigint, bigint, integer, jsonb) IS
    'Records that a running job was cancelled, by request or by itself, and why; null where the attempt is no longer the running one.';

CREATE OR REPLACE FUNCTION pgsync.prepare_history(days integer DEFAULT 7) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    day date;
    partition_name text;
    made integer := 0;
BEGIN
    FOR day IN SELECT (pgsync.clock() AT TIME ZONE 'UTC')::date + n FROM generate_series(0, days) AS n LOOP
        partition_name := 'job_finished_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass('pgsync.' || partition_name) IS NOT NULL;
        -- A partition cannot be made for rows that the default one has taken already.
        CONTINUE WHEN EXISTS (
            SELECT FROM pgsync.job_finished_default AS f
            WHERE f.finished_at >= day::timestamp AT TIME ZONE 'UTC'
              AND f.finished_at < (day + 1)::timestamp AT TIME ZONE 'UTC');
        EXECUTE format('CREATE TABLE pgsync.%I PARTITION OF pgsync.job_finished FOR VALUES FROM (%L) TO (%L)',
            partition_name, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
        EXECUTE format('COMMENT ON TABLE pgsync.%I IS %L', partition_name, 'History of ' || day || ' (UTC).');
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;

COMMENT ON FUNCTION pgsync.prepare_history(integer) IS
    'Makes the history''s partitions for today and the days ahead, and says how many were missing.';

CREATE OR REPLACE FUNCTION pgsync.prune_history(retention interval DEFAULT '7 days') RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    partition record;
    horizon timestamptz := pgsync.clock() - retention;
    dropped integer := 0;
BEGIN
    FOR partition IN
        SELECT c.relname, to_date(right(c.relname, 8), 'YYYYMMDD') AS day
        FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'pgsync.job_finished'::regclass AND c.relname ~ '^job_finished_\d{8}$'
    LOOP
        IF (partition.day + 1)::timestamp AT TIME ZONE 'UTC' <= horizon THEN
            EXECUTE format('DROP TABLE pgsync.%I', partition.relname);
            dropped := dropped + 1;
        END IF;
    END LOOP;
    DELETE FROM pgsync.job_finished_default AS f WHERE f.finished_at < horizon;
    RETURN dropped;
END
$$;

COMMENT ON FUNCTION pgsync.prune_history(interval) IS
    'Drops the history''s partitions that are older than retention, and says how many.';

CREATE OR REPLACE FUNCTION pgsync.lead_maintenance() RETURNS boolean
LANGUAGE sql VOLATILE AS $$
    SELECT pg_try_advisory_lock(pgsync.lock_key('pgsync.maintenance'))
$$;

COMMENT ON FUNCTION pgsync.lead_maintenance() IS
    'Makes this session the one that does the house-keeping, until it ends; false where another is. Ask once a session until it says true.';
