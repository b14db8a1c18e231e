-- Numbered jobs: whoever adds them has drawn their ids before, and can ask again after a lost answer.
-- Why nothing is added twice: docs/decisions/0010-jobs-are-numbered-before-they-are-added.md.

DROP FUNCTION IF EXISTS pgsync.insert_numbered_jobs(jsonb, timestamptz);
DROP FUNCTION IF EXISTS pgsync.insert_numbered_jobs(jsonb);

CREATE OR REPLACE FUNCTION pgsync.job_numbers(count integer) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pgsync.check_count(count, 0, 10000000, 'count');
    RETURN ARRAY(SELECT nextval('pgsync.job_id') FROM generate_series(1, job_numbers.count));
END
$$;

COMMENT ON FUNCTION pgsync.job_numbers(integer) IS
    'Draws ids of jobs that are to be added.';

CREATE OR REPLACE FUNCTION pgsync.can_be_job(
    task text, args jsonb, queue text, priority integer, max_attempts integer
) RETURNS boolean
LANGUAGE sql IMMUTABLE
-- An expression of its arguments and nothing else, so that it is put in place of its calls.
RETURN octet_length(task) BETWEEN 1 AND 1024 AND octet_length(queue) BETWEEN 1 AND 1024
    AND jsonb_typeof(args) = 'object' AND octet_length(args::text) <= 1048576
    AND priority BETWEEN -32768 AND 32767 AND max_attempts BETWEEN 1 AND 32767;

COMMENT ON FUNCTION pgsync.can_be_job(text, jsonb, text, integer, integer) IS
    'Internal: whether check_job would let the job pass; false or null where it would not.';

CREATE OR REPLACE FUNCTION pgsync.enqueue_numbered(
    id bigint, task text, args jsonb, queue text, priority integer, max_attempts integer,
    OUT next bigint, OUT awaited boolean
)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_variable
BEGIN
    IF id IS NULL OR pgsync.can_be_job(task, args, queue, priority, max_attempts) IS NOT TRUE THEN
        PERFORM pgsync.check_given(id, 'id');
        PERFORM pgsync.check_job(task, args, queue, priority, max_attempts, NULL);
    END IF;
    INSERT INTO pgsync.job_ready (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at)
    SELECT id, queue, task, args, priority, 0, max_attempts, moment, moment FROM pgsync.clock() AS moment;
    IF EXISTS (SELECT FROM pgsync.job_asked_again AS a WHERE a.id = enqueue_numbered.id) THEN
        RAISE object_not_in_prerequisite_state USING MESSAGE = 'the job was asked for again meanwhile';
    END IF;
    awaited := pgsync.worker_waits(queue);
    next := nextval('pgsync.job_id');
END
$$;

COMMENT ON FUNCTION pgsync.enqueue_numbered(bigint, text, jsonb, text, integer, integer) IS
    'Enqueues a job, to run at once, under an id drawn before. Returns an id for the next, and whether wake_workers is to be called when this is committed.';

CREATE OR REPLACE FUNCTION pgsync.job_due(job jsonb, moment timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE
RETURN coalesce((job ->> 6)::timestamptz, moment + (job ->> 7)::interval, moment);

COMMENT ON FUNCTION pgsync.job_due(jsonb, timestamptz) IS
    'Internal: when a job that insert_numbered_jobs is given is to run.';

CREATE OR REPLACE FUNCTION pgsync.insert_numbered_jobs(jobs jsonb) RETURNS text[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    ready integer;
    scheduled integer := 0;
BEGIN
    INSERT INTO pgsync.job_ready (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at)
    SELECT (j ->> 0)::bigint, j ->> 3, j ->> 1, j -> 2, (j ->> 4)::integer, 0, (j ->> 5)::integer, moment,
           pgsync.job_due(j, moment)
    FROM jsonb_array_elements(jobs) AS j
    WHERE pgsync.can_be_job(j ->> 1, j -> 2, j ->> 3, (j ->> 4)::integer, (j ->> 5)::integer)
      AND pgsync.job_due(j, moment) <= moment;
    GET DIAGNOSTICS ready = ROW_COUNT;
    IF ready <> jsonb_array_length(jobs) THEN
        INSERT INTO pgsync.job_scheduled (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at, state)
        SELECT (j ->> 0)::bigint, j ->> 3, j ->> 1, j -> 2, (j ->> 4)::integer, 0, (j ->> 5)::integer, moment,
               greatest(pgsync.job_due(j, moment), pgsync.clock()), 'scheduled'
        FROM jsonb_array_elements(jobs) AS j
        WHERE pgsync.can_be_job(j ->> 1, j -> 2, j ->> 3, (j ->> 4)::integer, (j ->> 5)::integer)
          AND pgsync.job_due(j, moment) > moment;
        GET DIAGNOSTICS scheduled = ROW_COUNT;
    END IF;
    IF ready + scheduled <> jsonb_array_length(jobs) THEN
        PERFORM pgsync.check_job(j ->> 1, j -> 2, j ->> 3, (j ->> 4)::integer, (j ->> 5)::integer, NULL)
        FROM jsonb_array_elements(jobs) AS j;
    END IF;
    IF EXISTS (SELECT FROM pgsync.worker AS w WHERE w.idle) THEN
        RETURN ARRAY(
            SELECT d.queue FROM (
                SELECT DISTINCT j ->> 3 FROM jsonb_array_elements(jobs) AS j
                WHERE pgsync.job_due(j, moment) <= moment) AS d (queue)
            WHERE pgsync.worker_waits(d.queue));
    END IF;
    RETURN '{}';
END
$$;

COMMENT ON FUNCTION pgsync.insert_numbered_jobs(jsonb) IS
    'Internal: adds jobs that are each [id, task, args, queue, priority, max_attempts], and [..., run_at, delay] where they wait for their time, of which one is null. Returns the queues of which workers wait.';

CREATE OR REPLACE FUNCTION pgsync.enqueue_all_numbered(jobs jsonb, OUT next bigint[], OUT awaited text[])
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    first bigint := jobs -> 0 ->> 0;
BEGIN
    awaited := pgsync.insert_numbered_jobs(jobs);
    IF EXISTS (SELECT FROM pgsync.job_asked_again AS a WHERE a.id = first) THEN
        RAISE object_not_in_prerequisite_state USING MESSAGE = 'the jobs were asked for again meanwhile';
    END IF;
    next := ARRAY(SELECT nextval('pgsync.job_id') FROM generate_series(1, jsonb_array_length(jobs)));
END
$$;

COMMENT ON FUNCTION pgsync.enqueue_all_numbered(jsonb) IS
    'Enqueues jobs under ids drawn before: each is [id, task, args, queue, priority, max_attempts], and [..., run_at, delay] where it waits for its time, of which one is null. Returns as many ids for the next, and the queues for which wake_workers is to be called when this is committed.';

CREATE OR REPLACE FUNCTION pgsync.add_numbered_jobs_again(jobs jsonb) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    first bigint := (jobs -> 0 ->> 0)::bigint;
    its_task text;
    its_args jsonb;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE feature_not_supported USING MESSAGE = 'asking again needs the isolation read committed: an older snapshot could miss the first request';
    END IF;
    PERFORM pgsync.check_given(first, 'the id of the first job');
    DELETE FROM pgsync.job_asked_again AS a WHERE a.at < moment - interval '1 day';
    -- From here on a first request that comes late adds nothing.
    INSERT INTO pgsync.job_asked_again (id, at) VALUES (first, moment) ON CONFLICT (id) DO NOTHING;
    -- One that is under way has this id in its transaction: this waits for that to end. In this order,
    -- which is that of promote_due_jobs.
    IF jsonb_array_length(jobs -> 0) > 6 THEN
        INSERT INTO pgsync.job_scheduled (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at, state)
        VALUES (first, '', '', '{}', 0, 0, 0, moment, 'infinity', 'scheduled') ON CONFLICT (id) DO NOTHING;
        IF FOUND THEN
            DELETE FROM pgsync.job_scheduled AS s WHERE s.id = first;
        END IF;
    END IF;
    INSERT INTO pgsync.job_ready (id, queue, task, args, priority, attempt, max_attempts, created_at, run_at)
    VALUES (first, '', '', '{}', 0, 0, 0, moment, moment) ON CONFLICT (id) DO NOTHING;
    IF FOUND THEN
        DELETE FROM pgsync.job_ready AS r WHERE r.id = first;
    END IF;
    SELECT j.task, j.args INTO its_task, its_args FROM pgsync.all_jobs AS j WHERE j.id = first;
    IF its_task = jobs -> 0 ->> 1 AND its_args = jobs -> 0 -> 2 THEN
        RETURN ARRAY(SELECT (j ->> 0)::bigint FROM jsonb_array_elements(jobs) AS j);
    ELSIF its_task IS NOT NULL OR (SELECT s.last_value FROM pgsync.job_id AS s) < first THEN
        -- A standby took over that had not heard of these ids, nor of jobs that had them.
        jobs := (SELECT jsonb_agg(jsonb_set(j.job, '{0}', to_jsonb(nextval('pgsync.job_id'))) ORDER BY j.number)
                 FROM jsonb_array_elements(jobs) WITH ORDINALITY AS j (job, number));
    END IF;
    PERFORM pgsync.notify_workers(q) FROM unnest(pgsync.insert_numbered_jobs(jobs)) AS q;
    RETURN ARRAY(SELECT (j ->> 0)::bigint FROM jsonb_array_elements(jobs) AS j);
END
$$;

COMMENT ON FUNCTION pgsync.add_numbered_jobs_again(jsonb) IS
    'Asks anew for what enqueue_numbered or enqueue_all_numbered was asked for on a connection that broke: adds the jobs unless they were added. Returns their ids.';

-- What the former version calls, which goes on while another is rolled out.

CREATE OR REPLACE FUNCTION pgsync.add_numbered_job(
    id bigint, task text, args jsonb, queue text, priority integer, max_attempts integer
) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pgsync.notify_workers(queue);
    RETURN (pgsync.enqueue_numbered(id, task, args, queue, priority, max_attempts)).next;
END
$$;

COMMENT ON FUNCTION pgsync.add_numbered_job(bigint, text, jsonb, text, integer, integer) IS
    'As enqueue_numbered, and wakes workers at the commit. For the former version.';

CREATE OR REPLACE FUNCTION pgsync.add_numbered_jobs(jobs jsonb) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    added record;
BEGIN
    SELECT e.next, e.awaited INTO added FROM pgsync.enqueue_all_numbered(jobs) AS e;
    PERFORM pgsync.notify_workers(q) FROM unnest(added.awaited) AS q;
    RETURN added.next;
END
$$;

COMMENT ON FUNCTION pgsync.add_numbered_jobs(jsonb) IS
    'As enqueue_all_numbered, and wakes workers at the commit. For the former version.';
