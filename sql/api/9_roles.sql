-- Who may do what: three group roles, and the rights of each.
--
-- pgsync_reader looks, pgsync_worker works (apps, workers, daemons), pgsync_admin operates; each may
-- what the one before may. They are of use only once pgsync.create_roles() or grant_roles() has been
-- called in a database, and from then on each migration grants anew what is missing. What is in no
-- list here nobody may but the owner. Why so: docs/decisions/0021-rights-of-three-roles.md.

CREATE OR REPLACE FUNCTION pgsync.function_roles() RETURNS TABLE (function text, role text)
LANGUAGE sql IMMUTABLE AS $$
    SELECT f.name, r.role FROM (VALUES
    -- Functions that change nothing, and those that they and the views call.
    ('pgsync_reader', '
        awaited_jobs worker_key
        check_count check_duration check_given check_name clock
        check_job_filter find_jobs live_workers queue_fullness say_time
        why_ended why_key_waits why_lock_waits why_not_running why_ready why_running
        check_limits judge_limits limit_opens_at limit_resets_at limit_rolled limit_room
        limits_storage_get limits_storage_get_moving limits_storage_get_sliding
        limits_storage_length limits_storage_slide microseconds overridden_burst rate_limit_peek
        rate_limit_penalised_until read_limits span
        due_schedules interval_fire job_state next_fires next_schedule_at schedule_jitter
        schedule_set_key schedule_set_lives
        duration_bounds duration_bucket duties
        explain_lock guards_of holds_key lock_key requests_to_release session_start slot_key
        waiter_name
        function_roles roles_in_use table_roles
        operation_status
        queues_now
        unique_key
    '),
    -- What an app, a worker or a daemon calls, and what that calls.
    ('pgsync_worker', '
        abandon_all_but abandon_lock acquire_lock acquire_usual_lock ask_to_release assert_lock
        check_lock_request
        draw_lock_room end_expired_holders end_overdue_guards end_session exchange_locks
        expire_lock fence forget_dead_holders former_in_the_way free_key free_orphans grant_lock
        hand_over_lock holder_of kept_back lock_token_base lock_transaction may_be_in_the_way
        reap_locks release_guarded_lock release_lock release_usual_lock renew_lock restore_lock take_slot try_key
        try_lock try_locks unlock wait_for_key wait_for_lock wait_for_slot wait_lock
        add_job add_jobs add_numbered_job add_numbered_jobs add_numbered_jobs_again after_copy before_copy can_be_job
        cancel_job check_job check_job_key check_job_names check_unique end_waiting_job enqueue
        enqueue_all_numbered enqueue_numbered free_unique_keys insert_numbered_jobs job_due
        job_numbers keeps_unique_key limit_queue limits_of_queue
        notify_workers number_jobs promote_due_jobs replace_job reschedule_job take_unique_key
        wake_workers worker_waits
        add_schedule check_schedule check_schedule_options declare_schedule declare_schedules
        fire_schedule
        fire_schedules remove_schedule take_due_schedules
        add_to_batch admit_followers admit_jobs any_ready_jobs cancel_followers change_worker
        check_after check_batch_callback claim_jobs claim_turns complete_job complete_jobs
        count_ended discards_told end_batches fail_job finish_job forget_workers free_after
        free_job_locks free_locks free_slots give_back_jobs hold_jobs jobs_ended keep_logs lock_followers
        lock_keys lock_queue_slots new_batch note_jobs permit_jobs put_aside put_aside_for_locks put_back
        put_followers_aside queue_is_open register_worker release_job report_progress rescue_jobs reserve_lock
        resume_all_lock_lines resume_followers resume_keys resume_lock_lines resume_waiting_jobs
        return_queue_room round_of_tenants schedule_again seal_batch settle_dependencies
        start_admitted started_jobs stop_job strict_turns take_discards take_job_locks
        take_of_nobody take_of_tenant take_permits take_queue_room take_turns try_lock_keys
        unregister_worker weigh_tenant worker_hears worker_heartbeat worker_stops
        advance_floors begin_floor_probe claim_ranges due_floor floor_probe_ended floors_pay
        has_ready_jobs job_writers move_due_floor move_queue_floors notes_floors ready_queues
        wake_queues
        abandon_operations begin_operation cancel_operation finish_operation note_operation
        operation_progress refuse_operation tell_operation
        count_throughput do_duties do_duty history_settled_until lead_maintenance record_duty
        summarize_history
        fold_waiters limit_ends_at limit_marks limit_returned limit_taken
        limits_storage_acquire_entry limits_storage_acquire_sliding limits_storage_clear
        limits_storage_incr limits_storage_reset lock_limits open_fixed_window
        rate_limit_acquire rate_limit_cancel_wait rate_limit_clear rate_limit_hit
        rate_limit_penalize rate_limit_penalize_until rate_limit_refund rate_limit_reserve
        rate_limit_settle rate_limit_shadow rate_limit_take take_limits take_of_all
        take_token_bucket
        record_audit
    '),
    -- What is an operator's to decide, and the clean-up, which daemons do by do_duty.
    ('pgsync_admin', '
        act_on_jobs cancel_jobs check_floors discard_jobs edit_job enqueue_by forget_job forget_jobs lock_waiting_job
        retry_jobs
        batch_retried drop_history prepare_history prune_batches prune_discards prune_history
        prune_keys prune_notes prune_queue_history retain_queue still_after
        prune_statistics snapshot_queues
        create_roles grant_roles
        discard_job pause_queue prune_unique_keys replace_args resume_queue
        retry_job
        end_holder_and_guards force_unlock note_lock_contention prune_fences
        change_schedule pause_schedule prune_schedule_fires resume_schedule run_schedule
        prune_audit
        prune_limits_storage prune_rate_limits set_limit unset_limit
        prune_operations restart_operation
    ')) AS r (role, functions)
    CROSS JOIN regexp_split_to_table(trim(E' \n' FROM r.functions), '\s+') AS f (name)
$$;

COMMENT ON FUNCTION pgsync.function_roles() IS
    'For each function the least of pgsync_reader, pgsync_worker and pgsync_admin that may call it.';

CREATE OR REPLACE FUNCTION pgsync.table_roles() RETURNS TABLE ("table" text, role text, privileges text[])
LANGUAGE sql STABLE AS $$
    -- A worker may not write what is an operator's (pauses and retention of queues, overrides of
    -- limits), nor change what has happened: history, audit, events.
    WITH written (names, privileges) AS (VALUES
        ('{job_ready,job_scheduled,job_waiting,job_running,job_unique,job_untold_discard,lock_holder,
           rate_limit_counter,rate_limit_penalty,rate_limit_waiter,rate_limit_reservation,
           limits_storage_counter,limits_storage_sliding,limits_storage_moving,limits_storage_entry,
           schedule,schedule_set,worker,tenant_weight,queue_floor,floors_kept}'::text[], '{INSERT,UPDATE,DELETE}'::text[]),
        ('{job_key,queue_slots,job_batch,operation_run,fence,tally,duty_run,
           throughput_mark,throughput_minute,throughput_hour,throughput_total,duration_total}', '{INSERT,UPDATE}'),
        ('{job_batch_added,job_asked_again,job_dependency,job_note}', '{INSERT,DELETE}'),
        ('{job_finished,audit_entry,schedule_fire,operation_event_log}', '{INSERT}')
    ), present AS (
        SELECT n.nspname, c.relname, c.relkind, format('%I.%I', n.nspname, c.relname) AS name
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('pgsync', 'pgsync_modules') AND c.relkind IN ('r', 'p', 'v')
          AND (NOT c.relispartition OR c.relname = 'job_finished_default')
    )
    SELECT p.name, 'pgsync_reader', '{SELECT}'::text[] FROM present AS p
    WHERE p.name <> 'pgsync_modules.connection'
    UNION ALL
    -- All but the access token.
    SELECT p.name, 'pgsync_reader', array_agg(format('SELECT (%I)', a.attname))
    FROM present AS p JOIN pg_attribute AS a ON a.attrelid = p.name::regclass AND a.attnum > 0 AND NOT a.attisdropped
    WHERE p.name = 'pgsync_modules.connection' AND a.attname <> 'token' GROUP BY p.name
    UNION ALL
    SELECT p.name, 'pgsync_worker', '{SELECT}' FROM present AS p WHERE p.name = 'pgsync_modules.connection'
    UNION ALL
    -- Apps state the limits of their queues.
    SELECT 'pgsync.queue', 'pgsync_worker', array_agg(format('%s (%I)', v.verb, c.name))
    FROM (VALUES ('INSERT'), ('UPDATE')) AS v (verb)
    CROSS JOIN unnest('{name,max_running,max_running_per_key,max_starts,starts_per,max_starts_per_key,
                        starts_per_key}'::text[]) AS c (name)
    UNION ALL
    SELECT 'pgsync.' || t.name, 'pgsync_worker', w.privileges FROM written AS w CROSS JOIN unnest(w.names) AS t (name)
    UNION ALL
    SELECT p.name, CASE p.nspname WHEN 'pgsync' THEN 'pgsync_admin' ELSE 'pgsync_worker' END, '{INSERT,UPDATE,DELETE}'
    FROM present AS p WHERE p.relkind <> 'v'
$$;

COMMENT ON FUNCTION pgsync.table_roles() IS
    'For tables and views what the least of pgsync_reader, pgsync_worker and pgsync_admin that has a privilege may do with them.';

CREATE OR REPLACE VIEW pgsync.role_grants AS
WITH role (name, above) AS (
    VALUES ('pgsync_reader', '{pgsync_reader,pgsync_worker,pgsync_admin}'::text[]),
           ('pgsync_worker', '{pgsync_worker,pgsync_admin}'),
           ('pgsync_admin', '{pgsync_admin}')
), place (oid, name) AS (
    SELECT n.oid, n.nspname FROM pg_namespace AS n WHERE n.nspname IN ('pgsync', 'pgsync_modules')
), routine AS (
    SELECT p.oid, p.proname, p.proowner, p.proacl, 'ROUTINE ' || p.oid::regprocedure AS object
    FROM pg_proc AS p WHERE p.pronamespace = 'pgsync'::regnamespace AND p.prokind IN ('f', 'p')
), relation AS (
    SELECT c.oid, c.relkind, c.relowner, c.relacl, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END
               || format(' %I.%I', s.name, c.relname) AS object
    FROM pg_class AS c JOIN place AS s ON s.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'S')
), least (object, privilege, role) AS (
    SELECT 'SCHEMA ' || s.name, 'USAGE', 'pgsync_reader' FROM place AS s
    UNION ALL
    SELECT r.object, 'EXECUTE', f.role FROM routine AS r JOIN pgsync.function_roles() AS f ON f.function = r.proname
    UNION ALL
    SELECT r.object, p.name, 'pgsync_worker' FROM relation AS r CROSS JOIN (VALUES ('USAGE'), ('SELECT')) AS p (name)
    WHERE r.relkind = 'S'
    UNION ALL
    SELECT 'TABLE ' || t."table", p.name, t.role FROM pgsync.table_roles() AS t CROSS JOIN unnest(t.privileges) AS p (name)
), wanted AS (
    SELECT DISTINCT l.object, l.privilege, a.name AS grantee
    FROM least AS l JOIN role AS r ON r.name = l.role CROSS JOIN unnest(r.above) AS a (name)
), acl (object, entry) AS (
    SELECT 'SCHEMA ' || n.nspname, aclexplode(n.nspacl) FROM pg_namespace AS n JOIN place AS s ON s.oid = n.oid
    UNION ALL
    SELECT r.object, aclexplode(coalesce(r.proacl, acldefault('f', r.proowner))) FROM routine AS r
    UNION ALL
    SELECT r.object, aclexplode(r.relacl) FROM relation AS r
), granted AS (
    SELECT a.object, (a.entry).privilege_type AS privilege, coalesce(g.rolname, 'PUBLIC') AS grantee
    FROM acl AS a LEFT JOIN pg_roles AS g ON g.oid = (a.entry).grantee
    UNION
    SELECT r.object, format('%s (%I)', e.privilege_type, a.attname), g.rolname
    FROM relation AS r JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attacl IS NOT NULL
    CROSS JOIN aclexplode(a.attacl) AS e JOIN pg_roles AS g ON g.oid = e.grantee
)
SELECT object, privilege, grantee, w.grantee IS NOT NULL AS wanted, g.grantee IS NOT NULL AS granted
FROM wanted AS w FULL JOIN granted AS g USING (object, privilege, grantee)
WHERE grantee = 'PUBLIC' OR grantee IN (SELECT r.name FROM role AS r);

COMMENT ON VIEW pgsync.role_grants IS
    'What pgsync_reader, pgsync_worker, pgsync_admin and PUBLIC may do with each object, and what they should: grant_roles() makes the two the same.';

CREATE OR REPLACE FUNCTION pgsync.roles_in_use() RETURNS boolean
LANGUAGE sql STABLE
RETURN EXISTS (
    SELECT FROM pg_namespace AS n CROSS JOIN aclexplode(n.nspacl) AS a JOIN pg_roles AS r ON r.oid = a.grantee
    WHERE n.nspname = 'pgsync' AND r.rolname IN ('pgsync_reader', 'pgsync_worker', 'pgsync_admin'));

COMMENT ON FUNCTION pgsync.roles_in_use() IS
    'Whether rights in this database have been granted to pgsync''s roles, so that migrations keep them up to date.';

CREATE OR REPLACE FUNCTION pgsync.grant_roles(only_where_used boolean DEFAULT false) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    step record;
    changed integer := 0;
BEGIN
    IF only_where_used AND NOT pgsync.roles_in_use() THEN
        RETURN 0;
    END IF;
    FOR step IN
        SELECT g.* FROM pgsync.role_grants AS g
        WHERE g.wanted <> g.granted AND (g.grantee = 'PUBLIC' OR g.grantee IN (SELECT r.rolname FROM pg_roles AS r))
    LOOP
        EXECUTE format(CASE WHEN step.wanted THEN 'GRANT %s ON %s TO %s' ELSE 'REVOKE %s ON %s FROM %s' END,
            step.privilege, step.object, step.grantee);
        changed := changed + 1;
    END LOOP;
    RETURN changed;
END
$$;

COMMENT ON FUNCTION pgsync.grant_roles(boolean) IS
    'Gives those of the three roles that exist the rights they should have here, takes others from them, and the functions from PUBLIC; returns how many grants it changed. For the owner of the schema. only_where_used: nothing, unless that was done here before.';

CREATE OR REPLACE FUNCTION pgsync.create_roles() RETURNS text[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    role text;
    created text[] := '{}';
BEGIN
    FOREACH role IN ARRAY ARRAY['pgsync_reader', 'pgsync_worker', 'pgsync_admin'] LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = role);
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
            created := created || role;
        EXCEPTION
            -- Roles are the whole server's: another database may make them at the same time.
            WHEN duplicate_object OR unique_violation THEN
                NULL;
            WHEN insufficient_privilege THEN
                RAISE insufficient_privilege USING
                    MESSAGE = format('%s may not create the role %s', current_user, role),
                    HINT = 'Have one who may do it run: CREATE ROLE pgsync_reader NOLOGIN; CREATE ROLE pgsync_worker NOLOGIN; CREATE ROLE pgsync_admin NOLOGIN. Then do this again.';
        END;
    END LOOP;
    PERFORM pgsync.grant_roles();
    RETURN created;
END
$$;

COMMENT ON FUNCTION pgsync.create_roles() IS
    'Creates those of pgsync_reader, pgsync_worker and pgsync_admin that are missing, which cannot log in and are granted to login roles; gives them their rights in this database (grant_roles); returns which it created.';
