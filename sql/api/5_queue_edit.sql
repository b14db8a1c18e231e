-- Jobs that people add and change by hand. Each leaves an entry in the audit trail, in its own transaction.

CREATE OR REPLACE FUNCTION pgsync.lock_waiting_job(
    job bigint,
    OUT id bigint, OUT queue text, OUT task text, OUT args jsonb, OUT state text, OUT priority smallint,
    OUT max_attempts smallint, OUT run_at timestamptz
)
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
BEGIN
    LOOP
        -- A claim passes over a row that is locked, and one that has taken it already is waited for.
        PERFORM FROM pgsync.job_ready AS r WHERE r.id = job FOR UPDATE;
        IF NOT FOUND THEN
            PERFORM FROM pgsync.job_scheduled AS s WHERE s.id = job FOR UPDATE;
        END IF;
        IF NOT FOUND THEN
            PERFORM FROM pgsync.job_waiting AS w WHERE w.id = job FOR UPDATE;
        END IF;
        EXIT WHEN FOUND;
        -- A job that moves between tables just now may be missed in all: look again.
        PERFORM FROM pgsync.jobs AS j WHERE j.id = job AND j.state <> 'running';
        IF NOT FOUND THEN
            RETURN;
        END IF;
    END LOOP;
    SELECT j.id, j.queue, j.task, j.args, j.state, j.priority, j.max_attempts, j.run_at
    INTO id, queue, task, args, state, priority, max_attempts, run_at FROM pgsync.jobs AS j WHERE j.id = job;
END
$$;

COMMENT ON FUNCTION pgsync.lock_waiting_job(bigint) IS
    'Internal: a job that waits, locked until the transaction ends; null where it runs, has ended or is unknown.';

CREATE OR REPLACE FUNCTION pgsync.edit_job(
    id bigint,
    args jsonb DEFAULT NULL,
    priority integer DEFAULT NULL,
    run_at timestamptz DEFAULT NULL,
    by text DEFAULT NULL,
    was jsonb DEFAULT NULL,
    OUT edited boolean,
    OUT state text
)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    job record;
    fields text[];
BEGIN
    SELECT l.* INTO job FROM pgsync.lock_waiting_job(edit_job.id) AS l;
    edited := false;
    IF job.id IS NULL THEN
        SELECT j.state INTO state FROM pgsync.all_jobs AS j WHERE j.id = edit_job.id;
        RETURN;
    END IF;
    state := job.state;
    IF job.args <> was THEN
        RETURN;
    END IF;
    args := nullif(args, job.args);
    priority := nullif(priority, job.priority);
    run_at := nullif(run_at, job.run_at);
    PERFORM pgsync.check_job(job.task, coalesce(args, job.args), job.queue, coalesce(priority, job.priority),
        job.max_attempts, NULL);
    IF args IS NOT NULL AND job.args ? 'pgsync:sealed' THEN
        RAISE invalid_parameter_value USING MESSAGE = format('the arguments of job %s are encrypted, and cannot be edited', job.id);
    ELSIF run_at IS NOT NULL AND job.state = 'waiting' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('job %s waits for other jobs, its key or its lock, not for a time', job.id);
    END IF;
    fields := array_remove(ARRAY[
        CASE WHEN args IS NOT NULL THEN 'args' END, CASE WHEN priority IS NOT NULL THEN 'priority' END,
        CASE WHEN run_at IS NOT NULL THEN 'run_at' END], NULL);
    IF fields = '{}' THEN
        RETURN;
    END IF;
    edited := pgsync.replace_job(job.id, fields, args, run_at, priority, NULL);
    SELECT j.state INTO state FROM pgsync.jobs AS j WHERE j.id = edit_job.id;
    -- Of arguments the names alone: what is secret in them must not stay here.
    PERFORM pgsync.record_audit('job.edited', format('job %s', job.id), by, jsonb_build_object(
        'args', (SELECT jsonb_agg(DISTINCT k.name)
                 FROM jsonb_each(job.args) AS o (name, value) FULL JOIN jsonb_each(args) AS n (name, value) USING (name)
                 CROSS JOIN LATERAL (SELECT coalesce(o.name, n.name) AS name) AS k
                 WHERE args IS NOT NULL AND o.value IS DISTINCT FROM n.value),
        'priority', CASE WHEN priority IS NOT NULL THEN jsonb_build_array(job.priority, priority) END,
        'run_at', CASE WHEN run_at IS NOT NULL THEN jsonb_build_array(job.run_at, run_at) END));
END
$$;

COMMENT ON FUNCTION pgsync.edit_job(bigint, jsonb, integer, timestamptz, text, jsonb) IS
    'Gives a job that waits other arguments, another priority or due time (null: as they are); with was, only where its arguments are those still. One row: whether it was changed, and the state it is in. One that runs or has ended is left alone. Its keys, tenant, lock and unique key stay as they are. Audited.';

CREATE OR REPLACE FUNCTION pgsync.enqueue_by(
    by text,
    task text,
    args jsonb DEFAULT '{}',
    queue text DEFAULT 'default',
    priority integer DEFAULT 0,
    run_at timestamptz DEFAULT NULL,
    max_attempts integer DEFAULT 5
) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    job bigint := pgsync.enqueue(task, args, queue, priority, run_at, NULL, max_attempts);
BEGIN
    PERFORM pgsync.record_audit('job.enqueued', format('job %s', job), by,
        jsonb_build_object('task', task, 'queue', queue));
    RETURN job;
END
$$;

COMMENT ON FUNCTION pgsync.enqueue_by(text, text, jsonb, text, integer, timestamptz, integer) IS
    'Enqueues a job for somebody who does so by hand, and returns its id. Audited.';
