-- The locks of jobs. A claim reserves the lock that a job runs under, in its own transaction, or puts
-- the job aside. Whoever performs the job restores the lock with the token, as one that was handed
-- over. Why it is so: docs/decisions/0012-the-lock-in-the-claim.md.
--
-- The jobs that wait for one lock are a line. Its head becomes available when the lock is released
-- (the holder's row says that it is awaited), and otherwise at the next look of the maintenance, or
-- of a claim that finds nothing.

CREATE OR REPLACE FUNCTION pgsync.reserve_lock(name text, owner text) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    its_key bigint := pgsync.lock_key(name);
    moment timestamptz := pgsync.clock();
    former pgsync.lock_holder;
    reserved bigint;
BEGIN
    -- Until this transaction ends, when others see the row, the advisory lock keeps them out.
    IF NOT pg_try_advisory_xact_lock(its_key) THEN
        RETURN NULL;
    END IF;
    IF pgsync.may_be_in_the_way(its_key, 'exclusive') THEN
        former := pgsync.former_in_the_way(its_key, 'exclusive', '0');
        IF former.token IS NOT NULL THEN
            RETURN NULL;
        END IF;
    END IF;
    INSERT INTO pgsync.lock_holder AS h
        (token, key, name, mode, owner, pid, backend_start, acquired_at, expires_at, handed_over)
    VALUES (pgsync.lock_token_base() + nextval('pgsync.lock_token'), its_key, reserve_lock.name, 'exclusive',
            reserve_lock.owner, 0, pgsync.session_start(), moment,
            moment + interval '10 seconds', true)
    RETURNING h.token INTO reserved;
    RETURN reserved;
END
$$;

COMMENT ON FUNCTION pgsync.reserve_lock(text, text) IS
    'Internal: takes a lock for whoever calls restore_lock with the token within ten seconds, as if it had been handed over; null where it is held. For transactions that take it for nobody else.';

CREATE OR REPLACE FUNCTION pgsync.take_job_locks(
    worker bigint, ids bigint[], OUT admitted bigint[], OUT held bigint[]
)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    job record;
    token bigint;
    room integer := 100;
    beyond bigint[];
BEGIN
    admitted := ids;
    FOR job IN
        SELECT r.id, r.lock_name, format('%s job %s', w.name, r.id) AS owner,
               EXISTS (SELECT FROM pgsync.job_waiting AS b
                       WHERE b.waits_for = 'lock' AND b.lock_name = r.lock_name
                         AND (b.priority, b.id) < (r.priority, r.id))
               -- One that came back for the lock, and that another claim is taking just now.
               OR EXISTS (SELECT FROM pgsync.job_ready AS b
                          WHERE b.lock_name = r.lock_name AND (b.priority, b.id) < (r.priority, r.id)
                            AND b.position < 0 AND b.queue = r.queue) AS is_early
        FROM pgsync.job_running AS r JOIN pgsync.worker AS w ON w.id = r.worker
        WHERE r.worker = take_job_locks.worker AND r.id = ANY (ids) AND r.lock_name IS NOT NULL
        ORDER BY r.priority, r.id
    LOOP
        -- Each is in the server's table of locks until the claim has committed.
        room := room - 1;
        token := CASE WHEN room >= 0 AND NOT job.is_early THEN pgsync.reserve_lock(job.lock_name, job.owner) END;
        IF room < 0 THEN
            beyond := beyond || job.id;
        ELSIF token IS NULL THEN
            held := held || job.id;
        ELSE
            UPDATE pgsync.job_running AS r SET lock_token = token WHERE r.id = job.id;
        END IF;
    END LOOP;
    IF beyond IS NOT NULL THEN
        PERFORM pgsync.put_back(beyond);
        PERFORM pg_notify('pgsync_jobs', '');
    END IF;
    IF coalesce(held, beyond) IS NOT NULL THEN
        admitted := ARRAY(SELECT a FROM unnest(admitted) AS a WHERE a <> ALL (coalesce(held, '{}') || beyond));
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.take_job_locks(bigint, bigint[]) IS
    'Internal: reserves the locks of those of the claimed jobs that have one, first come first served; held are those whose lock is held, or has others waiting for it. Of more than a hundred the rest go back to the front.';

CREATE OR REPLACE FUNCTION pgsync.free_job_locks(tokens bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    freed text[];
BEGIN
    -- Only what nobody has restored: a handler's lock is the handler's to release.
    WITH gone AS (
        DELETE FROM pgsync.lock_holder AS h WHERE h.token = ANY (tokens) AND h.handed_over
        RETURNING h.name
    )
    SELECT array_agg(DISTINCT g.name) INTO freed FROM gone AS g;
    IF freed IS NOT NULL THEN
        PERFORM pgsync.resume_lock_lines(freed);
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.free_job_locks(bigint[]) IS
    'Internal: gives up locks that were reserved for jobs and not restored, and resumes who waits for them.';

CREATE OR REPLACE FUNCTION pgsync.put_aside_for_locks(ids bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    names text[];
    limited text[];
    freed text[];
BEGIN
    WITH taken AS (
        DELETE FROM pgsync.job_running AS r WHERE r.id = ANY (ids) RETURNING r.*
    ), waiting AS (
        -- Ordered jobs keep their slot: those behind them must not overtake.
        INSERT INTO pgsync.job_waiting (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at,
            unique_key, errors, key, key_limit, ordered, key_slot, batch, after, after_failed, lock_name, tenant,
            waits_for, since)
        SELECT t.id, t.queue, t.task, t.args, t.priority, t.attempt - 1, t.max_attempts, t.created_at, t.run_at,
               t.unique_key, t.errors, t.key, t.key_limit, t.ordered, t.ordered, t.batch, t.after, t.after_failed,
               t.lock_name, t.tenant, 'lock', moment
        FROM taken AS t
    ), counted AS (
        UPDATE pgsync.job_key AS k SET taken = k.taken + t.slots
        FROM (SELECT i.key, sum(i.ordered::integer - i.key_slot::integer)::integer AS slots
              FROM taken AS i WHERE i.key IS NOT NULL GROUP BY i.key) AS t
        WHERE k.key = t.key AND t.slots <> 0
    )
    SELECT array_agg(DISTINCT t.lock_name), array_agg(t.queue) FILTER (WHERE t.queue_slot),
           array_agg(DISTINCT t.key) FILTER (WHERE t.key_slot AND NOT t.ordered)
    INTO names, limited, freed FROM taken AS t;
    PERFORM pgsync.return_queue_room(l.queue, count(*)::integer) FROM unnest(limited) AS l (queue) GROUP BY l.queue;
    IF freed IS NOT NULL THEN
        PERFORM pgsync.resume_keys(freed);
    END IF;
    -- The whole line behind them too, so that the claims after this one do not walk it.
    WITH behind AS (
        DELETE FROM pgsync.job_ready AS r WHERE r.ctid = ANY (ARRAY(
            SELECT c.ctid FROM pgsync.job_ready AS c
            WHERE c.lock_name = ANY (names) AND NOT c.key_slot AND NOT c.ordered AND c.after IS NULL
            ORDER BY c.lock_name, c.priority, c.id LIMIT 10000 FOR UPDATE SKIP LOCKED))
        RETURNING r.*
    )
    INSERT INTO pgsync.job_waiting (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at,
        unique_key, errors, key, key_limit, ordered, batch, after, after_failed, lock_name, tenant, waits_for, since)
    SELECT b.id, b.queue, b.task, b.args, b.priority, b.attempt, b.max_attempts, b.created_at, b.run_at,
           b.unique_key, b.errors, b.key, b.key_limit, b.ordered, b.batch, b.after, b.after_failed,
           b.lock_name, b.tenant, 'lock', moment
    FROM behind AS b;
    PERFORM pgsync.resume_lock_lines(names);
END
$$;

COMMENT ON FUNCTION pgsync.put_aside_for_locks(bigint[]) IS
    'Internal: takes claimed jobs back to wait for their lock, their attempt unspent, and those behind them with the same lock.';

CREATE OR REPLACE FUNCTION pgsync.free_locks(names text[]) RETURNS text[]
LANGUAGE sql VOLATILE AS $$
    WITH held AS MATERIALIZED (
        SELECT DISTINCT l.key FROM pgsync.advisory_locks AS l WHERE l.granted
    )
    SELECT array_agg(n.name)
    FROM unnest(names) AS n (name)
    WHERE NOT EXISTS (SELECT FROM held AS l WHERE l.key = pgsync.lock_key(n.name))
      AND NOT EXISTS (
        SELECT FROM pgsync.lock_holder AS h WHERE h.key = pgsync.lock_key(n.name)
          AND (h.handed_over AND h.expires_at > pgsync.clock()
               OR h.pid <> 0 AND coalesce(least(h.lost_at, h.expires_at), pgsync.clock()) + h.delay > pgsync.clock()
               -- Guarded still: as in pgsync.guards_of.
               OR EXISTS (SELECT FROM held AS l WHERE l.key = pgsync.slot_key(h.token::text, -1))))
$$;

COMMENT ON FUNCTION pgsync.free_locks(text[]) IS
    'Internal: those of the locks that could be taken just now, or null; takes none.';

CREATE OR REPLACE FUNCTION pgsync.resume_lock_lines(names text[]) RETURNS integer
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    lines text[] := ARRAY(
        SELECT n FROM unnest(names) AS n
        WHERE EXISTS (SELECT FROM pgsync.job_waiting AS w WHERE w.waits_for = 'lock' AND w.lock_name = n));
    free text[];
    resumed integer;
    ready_queues text[];
BEGIN
    IF lines = '{}' THEN
        RETURN 0;
    END IF;
    free := pgsync.free_locks(lines);
    WITH heads AS (
        SELECT h.id FROM unnest(free) AS n (name)
        CROSS JOIN LATERAL (
            SELECT w.id, w.queue, w.priority FROM pgsync.job_waiting AS w
            WHERE w.waits_for = 'lock' AND w.lock_name = n.name
            ORDER BY w.priority, w.id LIMIT 1 FOR UPDATE SKIP LOCKED
        ) AS h
        -- Not where the one before has come back just now, and is not claimed yet.
        WHERE NOT EXISTS (
            SELECT FROM pgsync.job_ready AS b
            WHERE b.lock_name = n.name AND (b.priority, b.id) < (h.priority, h.id)
              AND b.position < 0 AND b.queue = h.queue)
    ), taken AS (
        DELETE FROM pgsync.job_waiting AS w USING heads AS h WHERE w.id = h.id RETURNING w.*
    ), ready AS (
        INSERT INTO pgsync.job_ready (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at,
            unique_key, errors, key, key_limit, ordered, key_slot, batch, after, after_failed, lock_name, tenant,
            position)
        SELECT t.id, t.queue, t.task, t.args, t.priority, t.attempt, t.max_attempts, t.created_at, t.run_at,
               t.unique_key, t.errors, t.key, t.key_limit, t.ordered, t.key_slot, t.batch, t.after, t.after_failed,
               t.lock_name, t.tenant, nextval('pgsync.job_resumed_position')
        FROM taken AS t ORDER BY t.priority, t.id
    )
    SELECT count(*), array_agg(DISTINCT t.queue) INTO resumed, ready_queues FROM taken AS t;
    PERFORM pgsync.notify_workers(q) FROM unnest(ready_queues) AS q;
    -- Whoever releases the others resumes who waits. Never waiting for a release that waits for this.
    UPDATE pgsync.lock_holder AS h SET awaited = true WHERE h.token = ANY (ARRAY(
        SELECT f.token FROM pgsync.lock_holder AS f
        WHERE f.key = ANY (ARRAY(SELECT pgsync.lock_key(n) FROM unnest(lines) AS n)) AND NOT f.awaited
        FOR NO KEY UPDATE SKIP LOCKED));
    RETURN resumed;
END
$$;

COMMENT ON FUNCTION pgsync.resume_lock_lines(text[]) IS
    'Internal: makes the first of those who wait for each of the locks available, where the lock is free, before all others of their priority; has the holders of the other locks do that at their release.';

CREATE OR REPLACE FUNCTION pgsync.resume_all_lock_lines() RETURNS integer
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    names text[];
BEGIN
    -- A loose index scan: one probe a lock, however long its line.
    WITH RECURSIVE line (name) AS (
        (SELECT w.lock_name FROM pgsync.job_waiting AS w WHERE w.waits_for = 'lock'
         ORDER BY w.lock_name LIMIT 1)
        UNION ALL
        SELECT (SELECT w.lock_name FROM pgsync.job_waiting AS w
                WHERE w.waits_for = 'lock' AND w.lock_name > l.name ORDER BY w.lock_name LIMIT 1)
        FROM line AS l WHERE l.name IS NOT NULL
    )
    SELECT array_agg(l.name) INTO names FROM line AS l WHERE l.name IS NOT NULL;
    IF names IS NULL THEN
        RETURN 0;
    END IF;
    -- The locks of sessions that are ended now come free in a moment, for the next look.
    PERFORM pgsync.end_expired_holders(ARRAY(
        SELECT h.key FROM pgsync.lock_holder AS h
        WHERE h.key = ANY (ARRAY(SELECT pgsync.lock_key(n) FROM unnest(names) AS n))
          AND h.expires_at <= pgsync.clock() AND h.pid <> 0 AND NOT h.handed_over));
    RETURN pgsync.resume_lock_lines(names);
END
$$;

COMMENT ON FUNCTION pgsync.resume_all_lock_lines() IS
    'Looks at all locks that jobs wait for: resumes those whose lock is free, ends the sessions of holders past their deadline, and says how many jobs were resumed. Claims that find nothing do so too.';
