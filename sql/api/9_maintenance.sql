-- The maintenance: which duties there are, how one is done, and what came of it.
--
-- A duty is one function that answers with how much it did. To add one, add a line to the table
-- below. Each run is a transaction of its own, under the duty's own advisory lock, so that a duty is
-- never done twice at once, by whomever: daemons, or CALL pgsync.do_duties(...) from psql or cron.

CREATE OR REPLACE FUNCTION pgsync.duties()
RETURNS TABLE (duty text, lane text, every interval, again interval, statement text)
LANGUAGE sql IMMUTABLE AS $$
    VALUES
    -- Lane quick: jobs wait for these, so nothing slow may stand before them.
    ('rescue jobs of dead workers', 'quick', interval '0.5 s', NULL::interval, 'SELECT pgsync.rescue_jobs()'),
    ('promote due jobs', 'quick', interval '0.5 s', NULL, 'SELECT pgsync.promote_due_jobs()'),
    ('resume waiting jobs', 'quick', interval '0.5 s', NULL, 'SELECT pgsync.resume_waiting_jobs()'),
    ('look again at dependencies', 'quick', interval '0.5 s', NULL, 'SELECT pgsync.settle_dependencies()'),
    ('wake workers of limited queues', 'quick', interval '0.5 s', NULL, 'SELECT pgsync.wake_queues()'),
    ('keep floors', 'quick', interval '0.5 s', interval '0.1 s', 'SELECT pgsync.advance_floors()'),
    ('end holders past their deadline', 'quick', interval '1 s', NULL, 'SELECT pgsync.reap_locks()'),
    -- Lane slow: the others.
    ('remove ended windows', 'slow', interval '10 s', interval '0.1 s', 'SELECT pgsync.prune_rate_limits()'),
    ('remove ended windows of the library limits', 'slow', interval '10 s', interval '0.1 s',
     'SELECT pgsync.prune_limits_storage()'),
    ('count throughput', 'slow', interval '20 s', NULL, 'SELECT pgsync.count_throughput()'),
    ('note contention of locks', 'slow', interval '5 s', NULL, 'SELECT pgsync.note_lock_contention()'),
    ('snapshot queues', 'slow', interval '1 min', NULL, 'SELECT pgsync.snapshot_queues()'),
    ('check all dependencies', 'slow', interval '1 min', NULL, 'SELECT pgsync.settle_dependencies(true)'),
    ('remove wrong floors', 'slow', interval '1 min', NULL, 'SELECT pgsync.check_floors()'),
    ('forget idle keys', 'slow', interval '1 min', NULL, 'SELECT pgsync.prune_keys()'),
    ('drop old history', 'slow', interval '1 min', NULL, 'SELECT pgsync.prune_history()'),
    ('give up lost runs', 'slow', interval '10 s', NULL, 'SELECT pgsync.abandon_operations()'),
    ('forget old runs', 'slow', interval '1 min', NULL, 'SELECT pgsync.prune_operations()'),
    ('forget old fires', 'slow', interval '5 min', NULL, 'SELECT pgsync.prune_schedule_fires()'),
    ('prepare history', 'slow', interval '10 min', NULL, 'SELECT pgsync.prepare_history()'),
    ('forget old statistics', 'slow', interval '10 min', NULL, 'SELECT pgsync.prune_statistics()'),
    ('forget old batches', 'slow', interval '1 h', NULL, 'SELECT pgsync.prune_batches()'),
    ('forget old notes of jobs', 'slow', interval '10 min', interval '1 s', 'SELECT pgsync.prune_notes()'),
    ('forget untold discards', 'slow', interval '1 h', NULL, 'SELECT pgsync.prune_discards()'),
    ('forget unique keys', 'slow', interval '1 h', NULL, 'SELECT pgsync.prune_unique_keys()'),
    ('delete old jobs', 'slow', interval '1 h', NULL, 'SELECT pgsync.prune_queue_history()'),
    ('forget old fences', 'slow', interval '1 h', NULL, 'SELECT pgsync.prune_fences()'),
    ('forget old audit entries', 'slow', interval '1 h', NULL, 'SELECT pgsync.prune_audit()')
$$;

COMMENT ON FUNCTION pgsync.duties() IS
    'The duties of the maintenance: the lane that does each (jobs wait for the quick ones), how often, how soon again while it answers with more than 0, and its statement.';

DROP FUNCTION IF EXISTS pgsync.lead_maintenance();

CREATE OR REPLACE FUNCTION pgsync.lead_maintenance(lane text DEFAULT 'quick') RETURNS boolean
LANGUAGE sql VOLATILE AS $$
    SELECT pg_try_advisory_lock(pgsync.lock_key(
        CASE lane WHEN 'quick' THEN 'pgsync.maintenance' ELSE 'pgsync.maintenance:' || lane END))
$$;

COMMENT ON FUNCTION pgsync.lead_maintenance(text) IS
    'Makes this session the one that does a lane''s duties, until it ends; false where another is. Ask once a session until it says true.';

CREATE OR REPLACE FUNCTION pgsync.record_duty(
    duty text, by text, began timestamptz, duration interval, rows bigint, error text DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_variable
DECLARE
    did bigint := coalesce(rows, 0);
BEGIN
    PERFORM pgsync.check_name(duty, 'duty');
    PERFORM pgsync.check_given(began, 'began');
    PERFORM pgsync.check_given(duration, 'duration');
    INSERT INTO pgsync.duty_run AS d
        (duty, last_run_at, duration, rows, outcome, error, by, done_at, failed_at, done_total, failures)
    VALUES (duty, began, duration, did, CASE WHEN error IS NULL THEN 'done' ELSE 'failed' END, error, coalesce(by, session_user),
            CASE WHEN did > 0 THEN began END, CASE WHEN error IS NOT NULL THEN began END, did,
            (error IS NOT NULL)::integer)
    ON CONFLICT ON CONSTRAINT duty_run_pkey DO UPDATE
    SET last_run_at = excluded.last_run_at, duration = excluded.duration, rows = excluded.rows,
        outcome = excluded.outcome, error = coalesce(excluded.error, d.error), by = excluded.by,
        done_at = coalesce(excluded.done_at, d.done_at), failed_at = coalesce(excluded.failed_at, d.failed_at),
        done_total = d.done_total + excluded.done_total, failures = d.failures + excluded.failures;
END
$$;

COMMENT ON FUNCTION pgsync.record_duty(text, text, timestamptz, interval, bigint, text) IS
    'Notes a run of a duty: when it began, how long it took, how much it did, and why it failed.';

CREATE OR REPLACE FUNCTION pgsync.do_duty(duty text) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pgsync, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    wanted text := (SELECT d.statement FROM pgsync.duties() AS d WHERE d.duty = do_duty.duty AND d.lane = 'slow');
    did bigint;
BEGIN
    IF wanted IS NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = format('there is no duty %L in the lane slow', duty),
            HINT = 'They are in pgsync.duties().';
    END IF;
    EXECUTE wanted INTO did;
    RETURN did;
END
$$;

REVOKE ALL ON FUNCTION pgsync.do_duty(text) FROM PUBLIC;

COMMENT ON FUNCTION pgsync.do_duty(text) IS
    'Does a duty of the lane slow as the owner of the schema, since only an owner may make and drop partitions, and how much is kept is not for a worker to say. For do_duties.';

CREATE OR REPLACE PROCEDURE pgsync.do_duties(duties text[], by text DEFAULT session_user, INOUT done jsonb DEFAULT NULL)
LANGUAGE plpgsql AS $$
DECLARE
    name text;
    wanted record;
    began timestamptz;
    did bigint;
    failure text;
BEGIN
    done := '{}';
    FOREACH name IN ARRAY duties LOOP
        SELECT d.* INTO wanted FROM pgsync.duties() AS d WHERE d.duty = name;
        IF NOT FOUND THEN
            RAISE invalid_parameter_value USING MESSAGE = format('there is no duty %L', name),
                HINT = 'They are in pgsync.maintenance.';
        END IF;
        -- Frees the lock at the end of the transaction, which is this duty's alone.
        CONTINUE WHEN NOT pg_try_advisory_xact_lock(pgsync.lock_key('pgsync.duty:' || name));
        began := pgsync.clock();
        did := NULL;
        failure := NULL;
        BEGIN
            -- To count, one must see when others' transactions began: the owner may see less than a
            -- worker, whose transactions most of them are.
            IF wanted.lane = 'slow' AND name <> 'count throughput' AND has_function_privilege('pgsync.do_duty(text)', 'EXECUTE')
            THEN
                did := pgsync.do_duty(name);
            ELSE
                EXECUTE wanted.statement INTO did;
            END IF;
        EXCEPTION WHEN OTHERS THEN
            failure := format('%s (%s)', SQLERRM, SQLSTATE);
        END;
        -- One that found nothing to do is noted once a minute.
        IF did > 0 AND wanted.again IS NULL OR failure IS NOT NULL OR NOT EXISTS (
            SELECT FROM pgsync.duty_run AS r WHERE r.duty = name AND r.last_run_at > began - interval '1 minute')
        THEN
            PERFORM pgsync.record_duty(name, by, began, pgsync.clock() - began, did, failure);
        END IF;
        IF did > 0 OR failure IS NOT NULL THEN
            done := done || jsonb_build_object(name, coalesce(to_jsonb(failure), to_jsonb(did)));
        END IF;
        COMMIT;
    END LOOP;
END
$$;

COMMENT ON PROCEDURE pgsync.do_duties(text[], text, jsonb) IS
    'Does these duties one after the other, each in a transaction of its own; one that another does just now is passed over, and one that fails does not stop the next. Returns an object: of each that did something how much, of each that failed why. Not inside a transaction.';

CREATE OR REPLACE VIEW pgsync.maintenance AS
SELECT d.duty, coalesce(r.outcome, 'never run') AS outcome, r.last_run_at, r.duration, r.rows, r.error, r.by,
       r.done_at, r.done_total, r.failed_at, coalesce(r.failures, 0) AS failures, d.every, d.lane
FROM (SELECT c.duty, c.every, c.lane FROM pgsync.duties() AS c
      UNION ALL SELECT 'fire schedules', NULL, 'scheduler') AS d
LEFT JOIN pgsync.duty_run AS r ON r.duty = d.duty;

COMMENT ON VIEW pgsync.maintenance IS
    'Each duty of the maintenance: its last run, how long that took and how much it did, by whose daemon; when it last found something to do, and when and why it last failed. Runs that found nothing are noted once a minute.';
