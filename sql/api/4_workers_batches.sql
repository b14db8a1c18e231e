-- Batches: jobs that are counted together, with callbacks for when all of them have ended.
--
-- Who adds jobs appends a row; who ends jobs locks the batch's row, and adds up.

CREATE OR REPLACE FUNCTION pgsync.check_batch_callback(callback jsonb, name text) RETURNS void
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF callback IS NULL THEN
        RETURN;
    ELSIF jsonb_typeof(callback) <> 'object' OR EXISTS (
        SELECT FROM jsonb_object_keys(callback) AS k
        WHERE k <> ALL ('{task,args,queue,priority,max_attempts}')) THEN
        RAISE invalid_parameter_value USING MESSAGE = format(
            '%s must be a JSON object of task, args, queue, priority and max_attempts', name);
    END IF;
    PERFORM pgsync.check_job(callback ->> 'task', coalesce(callback -> 'args', '{}'),
        coalesce(callback ->> 'queue', 'default'), coalesce((callback ->> 'priority')::integer, 0),
        coalesce((callback ->> 'max_attempts')::integer, 5), NULL);
END
$$;

COMMENT ON FUNCTION pgsync.check_batch_callback(jsonb, text) IS
    'Internal: raises invalid_parameter_value for a callback that is no job.';

CREATE OR REPLACE FUNCTION pgsync.new_batch(
    name text, on_end jsonb DEFAULT NULL, on_completed jsonb DEFAULT NULL
) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    batch bigint;
BEGIN
    PERFORM pgsync.check_name(name, 'name');
    PERFORM pgsync.check_batch_callback(on_end, 'on_end');
    PERFORM pgsync.check_batch_callback(on_completed, 'on_completed');
    INSERT INTO pgsync.job_batch AS b (name, created_at, on_end, on_completed)
    VALUES (new_batch.name, pgsync.clock(), new_batch.on_end, new_batch.on_completed)
    RETURNING b.id INTO batch;
    RETURN batch;
END
$$;

COMMENT ON FUNCTION pgsync.new_batch(text, jsonb, jsonb) IS
    'Makes a batch and returns its id: enqueue jobs with batch => id, then seal_batch(id). on_end is the job to enqueue when all have ended, on_completed that for when all have completed: {"task": ..., "args": {...}, "queue": ..., "priority": ..., "max_attempts": ...}.';

CREATE OR REPLACE FUNCTION pgsync.add_to_batch(batch bigint, jobs integer) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    its_state text;
BEGIN
    -- Not locked: the caller's transaction may last, and jobs of the batch must end meanwhile.
    SELECT b.state INTO its_state FROM pgsync.job_batch AS b WHERE b.id = add_to_batch.batch;
    IF its_state IS NULL OR its_state = 'ended' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('batch %s %s', batch, CASE its_state WHEN 'ended' THEN 'has ended' ELSE 'does not exist' END),
            HINT = 'Add jobs before it is sealed, or from its own jobs while they run.';
    END IF;
    INSERT INTO pgsync.job_batch_added (batch, jobs) VALUES (add_to_batch.batch, add_to_batch.jobs);
END
$$;

COMMENT ON FUNCTION pgsync.add_to_batch(bigint, integer) IS
    'Internal: counts jobs that are enqueued into a batch.';

CREATE OR REPLACE FUNCTION pgsync.count_ended(batches bigint[], states text[]) RETURNS void
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
BEGIN
    PERFORM FROM pgsync.job_batch AS b WHERE b.id = ANY (batches) ORDER BY b.id FOR NO KEY UPDATE;
    UPDATE pgsync.job_batch AS b
    SET completed = b.completed + e.completed, discarded = b.discarded + e.discarded,
        cancelled = b.cancelled + e.cancelled
    FROM (SELECT i.batch, count(*) FILTER (WHERE i.state = 'completed') AS completed,
                 count(*) FILTER (WHERE i.state = 'discarded') AS discarded,
                 count(*) FILTER (WHERE i.state = 'cancelled') AS cancelled
          FROM unnest(batches, states) AS i (batch, state) GROUP BY i.batch) AS e
    WHERE b.id = e.batch;
    PERFORM pgsync.end_batches(batches);
END
$$;

COMMENT ON FUNCTION pgsync.count_ended(bigint[], text[]) IS
    'Internal: counts jobs that have ended in their batches, one element a job, and ends the batches whose last they were.';

CREATE OR REPLACE FUNCTION pgsync.end_batches(batches bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    ended pgsync.job_batch;
    callback jsonb;
    job bigint;
BEGIN
    -- A statement after the lock: it sees what the jobs counted so far have added.
    WITH added AS (
        DELETE FROM pgsync.job_batch_added AS a WHERE a.batch = ANY (batches) RETURNING a.batch, a.jobs
    )
    UPDATE pgsync.job_batch AS b SET total = b.total + a.jobs
    FROM (SELECT i.batch, sum(i.jobs) AS jobs FROM added AS i GROUP BY i.batch) AS a
    WHERE b.id = a.batch;
    FOR ended IN
        UPDATE pgsync.job_batch AS b SET state = 'ended', ended_at = pgsync.clock()
        WHERE b.id = ANY (batches) AND b.state = 'running'
          AND b.completed + b.discarded + b.cancelled >= b.total
        RETURNING b.*
    LOOP
        FOREACH callback IN ARRAY ARRAY[
            CASE WHEN ended.completed = ended.total THEN ended.on_completed END, ended.on_end]
        LOOP
            CONTINUE WHEN callback IS NULL;
            SELECT j.id INTO job FROM pgsync.add_job(callback ->> 'task', coalesce(callback -> 'args', '{}'),
                coalesce(callback ->> 'queue', 'default'), coalesce((callback ->> 'priority')::integer, 0),
                max_attempts => coalesce((callback ->> 'max_attempts')::integer, 5)) AS j;
            UPDATE pgsync.job_batch AS b SET callbacks = b.callbacks || job WHERE b.id = ended.id;
        END LOOP;
    END LOOP;
END
$$;

COMMENT ON FUNCTION pgsync.end_batches(bigint[]) IS
    'Internal: ends those batches, whose rows are locked, that have no unfinished jobs, and enqueues their callbacks.';

CREATE OR REPLACE FUNCTION pgsync.seal_batch(batch bigint) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    its_state text;
BEGIN
    UPDATE pgsync.job_batch AS b SET state = 'running' WHERE b.id = seal_batch.batch AND b.state = 'filling';
    IF FOUND THEN
        PERFORM pgsync.end_batches(ARRAY[batch]);
    END IF;
    SELECT b.state INTO its_state FROM pgsync.job_batch AS b WHERE b.id = seal_batch.batch;
    RETURN its_state;
END
$$;

COMMENT ON FUNCTION pgsync.seal_batch(bigint) IS
    'Says that all jobs of a batch are there, but for those that its own jobs add: it ends when all have ended, or at once. Returns its state, null where there is no such batch.';

CREATE OR REPLACE FUNCTION pgsync.batch_retried(batch bigint, state text) RETURNS void
LANGUAGE sql VOLATILE AS $$
    UPDATE pgsync.job_batch AS b
    SET discarded = b.discarded - (batch_retried.state = 'discarded')::integer,
        cancelled = b.cancelled - (batch_retried.state = 'cancelled')::integer
    WHERE b.id = batch_retried.batch;
$$;

COMMENT ON FUNCTION pgsync.batch_retried(bigint, text) IS
    'Internal: a job of a batch that had ended is to run again. A batch that has ended stays so.';

CREATE OR REPLACE FUNCTION pgsync.prune_batches(retention interval DEFAULT '7 days') RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    pruned integer;
BEGIN
    DELETE FROM pgsync.job_batch AS b WHERE b.ended_at < pgsync.clock() - retention;
    GET DIAGNOSTICS pruned = ROW_COUNT;
    RETURN pruned;
END
$$;

COMMENT ON FUNCTION pgsync.prune_batches(interval) IS
    'Forgets batches that ended before retention, and says how many.';

CREATE OR REPLACE VIEW pgsync.job_batches AS
SELECT t.id, t.name, t.state, t.total, t.completed, t.discarded, t.cancelled,
       t.total - t.completed - t.discarded - t.cancelled AS unfinished,
       CASE t.total WHEN 0 THEN 1 ELSE round((t.completed + t.discarded + t.cancelled)::numeric / t.total, 4) END AS progress,
       t.created_at, t.ended_at, t.callbacks
FROM (
    SELECT b.id, b.name, b.state, b.completed, b.discarded, b.cancelled, b.created_at, b.ended_at, b.callbacks,
           b.total + coalesce((
               SELECT sum(a.jobs) FROM pgsync.job_batch_added AS a WHERE a.batch = b.id), 0)::integer AS total
    FROM pgsync.job_batch AS b
) AS t;

COMMENT ON VIEW pgsync.job_batches IS
    'Batches, with how many of their jobs have ended and how; progress is from 0 to 1.';
