-- Operations: the record of what ran under which lock, and of what was refused.

CREATE OR REPLACE FUNCTION pgsync.tell_operation(run bigint, state text) RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT pg_notify('pgsync_operations', jsonb_build_object('run', r.id, 'operation', left(r.operation, 200),
                                                             'key', left(r.key, 1000), 'state', state)::text)
    FROM pgsync.operation_run AS r WHERE r.id = run
$$;

COMMENT ON FUNCTION pgsync.tell_operation(bigint, text) IS
    'Internal: tells those who LISTEN to pgsync_operations how a run failed, as JSON: run, operation, key, state.';

CREATE OR REPLACE FUNCTION pgsync.begin_operation(
    operation text, key text, args jsonb, actor text, job_id bigint, lock_name text, lock_token bigint
) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    run bigint;
BEGIN
    PERFORM pgsync.check_name(operation, 'operation');
    PERFORM pgsync.check_name(key, 'operation key');
    -- This run has the lock, so an earlier one that still says running has lost its process.
    WITH lost AS (
        UPDATE pgsync.operation_run AS r
        SET state = 'abandoned', finished_at = moment, error = 'its process ended without a word'
        WHERE r.operation = begin_operation.operation AND r.key = begin_operation.key
          AND r.state = 'running' AND begin_operation.lock_token IS NOT NULL
        RETURNING r.id
    ), noted AS (
        INSERT INTO pgsync.operation_event_log (run_id, at, event)
        SELECT l.id, moment, 'abandoned' FROM lost AS l
    )
    SELECT count(*) INTO run FROM lost AS l CROSS JOIN LATERAL pgsync.tell_operation(l.id, 'abandoned') AS told;

    INSERT INTO pgsync.operation_run AS r
        (operation, key, args, state, actor, job_id, lock_name, lock_token, requested_at)
    VALUES (begin_operation.operation, begin_operation.key, coalesce(begin_operation.args, '{}'), 'running',
            coalesce(begin_operation.actor, session_user), begin_operation.job_id, begin_operation.lock_name,
            begin_operation.lock_token, moment)
    RETURNING r.id INTO run;
    INSERT INTO pgsync.operation_event_log (run_id, at, event) VALUES (run, moment, 'running');
    RETURN run;
END
$$;

COMMENT ON FUNCTION pgsync.begin_operation(text, text, jsonb, text, bigint, text, bigint) IS
    'Records that an operation runs, and returns the run''s number. Earlier runs of the key that never ended become abandoned.';

CREATE OR REPLACE FUNCTION pgsync.refuse_operation(
    operation text, key text, args jsonb, actor text, job_id bigint, lock_name text,
    state text, message text, blocked_by text
) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_variable
DECLARE
    moment timestamptz := pgsync.clock();
    run bigint;
BEGIN
    PERFORM pgsync.check_name(operation, 'operation');
    PERFORM pgsync.check_name(key, 'operation key');
    IF state IS NULL OR state NOT IN ('blocked', 'released', 'limited') THEN
        RAISE invalid_parameter_value USING MESSAGE = format(
            'a run that did not begin is blocked, released or limited, not %s', coalesce(state, 'null'));
    END IF;
    INSERT INTO pgsync.operation_run AS r
        (operation, key, args, state, actor, job_id, lock_name, requested_at, finished_at, error, blocked_by)
    VALUES (operation, key, coalesce(args, '{}'), state, coalesce(actor, session_user), job_id, lock_name,
            moment, moment, message, blocked_by)
    RETURNING r.id INTO run;
    INSERT INTO pgsync.operation_event_log (run_id, at, event, detail)
    VALUES (run, moment, state,
            jsonb_strip_nulls(jsonb_build_object('message', message, 'blocked_by', blocked_by)));
    RETURN run;
END
$$;

COMMENT ON FUNCTION pgsync.refuse_operation(text, text, jsonb, text, bigint, text, text, text, text) IS
    'Records that an operation did not run: blocked or released (its lock is held) or limited.';

CREATE OR REPLACE FUNCTION pgsync.operation_progress(
    run bigint, done bigint, total bigint DEFAULT NULL
) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE pgsync.operation_run AS r
    SET done = operation_progress.done, total = coalesce(operation_progress.total, r.total)
    WHERE r.id = run AND r.state = 'running';
    RETURN FOUND;
END
$$;

COMMENT ON FUNCTION pgsync.operation_progress(bigint, bigint, bigint) IS
    'Says how far a run has come; false where it runs no more.';

CREATE OR REPLACE FUNCTION pgsync.note_operation(run bigint, event text, detail jsonb DEFAULT '{}')
RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    noted bigint;
BEGIN
    PERFORM pgsync.check_name(event, 'event');
    IF NOT EXISTS (SELECT FROM pgsync.operation_run AS r WHERE r.id = run) THEN
        RAISE invalid_parameter_value USING MESSAGE = format('there is no operation run %s',
            coalesce(run::text, 'null'));
    END IF;
    INSERT INTO pgsync.operation_event_log (run_id, at, event, detail)
    VALUES (run, pgsync.clock(), note_operation.event, coalesce(note_operation.detail, '{}'))
    RETURNING id INTO noted;
    RETURN noted;
END
$$;

COMMENT ON FUNCTION pgsync.note_operation(bigint, text, jsonb) IS 'Adds an event to a run''s history.';

CREATE OR REPLACE FUNCTION pgsync.finish_operation(
    run bigint, state text, outcome jsonb DEFAULT NULL, error text DEFAULT NULL
) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
BEGIN
    IF state IS NULL OR state NOT IN ('completed', 'failed', 'cancelled', 'released', 'limited') THEN
        RAISE invalid_parameter_value USING MESSAGE = format(
            'a run ends completed, failed, cancelled, released or limited, not %s', coalesce(state, 'null'));
    END IF;
    UPDATE pgsync.operation_run AS r
    SET state = finish_operation.state, finished_at = moment,
        outcome = finish_operation.outcome, error = finish_operation.error
    WHERE r.id = run AND r.state = 'running';
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO pgsync.operation_event_log (run_id, at, event, detail)
    VALUES (run, moment, state, jsonb_strip_nulls(jsonb_build_object('error', error)));
    IF state = 'failed' THEN
        PERFORM pgsync.tell_operation(run, state);
    END IF;
    RETURN true;
END
$$;

COMMENT ON FUNCTION pgsync.finish_operation(bigint, text, jsonb, text) IS
    'Ends a run as completed, failed, cancelled, limited or released; false where it had ended (abandoned). That it failed is told on the channel pgsync_operations.';

CREATE OR REPLACE FUNCTION pgsync.abandon_operations() RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    given_up bigint[];
BEGIN
    -- The lock is taken before a run begins and freed after it has ended.
    WITH lost AS (
        UPDATE pgsync.operation_run AS r
        SET state = 'abandoned', finished_at = pgsync.clock(), error = 'its process ended without a word'
        WHERE r.state = 'running' AND r.lock_token IS NOT NULL
          AND r.lock_token NOT IN (SELECT l.token FROM pgsync.locks AS l)
        RETURNING r.id
    )
    SELECT coalesce(array_agg(l.id), '{}') INTO given_up FROM lost AS l;
    INSERT INTO pgsync.operation_event_log (run_id, at, event)
    SELECT l.id, pgsync.clock(), 'abandoned' FROM unnest(given_up) AS l (id);
    PERFORM pgsync.tell_operation(l.id, 'abandoned') FROM unnest(given_up) AS l (id);
    RETURN cardinality(given_up);
END
$$;

COMMENT ON FUNCTION pgsync.abandon_operations() IS
    'Marks runs as abandoned that nobody holds the lock for any more, since their process died or lost it, and says how many. Told on the channel pgsync_operations.';

CREATE OR REPLACE FUNCTION pgsync.cancel_operation(run bigint, by text DEFAULT session_user) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    wanted record;
    answer text;
BEGIN
    SELECT r.operation, r.key, r.job_id INTO wanted FROM pgsync.operation_run AS r
    WHERE r.id = run AND r.state IN ('running', 'released', 'limited') AND r.job_id IS NOT NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    answer := pgsync.cancel_job(wanted.job_id, 'cancelled by ' || by);
    IF answer IS NOT NULL THEN
        PERFORM pgsync.note_operation(run, 'cancel_requested', jsonb_build_object('by', by));
        PERFORM pgsync.record_audit('operation.cancelled', run::text, by,
                                    jsonb_build_object('operation', wanted.operation, 'key', wanted.key, 'job', wanted.job_id));
    END IF;
    RETURN answer;
END
$$;

COMMENT ON FUNCTION pgsync.cancel_operation(bigint, text) IS
    'Cancels the job of a run, which notes by whom: running (it was asked to stop), cancelled (its job waited); null where the run has ended, or has no job.';

CREATE OR REPLACE FUNCTION pgsync.restart_operation(run bigint, by text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    former pgsync.operation_run;
    example record;
    job bigint;
BEGIN
    SELECT r.* INTO former FROM pgsync.operation_run AS r WHERE r.id = restart_operation.run;
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF former.state = 'running' THEN
        RAISE invalid_parameter_value USING MESSAGE = format('run %s of %s goes on', run, former.key);
    END IF;
    -- How it is queued is declared in code; a job of it knows.
    SELECT j.queue, j.priority, j.max_attempts, j.lock_name IS NOT NULL AS waits_for_lock,
           -- Whose turn it takes follows from the arguments: those of another key are another's.
           CASE WHEN r.key = former.key THEN j.key END AS key,
           CASE WHEN r.key = former.key THEN j.tenant END AS tenant,
           (SELECT f.key_limit FROM pgsync.job_finished AS f WHERE f.id = j.id AND r.key = former.key) AS key_limit
    INTO example
    FROM (SELECT r.job_id, r.key FROM pgsync.operation_run AS r
          WHERE r.operation = former.operation AND r.job_id IS NOT NULL
          ORDER BY r.id = former.id DESC, r.key = former.key DESC, r.id DESC LIMIT 10) AS r
    JOIN pgsync.all_jobs AS j ON j.id = r.job_id AND j.task = former.operation
    ORDER BY j.id DESC LIMIT 1;
    IF NOT FOUND THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('no job of operation %s is known that this could be queued like', former.operation),
            HINT = 'It was called directly: call it again in the app, or enqueue it there once.';
    END IF;
    job := pgsync.enqueue(former.operation,
        -- The header under which an operation's job carries who had it enqueued.
        former.args || CASE WHEN by IS NULL THEN '{}'
            ELSE jsonb_build_object('pgsync:trace', jsonb_build_object('pgsync-actor', by)) END,
        example.queue, example.priority, max_attempts => example.max_attempts, key => example.key,
        key_limit => example.key_limit, tenant => example.tenant,
        lock_name => CASE WHEN example.waits_for_lock THEN former.key END);
    PERFORM pgsync.record_audit('operation.restarted', former.key, by,
        jsonb_build_object('operation', former.operation, 'run', run, 'job', job));
    RETURN job;
END
$$;

COMMENT ON FUNCTION pgsync.restart_operation(bigint, text) IS
    'Enqueues an operation once more with the arguments of an ended run, as its last jobs were, on behalf of by, and returns the job; null where there is no such run. Raises where the run goes on, or where the operation was never queued. Audited.';

CREATE OR REPLACE FUNCTION pgsync.prune_operations(retention interval DEFAULT '30 days', batch integer DEFAULT 1000)
RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    removed integer;
BEGIN
    DELETE FROM pgsync.operation_run WHERE id = ANY (ARRAY(
        SELECT r.id FROM pgsync.operation_run AS r
        WHERE r.requested_at < pgsync.clock() - retention AND r.state <> 'running'
        ORDER BY r.requested_at LIMIT batch FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END
$$;

COMMENT ON FUNCTION pgsync.prune_operations(interval, integer) IS
    'Removes up to batch ended runs older than retention, with their events, and says how many.';

CREATE OR REPLACE VIEW pgsync.operations AS
SELECT r.id, r.operation, r.key, r.state, r.actor, r.requested_at, r.finished_at,
       coalesce(r.finished_at, pgsync.clock()) - r.requested_at AS duration,
       r.done, r.total, r.outcome, r.error, r.blocked_by, r.job_id, r.lock_name, r.lock_token, r.args
FROM pgsync.operation_run AS r;

COMMENT ON VIEW pgsync.operations IS 'Runs of operations, refused ones too.';

CREATE OR REPLACE VIEW pgsync.operation_events AS
SELECT e.id, e.run_id, r.operation, r.key, e.at, e.event, e.detail
FROM pgsync.operation_event_log AS e
JOIN pgsync.operation_run AS r ON r.id = e.run_id;

COMMENT ON VIEW pgsync.operation_events IS 'What happened in each run, in order.';

CREATE OR REPLACE FUNCTION pgsync.operation_status(operation text, key text)
RETURNS SETOF pgsync.operations
LANGUAGE sql STABLE AS $$
    -- The run that is going on, else the last that ran; refused tries count only where nothing ran.
    -- Each is the first entry of an index.
    SELECT o.* FROM pgsync.operations AS o
    WHERE o.id = coalesce(
        (SELECT r.id FROM pgsync.operation_run AS r
         WHERE r.operation = operation_status.operation AND r.key = operation_status.key AND r.state = 'running'
         ORDER BY r.id DESC LIMIT 1),
        (SELECT r.id FROM pgsync.operation_run AS r
         WHERE r.operation = operation_status.operation AND r.key = operation_status.key
           AND r.state NOT IN ('blocked', 'released', 'limited')
         ORDER BY r.operation, r.key, r.id DESC LIMIT 1),
        (SELECT r.id FROM pgsync.operation_run AS r
         WHERE r.operation = operation_status.operation AND r.key = operation_status.key
         ORDER BY r.operation, r.key, r.id DESC LIMIT 1))
$$;

COMMENT ON FUNCTION pgsync.operation_status(text, text) IS
    'The state of an operation on a key, for an indicator: its current run, or else its last.';
