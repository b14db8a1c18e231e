-- Slots and permits: what limited queues and concurrency keys let through.
--
-- Who may start is decided in the claim, with the rows of queue_slots and job_key locked, in this
-- order and by name within each. A slot is given back in the transaction that takes the job away
-- from its attempt, so that nothing can give it back twice.

CREATE OR REPLACE FUNCTION pgsync.take_permits(
    key text, max integer, per interval, wanted integer,
    OUT granted integer, OUT remaining integer, OUT resets_at timestamptz
)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    moment timestamptz := pgsync.clock();
    used integer;
BEGIN
    granted := 0;
    remaining := 0;
    SELECT p.until INTO resets_at FROM pgsync.rate_limit_penalty AS p
    WHERE p.key = take_permits.key AND p.until > moment;
    IF FOUND THEN
        RETURN;
    END IF;
    LOOP
        INSERT INTO pgsync.rate_limit_counter AS c (key, per, hits, max_hits, window_started_at, resets_at)
        VALUES (take_permits.key, take_permits.per, 0, take_permits.max, moment, moment + take_permits.per)
        ON CONFLICT (key, per, algorithm) DO NOTHING;
        -- With permits promised to waiters the row tells of a window to come: those before it are full.
        SELECT CASE WHEN c.resets_at <= moment THEN 0
                    WHEN c.window_started_at > pgsync.clock() THEN take_permits.max ELSE c.hits END,
               CASE WHEN c.resets_at <= moment THEN moment + c.per ELSE c.resets_at END
        INTO used, resets_at
        FROM pgsync.rate_limit_counter AS c
        WHERE c.key = take_permits.key AND c.per = take_permits.per AND c.algorithm = 'fixed' FOR UPDATE;
        EXIT WHEN FOUND;
    END LOOP;
    granted := greatest(least(wanted, take_permits.max - used), 0);
    remaining := greatest(take_permits.max - used - granted, 0);
    IF granted > 0 THEN
        UPDATE pgsync.rate_limit_counter AS c
        SET hits = used + granted, max_hits = take_permits.max, resets_at = take_permits.resets_at,
            window_started_at = take_permits.resets_at - c.per
        WHERE c.key = take_permits.key AND c.per = take_permits.per AND c.algorithm = 'fixed';
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.take_permits(text, integer, interval, integer) IS
    'Internal: takes up to wanted permits of a window. One row: granted, remaining, and when the window ends.';

CREATE OR REPLACE FUNCTION pgsync.lock_queue_slots(queues text[]) RETURNS void
LANGUAGE sql VOLATILE AS $$
    -- Made or locked in one sweep: with two, those who make a row and those who lock it could wait
    -- for each other. WHERE false locks a row and leaves it as it is.
    INSERT INTO pgsync.queue_slots AS s (queue) SELECT DISTINCT q FROM unnest(queues) AS q ORDER BY q
    ON CONFLICT (queue) DO UPDATE SET queue = s.queue WHERE false;
$$;

COMMENT ON FUNCTION pgsync.lock_queue_slots(text[]) IS 'Internal: locks the rows of limited queues, in their order.';

CREATE OR REPLACE FUNCTION pgsync.take_queue_room(queue text, wanted integer) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    config pgsync.queue;
    room integer;
BEGIN
    SELECT q.* INTO config FROM pgsync.queue AS q WHERE q.name = take_queue_room.queue;
    SELECT least(wanted, config.max_running - s.taken) INTO room
    FROM pgsync.queue_slots AS s WHERE s.queue = take_queue_room.queue;
    IF room > 0 AND config.max_starts IS NOT NULL THEN
        SELECT p.granted INTO room
        FROM pgsync.take_permits('queue:' || queue, config.max_starts, config.starts_per, room) AS p;
    END IF;
    IF room > 0 THEN
        UPDATE pgsync.queue_slots AS s SET taken = s.taken + room WHERE s.queue = take_queue_room.queue;
    END IF;
    RETURN greatest(room, 0);
END
$$;

COMMENT ON FUNCTION pgsync.take_queue_room(text, integer) IS
    'Internal: takes slots and permits of a limited queue whose row is locked, as many as there are up to wanted.';

CREATE OR REPLACE FUNCTION pgsync.return_queue_room(queue text, unused integer) RETURNS void
LANGUAGE sql VOLATILE AS $$
    UPDATE pgsync.queue_slots AS s SET taken = s.taken - unused WHERE s.queue = return_queue_room.queue;
    UPDATE pgsync.rate_limit_counter AS c SET hits = greatest(c.hits - unused, 0)
    FROM pgsync.queue AS q
    WHERE q.name = return_queue_room.queue AND q.max_starts IS NOT NULL
      AND c.key = 'queue:' || q.name AND c.per = q.starts_per AND c.algorithm = 'fixed'
      AND c.window_started_at <= pgsync.clock();
$$;

COMMENT ON FUNCTION pgsync.return_queue_room(text, integer) IS
    'Internal: gives back what a claim took of a limited queue and has no job for.';

CREATE OR REPLACE FUNCTION pgsync.lock_keys(keys text[]) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO pgsync.job_key AS j (key, used_at)
    SELECT k, pgsync.clock() FROM unnest(keys) AS k GROUP BY k ORDER BY k
    ON CONFLICT (key) DO UPDATE SET key = j.key WHERE false;
$$;

COMMENT ON FUNCTION pgsync.lock_keys(text[]) IS 'Internal: locks the rows of concurrency keys, in their order.';

CREATE OR REPLACE FUNCTION pgsync.free_slots(queues text[], keys text[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    full_queues text[];
    awaited text[];
BEGIN
    IF queues IS NOT NULL THEN
        PERFORM pgsync.lock_queue_slots(queues);
        WITH freed AS (
            SELECT f.queue, count(*)::integer AS slots FROM unnest(queues) AS f (queue) GROUP BY f.queue
        ), updated AS (
            UPDATE pgsync.queue_slots AS s SET taken = s.taken - f.slots FROM freed AS f
            WHERE s.queue = f.queue RETURNING s.queue, s.taken + f.slots AS before
        )
        SELECT array_agg(u.queue) INTO full_queues
        FROM updated AS u JOIN pgsync.queue AS q ON q.name = u.queue
        WHERE u.before >= q.max_running;
        PERFORM pgsync.notify_workers(q) FROM unnest(full_queues) AS q;
    END IF;
    IF keys IS NOT NULL THEN
        PERFORM pgsync.lock_keys(keys);
        WITH freed AS (
            SELECT f.key, count(*)::integer AS slots FROM unnest(keys) AS f (key) GROUP BY f.key
        ), updated AS (
            UPDATE pgsync.job_key AS k SET taken = k.taken - f.slots FROM freed AS f
            WHERE k.key = f.key RETURNING k.key, k.waiting
        )
        SELECT array_agg(u.key) INTO awaited FROM updated AS u WHERE u.waiting > 0;
        IF awaited IS NOT NULL THEN
            PERFORM pgsync.resume_keys(awaited);
        END IF;
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.free_slots(text[], text[]) IS
    'Internal: gives back one slot an element, and passes those of keys on to the jobs that wait for them.';

CREATE OR REPLACE FUNCTION pgsync.resume_keys(keys text[]) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    resumed integer;
    ready_queues text[];
BEGIN
    WITH chosen AS (
        SELECT w.id
        FROM pgsync.job_key AS k
        CROSS JOIN LATERAL (
            -- The head of the line says how many may follow it.
            SELECT least(h.key_limit, q.max_running_per_key) AS most, q.max_starts_per_key AS starts,
                   h.ordered AND EXISTS (
                       SELECT FROM pgsync.job_ready AS b
                       WHERE b.key = h.key AND (b.priority, b.id) < (h.priority, h.id)) AS is_early
            FROM pgsync.job_waiting AS h LEFT JOIN pgsync.queue AS q ON q.name = h.queue
            WHERE h.waits_for = 'key' AND h.key = k.key ORDER BY h.priority, h.id LIMIT 1
        ) AS head
        CROSS JOIN LATERAL (
            -- Passed over where somebody changes it just now; maintenance looks again.
            SELECT n.id FROM pgsync.job_waiting AS n
            WHERE n.waits_for = 'key' AND n.key = k.key ORDER BY n.priority, n.id
            LIMIT greatest(least(head.most - k.taken, head.starts, 1000), 0) FOR UPDATE SKIP LOCKED
        ) AS w
        WHERE k.key = ANY (keys) AND NOT head.is_early AND (k.permits_at IS NULL OR k.permits_at <= moment)
    ), taken AS (
        DELETE FROM pgsync.job_waiting AS w USING chosen AS c WHERE w.id = c.id RETURNING w.*
    ), counted AS (
        UPDATE pgsync.job_key AS k
        SET taken = k.taken + t.jobs, waiting = k.waiting - t.jobs, permits_at = NULL
        FROM (SELECT i.key, count(*)::integer AS jobs FROM taken AS i GROUP BY i.key) AS t
        WHERE k.key = t.key
    ), ready AS (
        INSERT INTO pgsync.job_ready (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at,
            unique_key, errors, key, key_limit, ordered, key_slot, batch, after, after_failed, lock_name, tenant, position)
        SELECT t.id, t.queue, t.task, t.args, t.priority, t.attempt, t.max_attempts, t.created_at, t.run_at,
               t.unique_key, t.errors, t.key, t.key_limit, t.ordered, true, t.batch, t.after, t.after_failed, t.lock_name, t.tenant,
               nextval('pgsync.job_resumed_position')
        FROM taken AS t ORDER BY t.priority, t.id
    )
    SELECT count(*), array_agg(DISTINCT t.queue) INTO resumed, ready_queues FROM taken AS t;
    PERFORM pgsync.notify_workers(q) FROM unnest(ready_queues) AS q;
    RETURN resumed;
END
$$;

COMMENT ON FUNCTION pgsync.resume_keys(text[]) IS
    'Internal: takes the free slots of keys whose rows are locked for the next jobs that wait for them, and makes these available before all others of their priority.';

CREATE OR REPLACE FUNCTION pgsync.resume_waiting_jobs() RETURNS integer
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    keys text[];
BEGIN
    SELECT array_agg(l.key) INTO keys FROM (
        SELECT k.key FROM pgsync.job_key AS k
        WHERE k.waiting > 0 AND (k.permits_at IS NULL OR k.permits_at <= pgsync.clock())
        FOR UPDATE SKIP LOCKED) AS l;
    RETURN pgsync.resume_keys(keys) + pgsync.resume_all_lock_lines();
END
$$;

COMMENT ON FUNCTION pgsync.resume_waiting_jobs() IS
    'Resumes jobs whose key has permits again or slots that nobody passed on (a limit was raised), and jobs whose lock came free unseen, and says how many.';

CREATE OR REPLACE FUNCTION pgsync.prune_keys(idle interval DEFAULT '1 hour', batch integer DEFAULT 10000) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    pruned integer;
BEGIN
    DELETE FROM pgsync.job_key AS k WHERE k.ctid = ANY (ARRAY(
        SELECT o.ctid FROM pgsync.job_key AS o
        WHERE o.used_at < pgsync.clock() - idle AND o.taken = 0 AND o.waiting = 0
        LIMIT batch FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS pruned = ROW_COUNT;
    RETURN pruned;
END
$$;

COMMENT ON FUNCTION pgsync.prune_keys(interval, integer) IS
    'Forgets concurrency keys that came into use long ago and have no jobs now, and says how many.';
