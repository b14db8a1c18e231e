-- Jobs that wait for others. Batches are 4_workers_batches.sql.
--
-- Enqueuing only stores what a job waits for. The claim looks at it once: it locks the rows of the
-- jobs before it that have not ended, so that they cannot end unseen, notes them in job_dependency
-- and puts the job aside. Whoever ends a job takes its rows there, and resumes who has none left.
--
-- Locks are taken in one order: the job itself, those that wait for it by id, batches by id, then
-- slots of queues and keys. A claim never waits for any of these while it keeps others from ending.

CREATE OR REPLACE FUNCTION pgsync.check_after(after bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    unknown bigint;
BEGIN
    SELECT a INTO unknown FROM unnest(after) AS a, pgsync.job_id AS s
    WHERE a IS NULL OR a < 1 OR a > s.last_value LIMIT 1;
    IF FOUND THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('there has never been a job %s to run after', coalesce(unknown::text, 'null'));
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.check_after(bigint[]) IS
    'Raises invalid_parameter_value for ids that no job has had yet. So no two jobs can wait for each other.';

CREATE OR REPLACE FUNCTION pgsync.still_after(after bigint[]) RETURNS bigint[]
LANGUAGE sql STABLE AS $$
    SELECT array_agg(a) FROM unnest(after) AS a
    WHERE NOT EXISTS (SELECT FROM pgsync.job_finished AS f WHERE f.id = a AND f.state <> 'completed');
$$;

COMMENT ON FUNCTION pgsync.still_after(bigint[]) IS
    'Internal: what a job that is retried by hand still waits for: not for those that failed.';

CREATE OR REPLACE FUNCTION pgsync.hold_jobs(ids bigint[], OUT held bigint[], OUT moving bigint[])
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    ready_queues text[];
BEGIN
    held := '{}';
    FOR round IN 1..6 LOOP
        -- Skipping what is locked, so that this never waits for who waits for this.
        held := held
            || ARRAY(SELECT j.id FROM pgsync.job_running AS j WHERE j.id = ANY (ids) FOR KEY SHARE SKIP LOCKED)
            || ARRAY(SELECT j.id FROM pgsync.job_waiting AS j WHERE j.id = ANY (ids) FOR KEY SHARE SKIP LOCKED)
            || ARRAY(SELECT j.id FROM pgsync.job_scheduled AS j WHERE j.id = ANY (ids) FOR KEY SHARE SKIP LOCKED);
        WITH ready AS (
            SELECT j.id, j.queue FROM pgsync.job_ready AS j WHERE j.id = ANY (ids) FOR KEY SHARE SKIP LOCKED
        )
        SELECT held || coalesce(array_agg(r.id), '{}'), array_agg(DISTINCT r.queue)
        INTO held, ready_queues FROM ready AS r;
        SELECT array_agg(j.id) INTO moving FROM pgsync.jobs AS j WHERE j.id = ANY (ids) AND NOT j.id = ANY (held);
        EXIT WHEN moving IS NULL;
        PERFORM pg_sleep(0.002);
    END LOOP;
    -- Another claim may pass those by in this moment, and sleep.
    PERFORM pgsync.notify_workers(q) FROM unnest(ready_queues) AS q;
END
$$;

COMMENT ON FUNCTION pgsync.hold_jobs(bigint[]) IS
    'Internal: keeps jobs from ending until this transaction does. The ids held, and those (or null) that somebody was moving just now.';

CREATE OR REPLACE FUNCTION pgsync.admit_followers(worker bigint, OUT started bigint[], OUT refused integer)
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    asking bigint[];
    parents bigint[];
    held bigint[];
    moving bigint[];
    failed bigint[];
    children bigint[];
BEGIN
    SELECT array_agg(r.id) INTO asking FROM pgsync.job_running AS r
    WHERE r.worker = admit_followers.worker AND r.after IS NOT NULL AND NOT r.admitted
      AND r.attempt = 1 AND NOT r.key_slot;
    SELECT array_agg(DISTINCT a) INTO parents
    FROM pgsync.job_running AS r CROSS JOIN unnest(r.after) AS a WHERE r.id = ANY (asking);
    SELECT h.held, coalesce(h.moving, '{}') INTO held, moving FROM pgsync.hold_jobs(parents) AS h;
    failed := ARRAY(
        SELECT f.id FROM pgsync.job_finished AS f
        WHERE f.id = ANY (parents) AND f.state <> 'completed' AND NOT f.id = ANY (held || moving));
    WITH noted AS (
        -- The failed too: what follows them is cancelled by the next claim, which holds no locks yet.
        INSERT INTO pgsync.job_dependency AS d (parent, child, unsure)
        SELECT DISTINCT a, r.id, NOT a = ANY (held)
        FROM pgsync.job_running AS r CROSS JOIN unnest(r.after) AS a
        WHERE r.id = ANY (asking) AND (a = ANY (held || moving) OR NOT r.after_failed AND a = ANY (failed))
        ON CONFLICT DO NOTHING
        RETURNING d.child, d.unsure
    )
    SELECT array_agg(DISTINCT n.child) INTO children FROM noted AS n;
    refused := coalesce(cardinality(children), 0);
    IF refused > 0 THEN
        PERFORM pgsync.put_followers_aside(children);
    END IF;
    WITH passed AS (
        UPDATE pgsync.job_running AS r SET admitted = true, started_at = pgsync.clock()
        WHERE r.id = ANY (asking) AND coalesce(r.key, r.lock_name) IS NULL RETURNING r.id
    )
    SELECT array_agg(p.id) INTO started FROM passed AS p;
END
$$;

COMMENT ON FUNCTION pgsync.admit_followers(bigint) IS
    'Internal: judges the jobs that wait for others and that a worker has just claimed; puts those aside (and says how many) that must wait. Those started have no key and no lock to ask for.';

CREATE OR REPLACE FUNCTION pgsync.put_followers_aside(children bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    limited text[];
    its_queues text[];
BEGIN
    WITH taken AS (
        DELETE FROM pgsync.job_running AS r WHERE r.id = ANY (children) RETURNING r.*
    ), waiting AS (
        INSERT INTO pgsync.job_waiting (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at,
            unique_key, errors, key, key_limit, ordered, batch, after, after_failed, lock_name, tenant, waits_for, since)
        SELECT t.id, t.queue, t.task, t.args, t.priority, t.attempt - 1, t.max_attempts, t.created_at, t.run_at,
               t.unique_key, t.errors, t.key, t.key_limit, t.ordered, t.batch, t.after, t.after_failed, t.lock_name, t.tenant, 'jobs', moment
        FROM taken AS t
    )
    SELECT array_agg(t.queue) FILTER (WHERE t.queue_slot), array_agg(DISTINCT t.queue)
    INTO limited, its_queues FROM taken AS t;
    PERFORM pgsync.return_queue_room(l.queue, count(*)::integer) FROM unnest(limited) AS l (queue) GROUP BY l.queue;
    -- Those behind them that wait for just the same jobs too, so that no claim walks them one by one.
    WITH alike AS (
        SELECT DISTINCT ON (w.after, w.after_failed) w.id, w.after, w.after_failed
        FROM pgsync.job_waiting AS w WHERE w.id = ANY (children) ORDER BY w.after, w.after_failed, w.id
    ), behind AS (
        DELETE FROM pgsync.job_ready AS r WHERE r.ctid = ANY (ARRAY(
            SELECT l.ctid FROM pgsync.job_ready AS l WHERE l.ctid = ANY (ARRAY(
                -- Those found are locked, and not all that were looked at.
                SELECT c.ctid FROM unnest(its_queues) AS q (name)
                CROSS JOIN LATERAL (
                    SELECT n.* FROM pgsync.claim_ranges(q.name) AS f
                    CROSS JOIN LATERAL (
                        SELECT j.ctid, j.after, j.after_failed, j.attempt, j.key_slot FROM pgsync.job_ready AS j
                        WHERE j.queue = q.name
                          AND (j.priority, j.position) >= (f.from_priority, f.from_position)
                          AND (j.priority, j.position) < (f.to_priority, f.to_position)
                        ORDER BY j.priority, j.position LIMIT 5000) AS n
                    LIMIT 5000) AS c
                WHERE c.attempt = 0 AND NOT c.key_slot AND c.after IS NOT NULL
                  AND (c.after, c.after_failed) IN (SELECT a.after, a.after_failed FROM alike AS a)))
            FOR UPDATE SKIP LOCKED))
        RETURNING r.*
    ), noted AS (
        INSERT INTO pgsync.job_dependency (parent, child, unsure)
        SELECT d.parent, b.id, d.unsure FROM behind AS b
        JOIN alike AS a ON (a.after, a.after_failed) = (b.after, b.after_failed)
        JOIN pgsync.job_dependency AS d ON d.child = a.id
        ON CONFLICT DO NOTHING
    )
    INSERT INTO pgsync.job_waiting (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at,
        unique_key, errors, key, key_limit, ordered, batch, after, after_failed, lock_name, tenant, waits_for, since)
    SELECT b.id, b.queue, b.task, b.args, b.priority, b.attempt, b.max_attempts, b.created_at, b.run_at,
           b.unique_key, b.errors, b.key, b.key_limit, b.ordered, b.batch, b.after, b.after_failed, b.lock_name, b.tenant, 'jobs', moment
    FROM behind AS b;
    IF EXISTS (SELECT FROM pgsync.job_dependency AS d WHERE d.unsure) THEN
        PERFORM pg_notify('pgsync_jobs', its_queues[1]);
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.put_followers_aside(bigint[]) IS
    'Internal: takes claimed jobs back to wait for others, their attempt unspent, and those behind them that wait for the same.';

CREATE OR REPLACE FUNCTION pgsync.lock_followers(ids bigint[], failed boolean) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    following bigint[];
    direct bigint[];
BEGIN
    WITH RECURSIVE ending (id) AS (
        SELECT e FROM unnest(ids) AS e
        UNION
        -- Where these failed, so do those that wait for them, and so on: all at once, in one order.
        SELECT d.child FROM ending AS e
        JOIN pgsync.job_dependency AS d ON d.parent = e.id
        JOIN pgsync.job_waiting AS w ON w.id = d.child
        WHERE failed AND NOT w.after_failed
    )
    SELECT array_agg(DISTINCT d.child), array_agg(DISTINCT d.child) FILTER (WHERE d.parent = ANY (ids))
    INTO following, direct
    FROM ending AS e JOIN pgsync.job_dependency AS d ON d.parent = e.id;
    PERFORM FROM pgsync.job_waiting AS w WHERE w.id = ANY (following) ORDER BY w.id FOR UPDATE;
    RETURN coalesce(direct, '{}');
END
$$;

COMMENT ON FUNCTION pgsync.lock_followers(bigint[], boolean) IS
    'Internal: locks what waits for jobs, with what will be cancelled where these failed; returns those that wait for them directly.';

CREATE OR REPLACE FUNCTION pgsync.cancel_followers(
    parents bigint[], children bigint[], state text, OUT ids bigint[], OUT batches bigint[]
)
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    unique_keys text[];
BEGIN
    WITH taken AS (
        DELETE FROM pgsync.job_waiting AS w
        WHERE w.id = ANY (children) AND w.waits_for = 'jobs' AND NOT w.after_failed RETURNING w.*
    ), finished AS (
        INSERT INTO pgsync.job_finished (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at,
            unique_key, errors, key, key_limit, ordered, batch, after, after_failed, lock_name, tenant, state, finished_at, result)
        SELECT t.id, t.queue, t.task, t.args, t.priority, t.attempt, t.max_attempts, t.created_at, t.run_at,
               t.unique_key, t.errors, t.key, t.key_limit, t.ordered, t.batch, t.after, t.after_failed, t.lock_name, t.tenant,
               'cancelled', pgsync.clock(), jsonb_build_object('reason', format(
                   'job %s, which it waits for, was %s',
                   (SELECT min(d.parent) FROM pgsync.job_dependency AS d
                    WHERE d.child = t.id AND d.parent = ANY (parents)), cancel_followers.state))
        FROM taken AS t
    )
    SELECT array_agg(t.id), array_agg(t.batch) FILTER (WHERE t.batch IS NOT NULL),
           array_agg(t.unique_key ORDER BY t.id)
    INTO ids, batches, unique_keys FROM taken AS t;
    IF ids IS NOT NULL THEN
        PERFORM pgsync.free_unique_keys(unique_keys, ARRAY(SELECT i FROM unnest(ids) AS i ORDER BY i), 'cancelled');
        DELETE FROM pgsync.job_dependency AS d WHERE d.child = ANY (ids);
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.cancel_followers(bigint[], bigint[], text) IS
    'Internal: cancels those of the children that do not run after a failure.';

CREATE OR REPLACE FUNCTION pgsync.resume_followers(children bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    ready_queues text[];
BEGIN
    WITH taken AS (
        DELETE FROM pgsync.job_waiting AS w
        WHERE w.id = ANY (children) AND w.waits_for = 'jobs'
          AND NOT EXISTS (SELECT FROM pgsync.job_dependency AS d WHERE d.child = w.id)
        RETURNING w.*
    ), ready AS (
        INSERT INTO pgsync.job_ready (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at,
            unique_key, errors, key, key_limit, ordered, batch, after, after_failed, lock_name, tenant, position)
        SELECT t.id, t.queue, t.task, t.args, t.priority, t.attempt, t.max_attempts, t.created_at, t.run_at,
               t.unique_key, t.errors, t.key, t.key_limit, t.ordered, t.batch, t.after, t.after_failed, t.lock_name, t.tenant,
               nextval('pgsync.job_resumed_position')
        FROM taken AS t ORDER BY t.priority, t.id
    )
    SELECT array_agg(DISTINCT t.queue) INTO ready_queues FROM taken AS t;
    PERFORM pgsync.notify_workers(q) FROM unnest(ready_queues) AS q;
END
$$;

COMMENT ON FUNCTION pgsync.resume_followers(bigint[]) IS
    'Internal: makes jobs that wait for no other any more available, before all others of their priority.';

CREATE OR REPLACE FUNCTION pgsync.jobs_ended(ids bigint[], state text, batches bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    ended bigint[] := ids;
    its_state text := state;
    children bigint[];
    fallen bigint[];
    fallen_batches bigint[];
    all_batches bigint[] := array_remove(batches, NULL);
    cancelled bigint[] := '{}';
BEGIN
    LOOP
        children := pgsync.lock_followers(ended, its_state <> 'completed');
        EXIT WHEN children = '{}';
        fallen := NULL;
        IF its_state <> 'completed' THEN
            SELECT c.ids, c.batches INTO fallen, fallen_batches
            FROM pgsync.cancel_followers(ended, children, its_state) AS c;
            cancelled := cancelled || coalesce(fallen_batches, '{}');
        END IF;
        -- Only theirs: who was put aside since is not among the children. It is unsure, and is looked at again.
        DELETE FROM pgsync.job_dependency AS d WHERE d.parent = ANY (ended) AND d.child = ANY (children);
        PERFORM pgsync.resume_followers(children);
        EXIT WHEN fallen IS NULL;
        ended := fallen;
        its_state := 'cancelled';
    END LOOP;
    all_batches := coalesce(all_batches, '{}') || cancelled;
    IF all_batches <> '{}' THEN
        PERFORM pgsync.count_ended(all_batches,
            array_fill(state, ARRAY[cardinality(all_batches) - cardinality(cancelled)])
            || array_fill('cancelled'::text, ARRAY[cardinality(cancelled)]));
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.jobs_ended(bigint[], text, bigint[]) IS
    'Internal: what follows from the end of jobs in one state, of which those of a batch have one element in batches each.';

CREATE OR REPLACE FUNCTION pgsync.settle_dependencies(everything boolean DEFAULT false) RETURNS integer
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    missed record;
    settled integer := 0;
BEGIN
    FOR missed IN
        WITH parents AS MATERIALIZED (
            SELECT DISTINCT d.parent FROM pgsync.job_dependency AS d WHERE d.unsure AND NOT everything
            UNION ALL
            SELECT DISTINCT d.parent FROM pgsync.job_dependency AS d WHERE everything
        ), ended AS (
            SELECT p.parent, coalesce((
                SELECT f.state FROM pgsync.job_finished AS f WHERE f.id = p.parent LIMIT 1), 'completed') AS state
            FROM parents AS p
            WHERE NOT EXISTS (SELECT FROM pgsync.jobs AS j WHERE j.id = p.parent)
        )
        SELECT e.state, array_agg(e.parent) AS ids FROM ended AS e GROUP BY e.state
    LOOP
        PERFORM pgsync.jobs_ended(missed.ids, missed.state, NULL);
        settled := settled + cardinality(missed.ids);
    END LOOP;
    RETURN settled;
END
$$;

COMMENT ON FUNCTION pgsync.settle_dependencies(boolean) IS
    'Looks again at jobs that were put aside while one they wait for was ending, or had failed; or at all that wait. Every claim does so too. Says how many have ended.';

CREATE OR REPLACE FUNCTION pgsync.awaited_jobs(after bigint[]) RETURNS text
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET jit = off AS $$
BEGIN
    RETURN (SELECT string_agg(format('job %s (%s)', j.id, j.state), ', ' ORDER BY j.id)
                   || CASE WHEN max(j.alive) > 10 THEN format(' and %s others', max(j.alive) - 10) ELSE '' END
            FROM (SELECT l.id, l.state || coalesce(' on ' || w.name, '') AS state, count(*) OVER () AS alive
                  FROM pgsync.jobs AS l LEFT JOIN pgsync.worker AS w ON w.id = l.worker
                  WHERE l.id = ANY (awaited_jobs.after) ORDER BY l.id LIMIT 10) AS j);
END
$$;

COMMENT ON FUNCTION pgsync.awaited_jobs(bigint[]) IS
    'Internal: those of the jobs that have not ended, with their states, in words; null where all have.';
