-- The workers' side of the queues: registering, claiming, ending jobs, rescue and history.

DROP FUNCTION IF EXISTS pgsync.give_back_jobs(bigint, text);
DROP FUNCTION IF EXISTS pgsync.release_job(bigint, bigint, integer, interval, text);

CREATE OR REPLACE FUNCTION pgsync.worker_key(worker bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT
RETURN pgsync.lock_key('pgsync.worker:' || worker);

COMMENT ON FUNCTION pgsync.worker_key(bigint) IS 'The advisory lock that a living worker holds.';

CREATE OR REPLACE FUNCTION pgsync.register_worker(
    name text, host text, pid integer, version text, queues text[], concurrency integer,
    kinds text[] DEFAULT '{worker}'
) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    worker bigint;
BEGIN
    PERFORM pgsync.check_name(register_worker.name, 'worker name');
    PERFORM pgsync.check_name(register_worker.host, 'host');
    PERFORM pgsync.check_name(register_worker.version, 'version');
    PERFORM pgsync.check_given(register_worker.pid, 'pid');
    PERFORM pgsync.check_given(register_worker.queues, 'queues');
    PERFORM pgsync.check_given(register_worker.concurrency, 'concurrency');
    PERFORM pgsync.check_given(register_worker.kinds, 'kinds');
    IF 'worker' = ANY (kinds) AND (coalesce(cardinality(queues), 0) = 0 OR concurrency IS NULL OR concurrency < 1) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a worker needs at least one queue and a concurrency of 1 or more';
    END IF;
    INSERT INTO pgsync.worker AS w (name, host, pid, version, queues, concurrency, kinds, started_at, seen_at)
    VALUES (register_worker.name, register_worker.host, register_worker.pid, register_worker.version,
            register_worker.queues, register_worker.concurrency, register_worker.kinds, pgsync.clock(), pgsync.clock())
    RETURNING w.id INTO worker;
    PERFORM pg_advisory_lock(pgsync.worker_key(worker));
    RETURN worker;
END
$$;

COMMENT ON FUNCTION pgsync.register_worker(text, text, integer, text, text[], integer, text[]) IS
    'Makes this session a worker (or a scheduler, or for the maintenance: kinds) and returns its number. When the session ends, however, its jobs are rescued.';

CREATE OR REPLACE FUNCTION pgsync.change_worker(worker bigint, queues text[], concurrency integer) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF coalesce(cardinality(queues), 0) = 0 OR concurrency IS NULL OR concurrency < 1 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a worker needs at least one queue and a concurrency of 1 or more';
    END IF;
    UPDATE pgsync.worker AS w SET queues = change_worker.queues, concurrency = change_worker.concurrency
    WHERE w.id = change_worker.worker AND NOT w.given_up;
    RETURN FOUND;
END
$$;

COMMENT ON FUNCTION pgsync.change_worker(bigint, text[], integer) IS
    'Notes that a worker claims from other queues from now on, or runs more or fewer jobs at once; false where it was given up.';

CREATE OR REPLACE FUNCTION pgsync.worker_stops(worker bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE pgsync.worker AS w SET stopping_at = coalesce(w.stopping_at, pgsync.clock()), idle = false
    WHERE w.id = worker_stops.worker;
    RETURN FOUND;
END
$$;

COMMENT ON FUNCTION pgsync.worker_stops(bigint) IS
    'Notes that a worker claims no more and ends when its jobs have; false where it is unknown.';

CREATE OR REPLACE FUNCTION pgsync.worker_hears(worker bigint, hears boolean) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE pgsync.worker AS w
    SET deaf_since = CASE WHEN hears THEN NULL ELSE coalesce(w.deaf_since, pgsync.clock()) END
    WHERE w.id = worker_hears.worker;
    RETURN FOUND;
END
$$;

COMMENT ON FUNCTION pgsync.worker_hears(bigint, boolean) IS
    'Notes whether notifications of new jobs reach a worker; one that does not say is taken to hear. False where there is no such worker.';

CREATE OR REPLACE FUNCTION pgsync.worker_heartbeat(
    worker bigint, idle boolean, OUT known boolean, OUT cancelled bigint[]
)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE pgsync.worker AS w SET seen_at = pgsync.clock(), idle = coalesce(worker_heartbeat.idle, false)
    WHERE w.id = worker_heartbeat.worker AND NOT w.given_up;
    known := FOUND;
    cancelled := ARRAY(
        SELECT r.id FROM pgsync.job_running AS r
        WHERE r.worker = worker_heartbeat.worker AND r.cancel_requested_at IS NOT NULL);
END
$$;

COMMENT ON FUNCTION pgsync.worker_heartbeat(bigint, boolean) IS
    'Says that a worker lives and whether it sleeps until notified. One row: known (false: it was given up for dead), and which of its jobs are to be cancelled.';

CREATE OR REPLACE FUNCTION pgsync.report_progress(
    worker bigint, ids bigint[], attempts integer[], progress jsonb[]
) RETURNS integer
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    reported integer;
BEGIN
    UPDATE pgsync.job_running AS r SET progress = g.progress || jsonb_build_object('at', moment)
    FROM unnest(report_progress.ids, report_progress.attempts, report_progress.progress) AS g (id, attempt, progress)
    WHERE r.id = g.id AND r.attempt = g.attempt AND r.worker = report_progress.worker;
    GET DIAGNOSTICS reported = ROW_COUNT;
    RETURN reported;
END
$$;

COMMENT ON FUNCTION pgsync.report_progress(bigint, bigint[], integer[], jsonb[]) IS
    'Keeps what handlers tell of their progress (done, total, note) with the running jobs, and says of how many; late attempts are passed over.';

CREATE OR REPLACE FUNCTION pgsync.give_back_jobs(workers bigint[], reasons text[], ids bigint[]) RETURNS integer
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    given_back integer;
    ready_queues text[];
    queues text[];
    keys text[];
    ended bigint[];
    locks bigint[];
BEGIN
    -- With a reason the attempt is spent, and the job goes behind the others; without one it is as
    -- if it had not begun, and goes to the front.
    WITH taken AS (
        DELETE FROM pgsync.job_running AS r USING unnest(workers, reasons) AS w (worker, reason)
        -- Not those that somebody is ending just now, perhaps in a long transaction of its own.
        WHERE r.worker = w.worker AND r.ctid = ANY (ARRAY(
            SELECT o.ctid FROM pgsync.job_running AS o
            WHERE o.worker = ANY (workers) AND (give_back_jobs.ids IS NULL OR o.id = ANY (give_back_jobs.ids))
            FOR UPDATE SKIP LOCKED))
        RETURNING r.*, w.reason
    ), told AS (
        SELECT t.*,
               CASE WHEN t.cancel_requested_at IS NOT NULL THEN 'cancelled'
                    WHEN t.reason IS NOT NULL AND t.attempt >= t.max_attempts THEN 'discarded'
               END AS ending,
               CASE WHEN t.reason IS NULL THEN t.errors ELSE
                   coalesce(t.errors, '[]') || jsonb_build_object(
                       'attempt', t.attempt, 'started_at', t.started_at, 'at', moment, 'worker', t.worker,
                       'error', t.reason) END AS all_errors
        FROM taken AS t
    ), finished AS (
        INSERT INTO pgsync.job_finished (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at,
            unique_key, errors, key, key_limit, ordered, batch, after, after_failed, lock_name, tenant, state, worker, started_at,
            finished_at)
        SELECT t.id, t.queue, t.task, t.args, t.priority, t.attempt, t.max_attempts, t.created_at, t.run_at,
               t.unique_key, t.all_errors, t.key, t.key_limit, t.ordered, t.batch, t.after, t.after_failed, t.lock_name, t.tenant,
               t.ending, t.worker, t.started_at, moment
        FROM told AS t WHERE t.ending IS NOT NULL
    ), untold AS (
        INSERT INTO pgsync.job_untold_discard AS u (job, task, discarded_at)
        SELECT t.id, t.task, moment FROM told AS t WHERE t.ending = 'discarded'
        ON CONFLICT (job) DO UPDATE SET discarded_at = excluded.discarded_at, taken_at = NULL
    ), returned AS (
        INSERT INTO pgsync.job_ready (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at,
            unique_key, errors, key, key_limit, ordered, key_slot, batch, after, after_failed, lock_name, tenant, position)
        SELECT t.id, t.queue, t.task, t.args, t.priority, t.attempt - (t.reason IS NULL)::integer, t.max_attempts,
               t.created_at, t.run_at, t.unique_key, t.all_errors, t.key, t.key_limit, t.ordered,
               t.ordered AND t.key_slot, t.batch, t.after, t.after_failed, t.lock_name, t.tenant,
               CASE WHEN t.reason IS NULL THEN nextval('pgsync.job_resumed_position')
                    ELSE nextval('pgsync.job_ready_position_seq') END
        FROM told AS t WHERE t.ending IS NULL ORDER BY t.priority, t.started_at, t.id
    )
    SELECT count(*), array_agg(DISTINCT t.queue) FILTER (WHERE t.ending IS NULL),
           array_agg(t.queue) FILTER (WHERE t.queue_slot),
           array_agg(t.key) FILTER (WHERE t.key_slot AND (t.ending IS NOT NULL OR NOT t.ordered)),
           array_agg(t.id) FILTER (WHERE t.ending IS NOT NULL),
           array_agg(t.lock_token) FILTER (WHERE t.lock_token IS NOT NULL)
    INTO given_back, ready_queues, queues, keys, ended, locks FROM told AS t;
    IF ended IS NOT NULL THEN
        PERFORM pgsync.free_unique_keys(array_agg(f.unique_key), array_agg(f.id), f.state)
        FROM pgsync.job_finished AS f
        WHERE f.id = ANY (ended) AND f.finished_at = moment AND f.unique_key IS NOT NULL GROUP BY f.state;
        PERFORM pgsync.jobs_ended(array_agg(f.id), f.state, array_agg(f.batch))
        FROM pgsync.job_finished AS f
        WHERE f.id = ANY (ended) AND f.finished_at = moment GROUP BY f.state;
    END IF;
    PERFORM pgsync.free_slots(queues, keys);
    IF locks IS NOT NULL THEN
        PERFORM pgsync.free_job_locks(locks);
    END IF;
    PERFORM pgsync.notify_workers(q) FROM unnest(ready_queues) AS q;
    RETURN given_back;
END
$$;

COMMENT ON FUNCTION pgsync.give_back_jobs(bigint[], text[], bigint[]) IS
    'Internal: give_back_jobs of several workers at once, with a reason (or null) each.';

CREATE OR REPLACE FUNCTION pgsync.give_back_jobs(
    worker bigint, error text, ids bigint[] DEFAULT NULL
) RETURNS integer
LANGUAGE sql VOLATILE AS $$
    SELECT pgsync.give_back_jobs(ARRAY[worker], ARRAY[error], ids);
$$;

COMMENT ON FUNCTION pgsync.give_back_jobs(bigint, text, bigint[]) IS
    'Takes running jobs (all, or those named) from a worker and makes them available again; an error spends their attempt, and discards those that have no other. Where a cancel was asked for they end as cancelled.';

CREATE OR REPLACE FUNCTION pgsync.forget_workers(workers bigint[]) RETURNS void
LANGUAGE sql VOLATILE AS $$
    UPDATE pgsync.worker AS w SET given_up = true, idle = false WHERE w.id = ANY (workers);
    DELETE FROM pgsync.worker AS w
    WHERE w.id = ANY (workers) AND NOT EXISTS (SELECT FROM pgsync.job_running AS r WHERE r.worker = w.id);
$$;

COMMENT ON FUNCTION pgsync.forget_workers(bigint[]) IS
    'Internal: removes workers that have ended; those that have jobs still are marked, and rescued later.';

CREATE OR REPLACE FUNCTION pgsync.unregister_worker(worker bigint) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    given_back integer := pgsync.give_back_jobs(worker, NULL);
BEGIN
    PERFORM pgsync.forget_workers(ARRAY[worker]);
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
    dead bigint[];
    reasons text[];
    rescued integer;
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
            -- Waits for a claim of its own that has begun, whose jobs are then seen.
            PERFORM FROM pgsync.worker AS w WHERE w.id = candidate.id FOR UPDATE;
            IF FOUND THEN
                dead := dead || candidate.id;
                reasons := reasons
                    || CASE WHEN candidate.is_silent THEN 'the worker fell silent' ELSE 'the worker died' END;
            END IF;
        END IF;
    END LOOP;
    IF dead IS NULL THEN
        RETURN 0;
    END IF;
    -- All at once: what they took is given back in one order.
    rescued := pgsync.give_back_jobs(dead, reasons, NULL);
    PERFORM pgsync.forget_workers(dead);
    IF rescued > 0 THEN
        INSERT INTO pgsync.tally AS t (name, total) VALUES ('jobs_rescued', rescued)
        ON CONFLICT (name) DO UPDATE SET total = t.total + excluded.total;
    END IF;
    RETURN rescued;
END
$$;

COMMENT ON FUNCTION pgsync.rescue_jobs(interval) IS
    'Makes the jobs of dead workers (their session is gone, or no heartbeat for silence) available again, or discards those out of attempts, and says how many.';
