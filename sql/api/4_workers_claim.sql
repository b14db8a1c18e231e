-- The claim: takes jobs, the slots of their queues and keys, and their permits, in one transaction.

DROP FUNCTION IF EXISTS pgsync.claim_jobs(bigint, text[], integer);
DROP FUNCTION IF EXISTS pgsync.started_jobs(bigint[]);
DROP FUNCTION IF EXISTS pgsync.claimable_queues(text[]);
DROP FUNCTION IF EXISTS pgsync.claim_jobs(bigint, text[], integer, integer[]);

CREATE OR REPLACE FUNCTION pgsync.queue_is_open(queue text) RETURNS TABLE (limited boolean)
LANGUAGE sql STABLE AS $$
    SELECT s.limited FROM (
        SELECT count(q.paused_at) > 0 AS paused, count(q.max_running) + count(q.max_starts) > 0 AS limited
        FROM pgsync.queue AS q WHERE q.name = queue_is_open.queue
    ) AS s WHERE NOT s.paused
$$;

COMMENT ON FUNCTION pgsync.queue_is_open(text) IS
    'Internal: whether a queue has limits; no row where it is paused.';

CREATE OR REPLACE FUNCTION pgsync.strict_turns(queues text[], batch integer)
RETURNS TABLE (queue text, quota integer, limited boolean)
LANGUAGE sql STABLE AS $$
    -- Nested loops only, which keep their order and stop where the caller does: of a thousand queues
    -- behind a * those are looked up that fill the batch.
    SELECT w.name, batch, s.limited
    FROM unnest(queues) AS g (name)
    CROSS JOIN LATERAL (
        SELECT g.name WHERE g.name <> '*'
        UNION ALL
        SELECT r.name FROM pgsync.ready_queues() AS r WHERE g.name = '*' AND NOT r.name = ANY (queues)
    ) AS w
    CROSS JOIN LATERAL pgsync.queue_is_open(w.name) AS s
$$;

COMMENT ON FUNCTION pgsync.strict_turns(text[], integer) IS
    'Internal: the queues to claim from in the order given, with how many jobs to take and whether the queue has limits. Without the paused; * stands for all others that have jobs. To be read row by row.';

CREATE OR REPLACE FUNCTION pgsync.claim_turns(queues text[], weights integer[], batch integer)
RETURNS TABLE (queue text, quota integer, limited boolean)
LANGUAGE sql VOLATILE AS $$
    WITH present (name) AS (
        SELECT r.name FROM pgsync.ready_queues() AS r WHERE '*' = ANY (queues)
    ), given AS (
        SELECT g.name, g.weight FROM unnest(queues, weights) AS g (name, weight)
    ), wanted AS (
        SELECT g.name, g.weight FROM given AS g WHERE g.name <> '*'
        UNION ALL
        SELECT p.name, g.weight FROM present AS p JOIN given AS g ON g.name = '*'
        WHERE NOT p.name = ANY (queues)
    ), open AS (
        SELECT w.name, w.weight,
               coalesce(q.max_running, q.max_starts) IS NOT NULL AS limited,
               -- Weighted sampling without replacement, by Efraimidis and Spirakis (2006).
               -ln(1 - random()) / w.weight AS place
        FROM wanted AS w LEFT JOIN pgsync.queue AS q ON q.name = w.name
        WHERE q.paused_at IS NULL
    ), turns AS (
        SELECT o.name, o.limited, o.place, 0 AS pass,
               ceil(batch * o.weight / sum(o.weight) OVER ())::integer AS quota
        FROM open AS o
        UNION ALL
        -- What their shares leave.
        SELECT o.name, o.limited, o.place, 1, batch FROM open AS o
    )
    SELECT t.name, t.quota, t.limited FROM turns AS t ORDER BY t.pass, t.place, t.name
$$;

COMMENT ON FUNCTION pgsync.claim_turns(text[], integer[], integer) IS
    'Internal: the queues to claim from by weight, with how many jobs to take and whether the queue has limits. Without the paused; * stands for all others that have jobs. Each queue has its share of the batch first, in an order drawn by weight.';

CREATE OR REPLACE FUNCTION pgsync.any_ready_jobs(queues text[]) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM FROM unnest(queues) AS q (name)
    CROSS JOIN LATERAL pgsync.claim_ranges(q.name) AS f
    CROSS JOIN LATERAL (
        SELECT FROM pgsync.job_ready AS r
        WHERE r.queue = q.name
          AND (r.priority, r.position) >= (f.from_priority, f.from_position)
          AND (r.priority, r.position) < (f.to_priority, f.to_position)
        LIMIT 1) AS found
    LIMIT 1;
    IF NOT FOUND AND '*' = ANY (queues) THEN
        PERFORM FROM pgsync.ready_queues() LIMIT 1;
    END IF;
    RETURN FOUND;
END
$$;

COMMENT ON FUNCTION pgsync.any_ready_jobs(text[]) IS
    'Internal: whether any of these queues (* for all) has a job that may be claimed, or is about to be by others.';

CREATE OR REPLACE FUNCTION pgsync.started_jobs(ids bigint[])
RETURNS TABLE (
    id bigint, queue text, task text, args jsonb, priority smallint, attempt smallint,
    max_attempts smallint, created_at timestamptz, run_at timestamptz, key text, in_batch bigint,
    lock_token bigint
)
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT r.id, r.queue, r.task, r.args, r.priority, r.attempt, r.max_attempts, r.created_at, r.run_at, r.key,
           r.batch, r.lock_token
    FROM pgsync.job_running AS r WHERE r.id = ANY (ids) ORDER BY r.priority, r.id;
END
$$;

COMMENT ON FUNCTION pgsync.started_jobs(bigint[]) IS 'Internal: admitted jobs as a claim returns them.';

CREATE OR REPLACE FUNCTION pgsync.claim_jobs(
    worker bigint, queues text[], batch integer, weights integer[] DEFAULT NULL
)
RETURNS TABLE (
    id bigint, queue text, task text, args jsonb, priority smallint, attempt smallint,
    max_attempts smallint, created_at timestamptz, run_at timestamptz, key text, in_batch bigint,
    lock_token bigint
)
LANGUAGE plpgsql VOLATILE
-- In the order of its index: the bitmap of a queue, and its sort, would be of all that waits there.
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    moment timestamptz := pgsync.clock();
    remaining integer := batch;
    due boolean;
    unsure boolean;
    limits boolean;
    shared boolean;
    floored boolean;
    ready boolean;
    turns refcursor;
    turn record;
    room integer;
    claimed integer;
    asking integer;
    asked boolean;
    following boolean;
    contended boolean;
    refused integer;
    followers record;
    judged record;
    notes boolean;
    claim_index oid := 'pgsync.job_ready_claim'::regclass;
    walked bigint;
    places tid[] := '{}';
BEGIN
    -- In one statement: for a claim of one job, what these would cost apart is a tenth of its time.
    SELECT (SELECT true FROM pgsync.job_scheduled AS s
            WHERE s.run_at >= pgsync.due_floor() AND s.run_at <= moment LIMIT 1),
           (SELECT true FROM pgsync.job_dependency AS d WHERE d.unsure LIMIT 1),
           (SELECT true FROM pgsync.queue AS q
            WHERE coalesce(q.max_running, q.max_starts) IS NOT NULL LIMIT 1),
           -- In the order of the one index that has them alone, and is empty where nobody has a tenant.
           (SELECT true FROM pgsync.job_ready AS r
            WHERE r.tenant IS NOT NULL ORDER BY r.queue, r.tenant LIMIT 1),
           (SELECT true FROM pgsync.floors_kept LIMIT 1),
           -- The usual answer of any_ready_jobs, at a quarter of its price.
           (SELECT true FROM unnest(claim_jobs.queues) AS q (name)
            CROSS JOIN LATERAL (SELECT FROM pgsync.job_ready AS r WHERE r.queue = q.name LIMIT 1) AS found
            WHERE NOT EXISTS (SELECT FROM pgsync.floors_kept) LIMIT 1)
    INTO due, unsure, limits, shared, floored, ready;
    IF due THEN
        PERFORM pgsync.promote_due_jobs();
    END IF;
    IF unsure THEN
        PERFORM pgsync.settle_dependencies();
    END IF;
    shared := shared OR due OR unsure;  -- These may have brought the first that have a tenant.
    -- The polls of an idle worker must not write: the lock of its own row would be flushed to disk.
    IF NOT coalesce(ready, pgsync.any_ready_jobs(claim_jobs.queues)) THEN
        PERFORM pgsync.resume_all_lock_lines();
        RETURN;
    END IF;
    -- A worker that was given up for dead must not claim: nobody would rescue its jobs.
    PERFORM FROM pgsync.worker AS w WHERE w.id = claim_jobs.worker AND NOT w.given_up FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'PS003',
            MESSAGE = format('worker %s is not registered', claim_jobs.worker),
            HINT = 'It was given up for dead: register again.';
    END IF;
    notes := CASE WHEN floored THEN pgsync.notes_floors() ELSE false END;
    IF limits THEN
        -- All of them first and in one order, whatever order this worker claims in.
        PERFORM pgsync.lock_queue_slots(ARRAY(
            SELECT q.name FROM pgsync.queue AS q
            WHERE coalesce(q.max_running, q.max_starts) IS NOT NULL AND q.paused_at IS NULL
              AND (q.name = ANY (claim_jobs.queues) OR '*' = ANY (claim_jobs.queues))
              AND pgsync.has_ready_jobs(q.name)));
    END IF;
    FOR round IN 1..10 LOOP
        asked := false;
        following := false;
        contended := false;
        refused := 0;
        IF weights IS NOT NULL THEN
            OPEN turns FOR SELECT t.* FROM pgsync.claim_turns(claim_jobs.queues, weights, remaining) AS t;
        ELSIF '*' = ANY (claim_jobs.queues) THEN
            OPEN turns FOR SELECT t.* FROM pgsync.strict_turns(claim_jobs.queues, remaining) AS t;
        ELSE
            OPEN turns FOR
            SELECT g.name AS queue, remaining AS quota, s.limited
            FROM unnest(claim_jobs.queues) AS g (name) CROSS JOIN LATERAL pgsync.queue_is_open(g.name) AS s;
        END IF;
        LOOP
            FETCH turns INTO turn;
            EXIT WHEN NOT FOUND OR remaining <= 0;
            room := least(turn.quota, remaining);
            IF turn.limited THEN
                CONTINUE WHEN NOT pgsync.has_ready_jobs(turn.queue);
                room := pgsync.take_queue_room(turn.queue, room);
                CONTINUE WHEN room = 0;
            END IF;
            IF shared THEN
                places := pgsync.take_turns(turn.queue, room);
            END IF;
            walked := pg_stat_get_xact_tuples_returned(claim_index);
            RETURN QUERY
            WITH taken AS (
                DELETE FROM pgsync.job_ready AS r WHERE r.ctid = ANY (places || ARRAY(
                    SELECT c.ctid FROM pgsync.claim_ranges(turn.queue) AS f
                    CROSS JOIN LATERAL (
                        SELECT j.ctid FROM pgsync.job_ready AS j
                        WHERE j.queue = turn.queue AND j.ctid <> ALL (places)
                          AND (j.priority, j.position) >= (f.from_priority, f.from_position)
                          AND (j.priority, j.position) < (f.to_priority, f.to_position)
                        ORDER BY j.priority, j.position
                        LIMIT room - cardinality(places) FOR UPDATE SKIP LOCKED) AS c
                    LIMIT room - cardinality(places)))
                RETURNING r.*
            ), noted AS (
                INSERT INTO pgsync.queue_floor (queue, priority, resumed, position)
                SELECT DISTINCT t.queue, t.priority, t.position < 0,
                       CASE WHEN t.position < 0 THEN -9223372036854775807 ELSE 0 END
                FROM taken AS t
                -- Of many queues those where dead rows were passed, or so many jobs go through that they
                -- soon will be: to step over the floors of a thousand small ones costs more than it saves.
                WHERE notes AND (NOT EXISTS (SELECT FROM pgsync.queue_floor OFFSET 20) OR (
                    SELECT count(*) >= 50 OR 100 + count(*) < pg_stat_get_xact_tuples_returned(
                        CASE WHEN count(*) > 0 THEN claim_index END) - walked FROM taken))
                ON CONFLICT DO NOTHING
            ), started AS (
                INSERT INTO pgsync.job_running (id, queue, task, args, priority, attempt, max_attempts,
                    created_at, run_at, unique_key, errors, key, key_limit, ordered, key_slot, batch,
                    after, after_failed, lock_name, tenant, worker, started_at, queue_slot, admitted)
                SELECT t.id, t.queue, t.task, t.args, t.priority, t.attempt + 1, t.max_attempts,
                       t.created_at, t.run_at, t.unique_key, t.errors, t.key, t.key_limit, t.ordered,
                       t.key_slot, t.batch, t.after, t.after_failed, t.lock_name, t.tenant, claim_jobs.worker, moment,
                       turn.limited, coalesce(t.key, t.lock_name) IS NULL
                           AND (t.after IS NULL OR t.attempt > 0 OR t.position < 0)
                FROM taken AS t
            )
            SELECT t.id, t.queue, t.task, t.args, t.priority, (t.attempt + 1)::smallint, t.max_attempts,
                   t.created_at, t.run_at, t.key, t.batch, NULL::bigint
            FROM taken AS t
            -- What came back to the front has waited for other jobs already.
            WHERE coalesce(t.key, t.lock_name) IS NULL AND (t.after IS NULL OR t.attempt > 0 OR t.position < 0)
            ORDER BY t.priority, t.position;
            GET DIAGNOSTICS claimed = ROW_COUNT;
            SELECT count(*), following OR coalesce(bool_or(r.after IS NOT NULL), false) INTO asking, following
            FROM pgsync.job_running AS r
            WHERE r.worker = claim_jobs.worker
              AND (r.key IS NOT NULL OR r.after IS NOT NULL OR r.lock_name IS NOT NULL)
              AND NOT r.admitted AND r.queue = turn.queue;
            asked := asked OR asking > 0;
            remaining := remaining - claimed - asking;
            IF turn.limited AND claimed + asking < room THEN
                PERFORM pgsync.return_queue_room(turn.queue, room - claimed - asking);
            END IF;
        END LOOP;
        CLOSE turns;
        EXIT WHEN NOT asked;
        IF following THEN
            -- Before their keys, whose slots they would hold while they wait.
            SELECT f.started, f.refused INTO followers FROM pgsync.admit_followers(claim_jobs.worker) AS f;
            RETURN QUERY SELECT * FROM pgsync.started_jobs(followers.started);
            refused := followers.refused;
        END IF;
        asked := EXISTS (
            SELECT FROM pgsync.job_running AS r
            WHERE r.worker = claim_jobs.worker AND (r.key IS NOT NULL OR r.lock_name IS NOT NULL)
              AND NOT r.admitted);
        IF asked THEN
            SELECT a.admitted, a.refused INTO judged
            FROM pgsync.admit_jobs(claim_jobs.worker, round > 1 OR following) AS a;
            RETURN QUERY SELECT * FROM pgsync.started_jobs(judged.admitted);
            refused := refused + coalesce(cardinality(judged.refused), 0);
            contended := judged.admitted IS NULL AND judged.refused IS NULL;
        END IF;
        remaining := remaining + refused;
        IF round = 10 OR contended THEN
            -- Full keys, or others that claim them now: let them have the tables, and go on at once.
            PERFORM pg_notify('pgsync_jobs', claim_jobs.queues[1]);
            EXIT;
        END IF;
        EXIT WHEN refused = 0;
    END LOOP;
    IF remaining = batch THEN
        PERFORM pgsync.resume_all_lock_lines();
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.claim_jobs(bigint, text[], integer, integer[]) IS
    'Takes up to batch jobs for a worker, with the slots, locks and permits that they need, or leaves them: queues in the order given (or, with weights, each by its share), within one by priority and arrival. Raises PS003 for a worker that was given up for dead.';
