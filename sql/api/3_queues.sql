-- Job queues: putting jobs in. What operators do to them is 3_queues_operate.sql, the workers' side 4_workers.sql.

DROP FUNCTION IF EXISTS pgsync.enqueue(text, jsonb, text, integer, timestamptz, text, integer);
DROP FUNCTION IF EXISTS pgsync.add_job(text, jsonb, text, integer, timestamptz, text, integer);
DROP FUNCTION IF EXISTS pgsync.add_jobs(text, jsonb[], text, integer, timestamptz, integer);
DROP FUNCTION IF EXISTS pgsync.enqueue(text, jsonb, text, integer, timestamptz, text, integer, interval);
DROP FUNCTION IF EXISTS pgsync.add_job(text, jsonb, text, integer, timestamptz, text, integer, interval);
DROP FUNCTION IF EXISTS pgsync.add_jobs(text, jsonb[], text, integer, timestamptz, integer, interval);
DROP FUNCTION IF EXISTS pgsync.enqueue(text, jsonb, text, integer, timestamptz, text, integer, interval, text, integer, boolean, interval, text[], text[], bigint, bigint[], boolean);
DROP FUNCTION IF EXISTS pgsync.add_job(text, jsonb, text, integer, timestamptz, text, integer, interval, text, integer, boolean, interval, text[], text[], bigint, bigint[], boolean);
DROP FUNCTION IF EXISTS pgsync.add_jobs(text, jsonb[], text, integer, timestamptz, integer, interval, text[], integer, boolean, bigint, bigint[], boolean);

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

CREATE OR REPLACE FUNCTION pgsync.worker_waits(queue text) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM pgsync.worker AS w
        WHERE w.idle AND (worker_waits.queue = ANY (w.queues) OR '*' = ANY (w.queues)))
$$;

COMMENT ON FUNCTION pgsync.worker_waits(text) IS
    'Internal: whether a worker of a queue waits for word. One that begins to in this very moment finds the job at its next poll.';

CREATE OR REPLACE FUNCTION pgsync.notify_workers(queue text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    -- NOTIFY takes a database-wide lock at commit, so it is sent only where a worker waits.
    IF pgsync.worker_waits(queue) THEN
        PERFORM pg_notify('pgsync_jobs', notify_workers.queue);
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.notify_workers(text) IS
    'Internal: wakes waiting workers of a queue, if there are any, when the transaction commits.';

CREATE OR REPLACE FUNCTION pgsync.wake_workers(queues text[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    queue text;
BEGIN
    FOREACH queue IN ARRAY queues LOOP
        -- Who has this lock has yet to send its word, which workers then get when these jobs are there.
        IF pg_try_advisory_xact_lock(pgsync.lock_key('pgsync.wake_workers ' || queue)) THEN
            PERFORM pgsync.notify_workers(queue);
        END IF;
    END LOOP;
    -- Another may be at its commit for long, for example where a standby is to confirm it.
    PERFORM set_config('lock_timeout', '100ms', true);
END
$$;

COMMENT ON FUNCTION pgsync.wake_workers(text[]) IS
    'Wakes waiting workers of queues whose new jobs are committed, unless another just does. In a transaction of its own: so no enqueuer waits with its commit for the lock of NOTIFY. Fails after 100 ms of waiting for that: workers poll.';

CREATE OR REPLACE FUNCTION pgsync.check_job_key(key text, key_limit integer, ordered boolean) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF key IS NOT NULL THEN
        PERFORM pgsync.check_name(key, 'key');
    ELSIF key_limit IS NOT NULL OR ordered THEN
        RAISE invalid_parameter_value USING MESSAGE = 'key_limit and ordered need a key';
    END IF;
    IF key_limit NOT BETWEEN 1 AND 32767 THEN
        RAISE invalid_parameter_value USING MESSAGE = format('key_limit must be from 1 to 32767, not %s', key_limit);
    ELSIF ordered AND key_limit > 1 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('jobs that run in order run one at a time, so key_limit cannot be %s', key_limit);
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.check_job_key(text, integer, boolean) IS
    'Raises invalid_parameter_value for a concurrency key that can never work.';

CREATE OR REPLACE FUNCTION pgsync.check_job_names(names text[], what text, jobs integer) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF cardinality(names) <> jobs THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%ss must have one element for each of args', what);
    END IF;
    PERFORM pgsync.check_name(n, what) FROM (SELECT DISTINCT unnest(names)) AS d (n) WHERE n IS NOT NULL;
END
$$;

COMMENT ON FUNCTION pgsync.check_job_names(text[], text, integer) IS
    'Raises invalid_parameter_value for names of many jobs that are not one a job, or that no job can have.';

CREATE OR REPLACE FUNCTION pgsync.add_jobs(
    task text,
    args jsonb[],
    queue text DEFAULT 'default',
    priority integer DEFAULT 0,
    run_at timestamptz DEFAULT NULL,
    max_attempts integer DEFAULT 5,
    delay interval DEFAULT NULL,
    keys text[] DEFAULT NULL,
    key_limit integer DEFAULT NULL,
    ordered boolean DEFAULT false,
    batch bigint DEFAULT NULL,
    after bigint[] DEFAULT NULL,
    after_failed boolean DEFAULT false,
    lock_names text[] DEFAULT NULL,
    tenants text[] DEFAULT NULL
) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    ids bigint[];
BEGIN
    -- The first of those that may be wrong tells what is; the usual are judged together.
    PERFORM pgsync.check_job(task, coalesce((
        SELECT coalesce(a, 'null') FROM unnest(args) AS a
        WHERE jsonb_typeof(a) IS DISTINCT FROM 'object' OR octet_length(a::text) > 1048576 LIMIT 1), '{}'),
        queue, priority, max_attempts, NULL);
    IF keys IS NOT NULL OR key_limit IS NOT NULL OR ordered THEN
        IF cardinality(keys) IS DISTINCT FROM cardinality(args) THEN
            RAISE invalid_parameter_value USING MESSAGE = 'keys must have one element for each of args';
        END IF;
        PERFORM pgsync.check_job_key(k, key_limit, ordered) FROM (SELECT DISTINCT unnest(keys)) AS d (k);
    END IF;
    key_limit := CASE WHEN ordered THEN 1 ELSE key_limit END;
    PERFORM pgsync.check_job_names(lock_names, 'lock_name', cardinality(args)),
            pgsync.check_job_names(tenants, 'tenant', cardinality(args))
    WHERE coalesce(lock_names, tenants) IS NOT NULL;
    IF after IS NOT NULL THEN
        PERFORM pgsync.check_after(after);
        after := nullif(after, '{}');
    END IF;
    run_at := coalesce(run_at, moment + delay);
    IF batch IS NOT NULL AND cardinality(args) > 0 THEN
        PERFORM pgsync.add_to_batch(batch, cardinality(args));
    END IF;
    IF run_at > moment THEN
        WITH added AS (
            INSERT INTO pgsync.job_scheduled AS j (id, queue, task, args, priority, attempt, max_attempts,
                created_at, run_at, key, key_limit, ordered, batch, after, after_failed, lock_name, tenant, state)
            SELECT nextval('pgsync.job_id'), add_jobs.queue, add_jobs.task, a.args, add_jobs.priority, 0,
                   add_jobs.max_attempts, moment, greatest(add_jobs.run_at, pgsync.clock()), a.key,
                   add_jobs.key_limit, add_jobs.ordered, add_jobs.batch, add_jobs.after, add_jobs.after_failed, a.lock_name, a.tenant, 'scheduled'
            FROM unnest(add_jobs.args, add_jobs.keys, lock_names, tenants)
                WITH ORDINALITY AS a (args, key, lock_name, tenant, number) ORDER BY a.number
            RETURNING j.id
        )
        SELECT array_agg(a.id ORDER BY a.id) INTO ids FROM added AS a;
    ELSE
        WITH added AS (
            INSERT INTO pgsync.job_ready AS j (id, queue, task, args, priority, attempt, max_attempts,
                created_at, run_at, key, key_limit, ordered, batch, after, after_failed, lock_name, tenant)
            SELECT nextval('pgsync.job_id'), add_jobs.queue, add_jobs.task, a.args, add_jobs.priority, 0,
                   add_jobs.max_attempts, moment, coalesce(add_jobs.run_at, moment), a.key,
                   add_jobs.key_limit, add_jobs.ordered, add_jobs.batch, add_jobs.after, add_jobs.after_failed, a.lock_name, a.tenant
            FROM unnest(add_jobs.args, add_jobs.keys, lock_names, tenants)
                WITH ORDINALITY AS a (args, key, lock_name, tenant, number) ORDER BY a.number
            RETURNING j.id
        )
        SELECT array_agg(a.id ORDER BY a.id) INTO ids FROM added AS a;
        PERFORM pgsync.notify_workers(queue);
    END IF;
    RETURN coalesce(ids, '{}');
END
$$;

COMMENT ON FUNCTION pgsync.add_jobs(text, jsonb[], text, integer, timestamptz, integer, interval, text[], integer, boolean, bigint, bigint[], boolean, text[], text[]) IS
    'Enqueues one job an element of args (with that of keys as its key), and returns their ids in the same order.';

CREATE OR REPLACE FUNCTION pgsync.add_job(
    task text,
    args jsonb DEFAULT '{}',
    queue text DEFAULT 'default',
    priority integer DEFAULT 0,
    run_at timestamptz DEFAULT NULL,
    unique_key text DEFAULT NULL,
    max_attempts integer DEFAULT 5,
    delay interval DEFAULT NULL,
    key text DEFAULT NULL,
    key_limit integer DEFAULT NULL,
    ordered boolean DEFAULT false,
    unique_for interval DEFAULT NULL,
    unique_states text[] DEFAULT NULL,
    replace text[] DEFAULT NULL,
    batch bigint DEFAULT NULL,
    after bigint[] DEFAULT NULL,
    after_failed boolean DEFAULT false,
    lock_name text DEFAULT NULL,
    tenant text DEFAULT NULL,
    OUT id bigint,
    OUT added boolean,
    OUT replaced boolean
)
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    holder bigint;
BEGIN
    PERFORM pgsync.check_job(task, args, queue, priority, max_attempts, unique_key);
    IF key IS NOT NULL OR key_limit IS NOT NULL OR ordered THEN
        PERFORM pgsync.check_job_key(key, key_limit, ordered);
        key_limit := CASE WHEN ordered THEN 1 ELSE key_limit END;
    END IF;
    IF lock_name IS NOT NULL THEN
        PERFORM pgsync.check_name(lock_name, 'lock_name');
    END IF;
    IF tenant IS NOT NULL THEN
        PERFORM pgsync.check_name(tenant, 'tenant');
    END IF;
    IF after IS NOT NULL THEN
        PERFORM pgsync.check_after(after);
        after := nullif(after, '{}');
    END IF;
    run_at := coalesce(run_at, moment + delay);
    id := nextval('pgsync.job_id');
    replaced := false;
    IF unique_key IS NOT NULL THEN
        PERFORM pgsync.check_unique(unique_for, unique_states, replace);
        holder := pgsync.take_unique_key(unique_key, id, moment + unique_for, unique_states);
        IF holder IS NOT NULL THEN
            id := holder;
            added := false;
            IF replace IS NOT NULL THEN
                replaced := pgsync.replace_job(holder, replace, args, run_at, priority, max_attempts);
            END IF;
            RETURN;
        END IF;
    END IF;
    added := true;
    IF batch IS NOT NULL THEN
        PERFORM pgsync.add_to_batch(batch, 1);
    END IF;
    IF run_at > moment THEN
        INSERT INTO pgsync.job_scheduled (id, queue, task, args, priority, attempt, max_attempts,
            created_at, run_at, unique_key, key, key_limit, ordered, batch, after, after_failed, lock_name, tenant, state)
        VALUES (add_job.id, queue, task, args, priority, 0, max_attempts,
                moment, greatest(run_at, pgsync.clock()), unique_key, key, key_limit, ordered, batch, after,
                after_failed, lock_name, tenant, 'scheduled');
    ELSE
        INSERT INTO pgsync.job_ready (id, queue, task, args, priority, attempt, max_attempts,
            created_at, run_at, unique_key, key, key_limit, ordered, batch, after, after_failed, lock_name, tenant)
        VALUES (add_job.id, queue, task, args, priority, 0, max_attempts,
                moment, coalesce(run_at, moment), unique_key, key, key_limit, ordered, batch, after, after_failed, lock_name, tenant);
        PERFORM pgsync.notify_workers(queue);
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.add_job(text, jsonb, text, integer, timestamptz, text, integer, interval, text, integer, boolean, interval, text[], text[], bigint, bigint[], boolean, text, text) IS
    'Enqueues a job in the caller''s transaction. One row: its id, and added; where another job has the unique key, that one''s id, false, and whether it was replaced.';

CREATE OR REPLACE FUNCTION pgsync.enqueue(
    task text,
    args jsonb DEFAULT '{}',
    queue text DEFAULT 'default',
    priority integer DEFAULT 0,
    run_at timestamptz DEFAULT NULL,
    unique_key text DEFAULT NULL,
    max_attempts integer DEFAULT 5,
    delay interval DEFAULT NULL,
    key text DEFAULT NULL,
    key_limit integer DEFAULT NULL,
    ordered boolean DEFAULT false,
    unique_for interval DEFAULT NULL,
    unique_states text[] DEFAULT NULL,
    replace text[] DEFAULT NULL,
    batch bigint DEFAULT NULL,
    after bigint[] DEFAULT NULL,
    after_failed boolean DEFAULT false,
    lock_name text DEFAULT NULL,
    tenant text DEFAULT NULL
) RETURNS bigint
LANGUAGE sql VOLATILE AS $$
    SELECT j.id FROM pgsync.add_job(task, args, queue, priority, run_at, unique_key, max_attempts, delay, key,
        key_limit, ordered, unique_for, unique_states, replace, batch, after, after_failed, lock_name, tenant) AS j;
$$;

COMMENT ON FUNCTION pgsync.enqueue(text, jsonb, text, integer, timestamptz, text, integer, interval, text, integer, boolean, interval, text[], text[], bigint, bigint[], boolean, text, text) IS
    'Enqueues a job for run_at, or delay from now, or at once, in the caller''s transaction and returns its id, or that of the job that has the same unique key.';

CREATE OR REPLACE FUNCTION pgsync.promote_due_jobs(batch integer DEFAULT 1000) RETURNS integer
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    promoted integer;
    promoted_queues text[];
    moment timestamptz := pgsync.clock();  -- called in the condition, it would not end the scan
BEGIN
    WITH due AS (
        DELETE FROM pgsync.job_scheduled WHERE id = ANY (ARRAY(
            SELECT s.id FROM pgsync.job_scheduled AS s
            WHERE s.run_at >= pgsync.due_floor() AND s.run_at <= moment
            ORDER BY s.run_at, s.priority, s.id LIMIT promote_due_jobs.batch FOR UPDATE SKIP LOCKED))
        RETURNING *
    ), ready AS (
        INSERT INTO pgsync.job_ready (id, queue, task, args, priority, attempt, max_attempts,
            created_at, run_at, unique_key, errors, key, key_limit, ordered, key_slot, batch, after, after_failed, lock_name, tenant)
        SELECT d.id, d.queue, d.task, d.args, d.priority, d.attempt, d.max_attempts, d.created_at, d.run_at,
               d.unique_key, d.errors, d.key, d.key_limit, d.ordered, d.key_slot, d.batch, d.after, d.after_failed, d.lock_name, d.tenant
        FROM due AS d ORDER BY d.run_at, d.id
    )
    SELECT count(*), array_agg(DISTINCT d.queue) INTO promoted, promoted_queues FROM due AS d;
    PERFORM pgsync.notify_workers(q) FROM unnest(promoted_queues) AS q;
    RETURN promoted;
END
$$;

COMMENT ON FUNCTION pgsync.promote_due_jobs(integer) IS
    'Moves up to batch due jobs to where they can be claimed, in order of their time, and says how many. Every claim does so too.';
