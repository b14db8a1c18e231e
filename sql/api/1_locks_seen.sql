-- Seeing locks, and ending them from outside.

DROP FUNCTION IF EXISTS pgsync.force_unlock(text);
DROP VIEW IF EXISTS pgsync.locks;

CREATE OR REPLACE FUNCTION pgsync.waiter_name(application_name text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(substring(application_name FROM '^pgsync locks: (.*)'), application_name);

COMMENT ON FUNCTION pgsync.waiter_name(text) IS
    'The owner that a waiting session tells by its application_name (see wait_for_lock and acquire_usual_lock), or that name itself.';

CREATE VIEW pgsync.locks AS
SELECT h.name,
       h.mode,
       h.slot,
       h.owner,
       coalesce(h.host, host(a.client_addr)) AS host,
       h.token,
       h.acquired_at,
       h.expires_at,
       moment.now - h.acquired_at AS age,
       h.expires_at - moment.now AS remaining,
       h.expires_at <= moment.now AS expired,
       h.handed_over,
       coalesce(w.waiting, 0) AS waiting,
       coalesce(w.waiters, '{}') AS waiters,
       h.asked_by,
       a.application_name,
       CASE WHEN h.handed_over THEN NULL ELSE h.pid END AS pid
FROM pgsync.lock_holder AS h
LEFT JOIN pgsync.advisory_locks AS l
  ON l.granted AND l.pid = h.pid AND l.key = h.key AND l.shared = (h.mode = 'shared')
LEFT JOIN pg_stat_activity AS a ON a.pid = h.pid AND NOT h.handed_over
LEFT JOIN (
    SELECT o.key, count(*) AS waiting,
           array_agg(pgsync.waiter_name(o.application_name) ORDER BY o.waitstart) AS waiters
    FROM pgsync.advisory_locks AS o WHERE NOT o.granted GROUP BY o.key
) AS w ON w.key = CASE WHEN h.mode = 'semaphore' THEN pgsync.slot_key(h.name, 0) ELSE h.key END
CROSS JOIN (SELECT pgsync.clock() AS now) AS moment
WHERE l.pid IS NOT NULL OR h.handed_over AND h.expires_at > moment.now;

COMMENT ON VIEW pgsync.locks IS
    'Locks held now: who, since when, until when at the latest, and who waits, longest first. Of a process only the first in its own line waits at the server; a semaphore shows those behind the one who looks for a slot.';

CREATE OR REPLACE FUNCTION pgsync.explain_lock(
    name text,
    OUT state text,
    OUT mode text,
    OUT holders integer,
    OUT holder text,
    OUT host text,
    OUT pid integer,
    OUT token bigint,
    OUT acquired_at timestamptz,
    OUT age interval,
    OUT expires_at timestamptz,
    OUT remaining interval,
    OUT waiters text[],
    OUT freed_by text
)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    now timestamptz := pgsync.clock();
    keys bigint[] := ARRAY(SELECT DISTINCT h.key FROM pgsync.lock_holder AS h WHERE h.name = explain_lock.name
                           UNION SELECT pgsync.lock_key(name));
    held pgsync.lock_holder;
    session record;
    guards integer[];
BEGIN
    PERFORM pgsync.check_name(name, 'lock name');
    SELECT h.* INTO held FROM pgsync.lock_holder AS h WHERE h.key = ANY (keys)
    ORDER BY h.expires_at LIMIT 1;
    SELECT count(*) INTO holders FROM pgsync.locks AS l WHERE l.name = explain_lock.name;
    SELECT l.pid, l.application_name, a.usename INTO session
    FROM pgsync.advisory_locks AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
    WHERE l.granted AND l.key = ANY (keys) AND (held.token IS NULL OR l.pid = held.pid)
    LIMIT 1;
    SELECT array_agg(pgsync.waiter_name(l.application_name) ORDER BY l.waitstart) INTO waiters
    FROM pgsync.advisory_locks AS l WHERE NOT l.granted AND l.key = ANY (keys || pgsync.slot_key(name, 0));
    waiters := coalesce(waiters, '{}');
    SELECT array_agg(g.pid) INTO guards FROM pgsync.guards_of(held.token) AS g;

    mode := held.mode;
    holder := held.owner;
    host := held.host;
    pid := coalesce(session.pid, nullif(held.pid, 0));
    token := held.token;
    acquired_at := held.acquired_at;
    age := now - held.acquired_at;
    expires_at := held.expires_at;
    remaining := held.expires_at - now;

    IF held.token IS NULL AND session.pid IS NULL THEN
        state := 'free';
        freed_by := 'nothing: it is free';
    ELSIF held.token IS NULL THEN
        state := 'held by a transaction';
        holder := format('%s (pid %s)', coalesce(nullif(session.application_name, ''), 'a session'), session.pid);
        freed_by := format('the end of that transaction; or SELECT pg_terminate_backend(%s)', session.pid);
    ELSIF held.handed_over AND held.expires_at > now THEN
        state := 'handed over';
        freed_by := format('restore_lock with token %s, its deadline, or pgsync.force_unlock(%L)', held.token, name);
    ELSIF session.pid IS NULL AND guards IS NOT NULL THEN
        state := 'guarded';
        freed_by := format('the end of its guarded transactions (sessions %s), which are ended %s after its deadline, or pgsync.force_unlock(%L)',
            array_to_string(guards, ', '), coalesce(nullif(current_setting('pgsync.guard_grace', true), ''), '30 seconds'), name);
    ELSIF session.pid IS NULL THEN
        state := 'lost';
        freed_by := CASE
            WHEN held.delay IS NOT NULL AND held.pid <> 0
                THEN format('its lock delay, at %s', least(coalesce(held.lost_at, now), held.expires_at) + held.delay)
            ELSE 'the next who asks' END;
    ELSIF held.expires_at <= now THEN
        state := 'expired';
        freed_by := CASE
            WHEN pg_has_role(session.usename, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE')
                THEN 'the next who asks: it ends the holder''s session'
            ELSE format('the next who asks, if its role may end that session: GRANT pg_signal_backend, pg_read_all_stats TO %I', current_user) END;
    ELSE
        state := 'held';
        freed_by := format('its release, its deadline, the end of session %s, or pgsync.force_unlock(%L)', held.pid, name);
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.explain_lock(text) IS
    'Why the lock is not free: one row with its state (free, held, expired, handed over, guarded, lost, held by a transaction), the holder whose deadline comes first, who waits, and what would free it.';

CREATE OR REPLACE FUNCTION pgsync.ask_to_release(name text, by text DEFAULT NULL, why text DEFAULT NULL) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    asked integer;
BEGIN
    UPDATE pgsync.lock_holder AS h SET asked_by = coalesce(by, session_user), asked_why = why
    WHERE h.token = ANY (ARRAY(SELECT l.token FROM pgsync.locks AS l WHERE l.name = ask_to_release.name));
    GET DIAGNOSTICS asked = ROW_COUNT;
    IF asked > 0 THEN
        PERFORM pgsync.record_audit('lock.asked', name, by, jsonb_build_object('why', why, 'holders', asked));
    END IF;
    RETURN asked;
END
$$;

COMMENT ON FUNCTION pgsync.ask_to_release(text, text, text) IS
    'Asks the holders to finish and release; returns how many were asked. They learn of it within about a second if they listen (on_request), and decide themselves.';

CREATE OR REPLACE FUNCTION pgsync.requests_to_release(tokens bigint[])
RETURNS TABLE (token bigint, asked_by text, asked_why text)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT h.token, h.asked_by, h.asked_why FROM pgsync.lock_holder AS h
    WHERE h.token = ANY (tokens) AND h.asked_by IS NOT NULL;
END;

COMMENT ON FUNCTION pgsync.requests_to_release(bigint[]) IS 'Which of these tokens'' holders were asked to finish, by whom, and why.';

CREATE OR REPLACE FUNCTION pgsync.end_holder_and_guards(held pgsync.lock_holder) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    ended boolean := pgsync.end_session(held.pid, held.backend_start);
    guard record;
BEGIN
    FOR guard IN SELECT g.pid, g.backend_start FROM pgsync.guards_of(held.token) AS g WHERE g.pid <> pg_backend_pid() LOOP
        ended := pgsync.end_session(guard.pid, guard.backend_start) OR ended;
    END LOOP;
    RETURN ended;
END
$$;

COMMENT ON FUNCTION pgsync.end_holder_and_guards(pgsync.lock_holder) IS
    'Internal: ends the session of a holder, and those of the transactions that its lock guards.';

CREATE OR REPLACE FUNCTION pgsync.force_unlock(name text, by text DEFAULT NULL, why text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    held pgsync.lock_holder;
    forced boolean := false;
BEGIN
    FOR held IN SELECT h.* FROM pgsync.lock_holder AS h WHERE h.name = force_unlock.name LOOP
        IF held.pid = pg_backend_pid() AND held.backend_start = pgsync.session_start() AND NOT held.handed_over THEN
            CONTINUE WHEN NOT pgsync.release_lock(held.token);
        ELSIF NOT held.handed_over THEN
            CONTINUE WHEN NOT pgsync.end_holder_and_guards(held);
            -- Until its locks have gone: the caller may take this one at once.
            IF pgsync.wait_for_key(held.key, false, '2 seconds') THEN
                PERFORM pgsync.free_key(held.key, false);
            END IF;
        END IF;
        forced := true;
        PERFORM pgsync.record_audit('lock.forced', name, by, jsonb_build_object(
            'why', why, 'owner', held.owner, 'token', held.token, 'acquired_at', held.acquired_at));
        -- From now on its token proves nothing, though nobody else holds the lock yet.
        -- A guard's session that is ending has its row locked for a moment yet.
        FOR attempt IN 1..200 LOOP
            DELETE FROM pgsync.lock_holder AS h WHERE h.token = ANY (ARRAY(
                SELECT f.token FROM pgsync.lock_holder AS f WHERE f.token = held.token FOR UPDATE SKIP LOCKED));
            EXIT WHEN FOUND OR NOT EXISTS (SELECT FROM pgsync.lock_holder AS h WHERE h.token = held.token);
            PERFORM pg_sleep(0.01);
        END LOOP;
    END LOOP;
    RETURN forced;
END
$$;

COMMENT ON FUNCTION pgsync.force_unlock(text, text, text) IS
    'Takes the lock from its holders by ending the sessions that carry it; those sessions'' other locks go too, and their holders are told. Written to the audit trail.';

CREATE OR REPLACE FUNCTION pgsync.reap_locks() RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    held pgsync.lock_holder;
    expired record;
    reaped integer := 0;
BEGIN
    FOR held IN
        SELECT h.* FROM pgsync.lock_holder AS h WHERE h.expires_at <= pgsync.clock() AND h.pid <> 0
    LOOP
        expired := pgsync.end_expired_holders(ARRAY[held.key]);
        IF expired.ended THEN
            reaped := reaped + 1;
        ELSIF expired.obstacle IS NOT NULL THEN
            RAISE WARNING 'lock % is past its deadline, but %', held.name, expired.obstacle;
        END IF;
    END LOOP;
    DELETE FROM pgsync.lock_holder AS h WHERE h.token = ANY (ARRAY(
        SELECT f.token FROM pgsync.lock_holder AS f
        WHERE f.handed_over AND f.expires_at <= pgsync.clock()
        FOR UPDATE SKIP LOCKED));
    PERFORM pgsync.forget_dead_holders();
    RETURN reaped;
END
$$;

COMMENT ON FUNCTION pgsync.reap_locks() IS
    'Ends the sessions of holders past their deadline, forgets leftovers of dead ones, and says how many sessions it ended.';
