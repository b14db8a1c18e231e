-- Admission: which of the jobs that a claim has just taken may start by the limits of their keys and
-- by their locks.
-- The others are put aside in job_waiting, where no further claim looks at them: each job is looked
-- at a bounded number of times, however long the line before it.

CREATE OR REPLACE FUNCTION pgsync.try_lock_keys(keys text[]) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET lock_timeout = '10ms' AS $$
BEGIN
    PERFORM pgsync.lock_keys(keys);
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;

COMMENT ON FUNCTION pgsync.try_lock_keys(text[]) IS
    'Internal: lock_keys for who holds keys already and so must not wait: false, and none of them locked, where another has one.';

DROP FUNCTION IF EXISTS pgsync.put_back(bigint);

CREATE OR REPLACE FUNCTION pgsync.put_back(ids bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    limited text[];
BEGIN
    WITH taken AS (
        DELETE FROM pgsync.job_running AS r WHERE r.id = ANY (ids) RETURNING r.*
    ), ready AS (
        INSERT INTO pgsync.job_ready (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at,
            unique_key, errors, key, key_limit, ordered, key_slot, batch, after, after_failed, lock_name, tenant, position)
        SELECT t.id, t.queue, t.task, t.args, t.priority, t.attempt - 1, t.max_attempts, t.created_at, t.run_at,
               t.unique_key, t.errors, t.key, t.key_limit, t.ordered, t.key_slot, t.batch, t.after,
               t.after_failed, t.lock_name, t.tenant, nextval('pgsync.job_resumed_position')
        FROM taken AS t ORDER BY t.priority, t.id
    )
    SELECT array_agg(t.queue) FILTER (WHERE t.queue_slot) INTO limited FROM taken AS t;
    PERFORM pgsync.return_queue_room(l.queue, count(*)::integer) FROM unnest(limited) AS l (queue) GROUP BY l.queue;
END
$$;

COMMENT ON FUNCTION pgsync.put_back(bigint[]) IS
    'Internal: puts jobs that a worker has claimed and could not ask for back where they were.';

CREATE OR REPLACE FUNCTION pgsync.admit_jobs(
    worker bigint, again boolean, OUT admitted bigint[], OUT refused bigint[]
)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    asked bigint[];
    keys text[];
    held bigint[];
BEGIN
    SELECT array_agg(r.id), array_agg(r.key) FILTER (WHERE r.key IS NOT NULL) INTO asked, keys
    FROM pgsync.job_running AS r
    WHERE r.worker = admit_jobs.worker AND (r.key IS NOT NULL OR r.lock_name IS NOT NULL) AND NOT r.admitted;
    IF NOT again THEN
        PERFORM pgsync.lock_keys(keys);
    ELSIF keys IS NOT NULL AND NOT pgsync.try_lock_keys(keys) THEN
        PERFORM pgsync.put_back(asked);
        RETURN;
    END IF;
    WITH asking AS (
        SELECT r.id, r.queue, r.key, r.key_slot, r.ordered, r.priority, k.taken, k.waiting, k.permits_at,
               least(r.key_limit, q.max_running_per_key) AS most,
               row_number() OVER (PARTITION BY r.key, r.key_slot ORDER BY r.priority, r.id) AS place
        FROM pgsync.job_running AS r
        LEFT JOIN pgsync.job_key AS k ON k.key = r.key
        LEFT JOIN pgsync.queue AS q ON q.name = r.queue
        WHERE r.id = ANY (asked)
    ), judged AS (
        SELECT a.id, a.key IS NULL OR a.key_slot OR (
            (a.most IS NULL OR a.taken + a.place <= a.most)
            AND (a.permits_at IS NULL OR a.permits_at <= moment)
            AND NOT (a.waiting > 0 AND EXISTS (
                SELECT FROM pgsync.job_waiting AS w
                WHERE w.waits_for = 'key' AND w.key = a.key AND (w.priority, w.id) < (a.priority, a.id)))
            -- Also one that another claim is taking just now.
            AND NOT (a.ordered AND EXISTS (
                SELECT FROM pgsync.job_ready AS b
                WHERE b.key = a.key AND (b.priority, b.id) < (a.priority, a.id)))) AS passes
        FROM asking AS a
    )
    SELECT array_agg(j.id) FILTER (WHERE j.passes), array_agg(j.id) FILTER (WHERE NOT j.passes)
    INTO admitted, refused FROM judged AS j;
    IF admitted IS NOT NULL THEN
        SELECT l.admitted, l.held INTO admitted, held
        FROM pgsync.take_job_locks(worker, admit_jobs.admitted) AS l;
        SELECT p.admitted, admit_jobs.refused || p.refused INTO admitted, refused
        FROM pgsync.permit_jobs(admit_jobs.admitted) AS p;
        PERFORM pgsync.start_admitted(admitted);
    END IF;
    -- Before those whose key has no slot left: an ordered one takes its slot along.
    IF held IS NOT NULL THEN
        PERFORM pgsync.put_aside_for_locks(held);
    END IF;
    IF refused IS NOT NULL THEN
        PERFORM pgsync.put_aside(refused);
    END IF;
    refused := refused || held;
END
$$;

COMMENT ON FUNCTION pgsync.admit_jobs(bigint, boolean) IS
    'Internal: judges the jobs with a key or a lock that a worker has just claimed, takes the slots and locks of those admitted, and puts the refused aside. Nulls where that was asked again and a key is locked: they are available again.';

CREATE OR REPLACE FUNCTION pgsync.permit_jobs(ids bigint[], OUT admitted bigint[], OUT refused bigint[])
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    line record;
    permits record;
BEGIN
    admitted := ids;
    FOR line IN
        SELECT r.queue, r.key, q.max_starts_per_key AS most, q.starts_per_key AS per,
               array_agg(r.id ORDER BY r.priority, r.id) AS jobs
        FROM pgsync.job_running AS r JOIN pgsync.queue AS q ON q.name = r.queue
        WHERE r.id = ANY (ids) AND r.key IS NOT NULL AND q.max_starts_per_key IS NOT NULL
        GROUP BY r.queue, r.key, q.max_starts_per_key, q.starts_per_key ORDER BY r.queue, r.key
    LOOP
        SELECT p.* INTO permits FROM pgsync.take_permits(
            'queue:' || line.queue || ':key:' || line.key, line.most, line.per, cardinality(line.jobs)) AS p;
        refused := refused || line.jobs[permits.granted + 1:];
        UPDATE pgsync.job_key AS k
        SET permits_at = CASE permits.remaining WHEN 0 THEN permits.resets_at END
        WHERE k.key = line.key;
    END LOOP;
    IF refused IS NOT NULL THEN
        admitted := ARRAY(SELECT a FROM unnest(admitted) AS a EXCEPT SELECT r FROM unnest(refused) AS r);
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.permit_jobs(bigint[]) IS
    'Internal: takes the permits of jobs whose queue limits how many of a key may start in a time.';

CREATE OR REPLACE FUNCTION pgsync.start_admitted(ids bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE pgsync.job_key AS k SET taken = k.taken + a.jobs
    FROM (SELECT r.key, count(*)::integer AS jobs FROM pgsync.job_running AS r
          WHERE r.id = ANY (ids) AND r.key IS NOT NULL AND NOT r.key_slot GROUP BY r.key) AS a
    WHERE k.key = a.key;
    UPDATE pgsync.job_running AS r SET key_slot = r.key IS NOT NULL, admitted = true WHERE r.id = ANY (ids);
END
$$;

COMMENT ON FUNCTION pgsync.start_admitted(bigint[]) IS 'Internal: takes the slots of claimed jobs.';

CREATE OR REPLACE FUNCTION pgsync.put_aside(ids bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    lines text[];
    limited text[];
    locks bigint[];
BEGIN
    WITH taken AS (
        DELETE FROM pgsync.job_running AS r WHERE r.id = ANY (ids) RETURNING r.*
    ), waiting AS (
        INSERT INTO pgsync.job_waiting (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at,
            unique_key, errors, key, key_limit, ordered, batch, after, after_failed, lock_name, tenant, waits_for, since)
        SELECT t.id, t.queue, t.task, t.args, t.priority, t.attempt - 1, t.max_attempts, t.created_at, t.run_at,
               t.unique_key, t.errors, t.key, t.key_limit, t.ordered, t.batch, t.after, t.after_failed, t.lock_name, t.tenant, 'key', moment
        FROM taken AS t
    ), counted AS (
        UPDATE pgsync.job_key AS k SET waiting = k.waiting + t.jobs, taken = k.taken - t.slots
        FROM (SELECT i.key, count(*)::integer AS jobs, (count(*) FILTER (WHERE i.key_slot))::integer AS slots
              FROM taken AS i GROUP BY i.key) AS t
        WHERE k.key = t.key
    )
    SELECT array_agg(DISTINCT t.key), array_agg(t.queue) FILTER (WHERE t.queue_slot),
           array_agg(t.lock_token) FILTER (WHERE t.lock_token IS NOT NULL)
    INTO lines, limited, locks FROM taken AS t;
    IF locks IS NOT NULL THEN
        PERFORM pgsync.free_job_locks(locks);
    END IF;
    PERFORM pgsync.return_queue_room(l.queue, count(*)::integer) FROM unnest(limited) AS l (queue) GROUP BY l.queue;
    -- The whole line behind them too, so that the claims after this one do not walk it.
    WITH behind AS (
        DELETE FROM pgsync.job_ready AS r WHERE r.ctid = ANY (ARRAY(
            SELECT c.ctid FROM pgsync.job_ready AS c
            WHERE c.key = ANY (lines) AND NOT c.key_slot AND c.after IS NULL
            ORDER BY c.key, c.priority, c.id LIMIT 10000 FOR UPDATE SKIP LOCKED))
        RETURNING r.*
    ), waiting AS (
        INSERT INTO pgsync.job_waiting (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at,
            unique_key, errors, key, key_limit, ordered, batch, after, after_failed, lock_name, tenant, waits_for, since)
        SELECT b.id, b.queue, b.task, b.args, b.priority, b.attempt, b.max_attempts, b.created_at, b.run_at,
               b.unique_key, b.errors, b.key, b.key_limit, b.ordered, b.batch, b.after, b.after_failed, b.lock_name, b.tenant, 'key', moment
        FROM behind AS b
    )
    UPDATE pgsync.job_key AS k SET waiting = k.waiting + b.jobs
    FROM (SELECT i.key, count(*)::integer AS jobs FROM behind AS i GROUP BY i.key) AS b
    WHERE k.key = b.key;
    PERFORM pgsync.resume_keys(lines);
END
$$;

COMMENT ON FUNCTION pgsync.put_aside(bigint[]) IS
    'Internal: takes claimed jobs back to wait for their key, their attempt unspent, and those behind them with the same key; whoever is first there and has room comes out again.';
