-- Locks: session advisory locks with an owner, a deadline and a fencing token.
--
-- Call try_lock, unlock and renew_lock outside an explicit transaction: the advisory lock belongs
-- to the session, so a ROLLBACK would take back the holder's row and leave the lock.

CREATE OR REPLACE FUNCTION pgsync.lock_key(name text) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN ('x' || encode(substring(sha256(convert_to(name, 'UTF8')) FROM 1 FOR 8), 'hex'))::bit(64)::bigint;

COMMENT ON FUNCTION pgsync.lock_key(text) IS
    'The advisory lock of a name: the first 8 bytes of sha256(name) in UTF-8, as a signed big-endian number.';

CREATE OR REPLACE FUNCTION pgsync.session_start() RETURNS timestamptz
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    -- Asking the activity view costs as much as the whole lock: remember the answer.
    known text := current_setting('pgsync.session_start', true);
BEGIN
    IF known IS NULL OR known = '' THEN
        SELECT a.backend_start::text INTO known
        FROM pg_stat_get_activity(pg_backend_pid()) AS a;
        PERFORM set_config('pgsync.session_start', known, false);
    END IF;
    RETURN known::timestamptz;
END
$$;

COMMENT ON FUNCTION pgsync.session_start() IS
    'When this session''s server process began; with its pid it names the session for good.';

CREATE OR REPLACE FUNCTION pgsync.end_session(pid integer, backend_start timestamptz) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM FROM pg_stat_activity AS a
    WHERE a.pid = end_session.pid
      AND a.backend_start = end_session.backend_start
      AND a.datname = current_database();
    -- The wait lets the caller take the lock at once; an ended holder needs a few milliseconds.
    RETURN FOUND AND pg_terminate_backend(end_session.pid, 2000);
END
$$;

COMMENT ON FUNCTION pgsync.end_session(integer, timestamptz) IS
    'Ends the session that pid and backend_start name and says whether it has gone. Needs the same role, or pg_signal_backend.';

CREATE OR REPLACE FUNCTION pgsync.record_holder(
    name text, key bigint, ttl interval, owner text, mode text
) RETURNS pgsync.lock_holder
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    granted pgsync.lock_holder;
BEGIN
    -- A guarded transaction (assert_lock) keeps the former holder's row locked: the lock is free
    -- when those protected commits have ended, and not before.
    DELETE FROM pgsync.lock_holder AS h WHERE h.token = ANY (ARRAY(
        SELECT f.token FROM pgsync.lock_holder AS f WHERE f.key = record_holder.key FOR UPDATE NOWAIT));
    INSERT INTO pgsync.lock_holder AS h
        (token, key, name, mode, owner, pid, backend_start, acquired_at, expires_at)
    SELECT nextval('pgsync.lock_token'), record_holder.key, record_holder.name,
           record_holder.mode, record_holder.owner, pg_backend_pid(), pgsync.session_start(),
           moment.now, moment.now + record_holder.ttl
    FROM (SELECT pgsync.clock() AS now) AS moment
    RETURNING h.* INTO granted;
    RETURN granted;
EXCEPTION
    -- The session lock outlives this transaction: give it back, or nobody ever does.
    WHEN lock_not_available THEN
        PERFORM pg_advisory_unlock(record_holder.key);
        UPDATE pgsync.lock_holder AS h SET pid = 0
        WHERE h.key = record_holder.key AND h.pid = pg_backend_pid();
        RETURN NULL;
    WHEN query_canceled OR OTHERS THEN
        PERFORM pg_advisory_unlock(record_holder.key);
        RAISE;
END
$$;

COMMENT ON FUNCTION pgsync.record_holder(text, bigint, interval, text, text) IS
    'Internal: writes the holder''s row for an advisory lock that this session has just taken; gives the lock back and returns null where a guarded transaction of the former holder has not ended.';

CREATE OR REPLACE FUNCTION pgsync.take_expired_lock(key bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    held pgsync.lock_holder;
BEGIN
    SELECT h.* INTO held FROM pgsync.lock_holder AS h
    WHERE h.key = take_expired_lock.key AND h.expires_at <= pgsync.clock();
    RETURN FOUND
        AND pgsync.end_session(held.pid, held.backend_start)
        AND pg_try_advisory_lock(take_expired_lock.key);
END
$$;

COMMENT ON FUNCTION pgsync.take_expired_lock(bigint) IS
    'Internal: ends the session of a holder whose deadline has passed and takes its advisory lock.';

CREATE OR REPLACE FUNCTION pgsync.try_lock(
    name text,
    ttl interval,
    owner text DEFAULT NULL,
    mode text DEFAULT 'exclusive',
    OUT acquired boolean,
    OUT token bigint,
    OUT holder text,
    OUT acquired_at timestamptz,
    OUT expires_at timestamptz
)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    lock_key bigint := pgsync.lock_key(name);
    held pgsync.lock_holder;
    is_ours boolean;
BEGIN
    PERFORM pgsync.check_name(name, 'lock name');
    PERFORM pgsync.check_duration(ttl, 'ttl');
    IF mode IS DISTINCT FROM 'exclusive' THEN
        RAISE invalid_parameter_value USING MESSAGE = format('unknown lock mode %L', mode),
            HINT = 'Use exclusive.';
    END IF;

    SELECT h.* INTO held FROM pgsync.lock_holder AS h WHERE h.key = lock_key;
    -- Session locks stack: without this a session would be granted its own lock again.
    is_ours := FOUND AND held.pid = pg_backend_pid()
        AND held.backend_start = pgsync.session_start();

    IF is_ours THEN
        acquired := held.expires_at <= pgsync.clock();
    ELSE
        acquired := pg_try_advisory_lock(lock_key) OR pgsync.take_expired_lock(lock_key);
    END IF;

    IF acquired THEN
        held := pgsync.record_holder(name, lock_key, ttl, coalesce(owner, session_user), mode);
        token := held.token;
        acquired := token IS NOT NULL;
    END IF;
    FOR look IN 1..10 LOOP
        EXIT WHEN held.token IS NOT NULL;
        -- Taken between our look and our try, or guarded still. A holder that has the lock for an
        -- instant only has not committed its row yet.
        PERFORM pg_sleep(CASE look WHEN 1 THEN 0 ELSE 0.002 END);
        SELECT h.* INTO held FROM pgsync.lock_holder AS h WHERE h.key = lock_key;
    END LOOP;
    holder := held.owner;
    acquired_at := held.acquired_at;
    expires_at := held.expires_at;
END
$$;

COMMENT ON FUNCTION pgsync.try_lock(text, interval, text, text) IS
    'Takes the lock for this session, or says who holds it. One row: acquired, token (of your grant only), holder, acquired_at, expires_at. A holder past its deadline has its session ended.';

CREATE OR REPLACE FUNCTION pgsync.wait_lock(
    name text,
    ttl interval,
    owner text,
    patience interval,
    mode text DEFAULT 'exclusive',
    OUT acquired boolean,
    OUT token bigint,
    OUT holder text,
    OUT acquired_at timestamptz,
    OUT expires_at timestamptz,
    OUT waited interval
)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    lock_key bigint := pgsync.lock_key(name);
    held pgsync.lock_holder;
    began timestamptz := clock_timestamp();
BEGIN
    waited := interval '0';
    SELECT t.* INTO acquired, token, holder, acquired_at, expires_at
    FROM pgsync.try_lock(name, ttl, owner, mode) AS t;
    IF acquired OR patience <= interval '0' THEN
        RETURN;
    END IF;

    -- Wait no longer than a deadline ahead: after it the next try may end the holder.
    IF expires_at > pgsync.clock() THEN
        patience := least(patience, expires_at - pgsync.clock());
    END IF;
    PERFORM set_config('lock_timeout', ceil(extract(epoch FROM patience) * 1000)::text, true);
    BEGIN
        PERFORM pg_advisory_lock(lock_key);
        acquired := true;
        -- A guarded transaction of the former holder is waited for as the lock is.
        PERFORM FROM pgsync.lock_holder AS h WHERE h.key = lock_key FOR UPDATE;
    EXCEPTION WHEN lock_not_available THEN
        -- The timeout may strike just after the grant: ask, and never leave the lock behind.
        acquired := EXISTS (
            SELECT FROM pg_locks AS l
            WHERE l.locktype = 'advisory' AND l.pid = pg_backend_pid() AND l.granted
              AND l.objsubid = 1
              AND (l.classid::bigint << 32 | l.objid::bigint) = lock_key
        );
    END;

    waited := clock_timestamp() - began;
    IF acquired THEN
        held := pgsync.record_holder(name, lock_key, ttl, coalesce(owner, session_user), mode);
        token := held.token;
        acquired := token IS NOT NULL;
    END IF;
    IF held.token IS NULL THEN
        SELECT h.* INTO held FROM pgsync.lock_holder AS h WHERE h.key = lock_key;
    END IF;
    holder := held.owner;
    acquired_at := held.acquired_at;
    expires_at := held.expires_at;
END
$$;

COMMENT ON FUNCTION pgsync.wait_lock(text, interval, text, interval, text) IS
    'try_lock that waits in the server''s queue for at most patience, and says how long it waited. Keep patience to about a second and call again: a blocked statement holds back vacuum.';

CREATE OR REPLACE FUNCTION pgsync.renew_lock(name text, token bigint, ttl interval)
RETURNS timestamptz
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    renewed timestamptz;
BEGIN
    PERFORM pgsync.check_duration(ttl, 'ttl');
    UPDATE pgsync.lock_holder AS h
    SET expires_at = pgsync.clock() + renew_lock.ttl
    WHERE h.key = pgsync.lock_key(renew_lock.name)
      AND h.token = renew_lock.token
      AND h.expires_at > pgsync.clock()
      AND h.pid = pg_backend_pid()
      AND h.backend_start = pgsync.session_start()
    RETURNING h.expires_at INTO renewed;
    RETURN renewed;
END
$$;

COMMENT ON FUNCTION pgsync.renew_lock(text, bigint, interval) IS
    'Moves the deadline to ttl from now and returns it; null where the token no longer holds the lock. Only the holding session may renew, which proves it alive.';

CREATE OR REPLACE FUNCTION pgsync.unlock(name text, token bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    lock_key bigint := pgsync.lock_key(name);
BEGIN
    DELETE FROM pgsync.lock_holder AS h WHERE h.token = ANY (ARRAY(
        SELECT f.token FROM pgsync.lock_holder AS f
        WHERE f.key = lock_key AND f.token = unlock.token
          AND f.pid = pg_backend_pid() AND f.backend_start = pgsync.session_start()
        FOR UPDATE SKIP LOCKED));
    IF NOT FOUND THEN
        -- A guarded transaction keeps the row locked, and with it holds off the next holder. To
        -- wait for it here would hang a caller who commits after releasing.
        UPDATE pgsync.lock_holder AS h SET pid = 0, expires_at = pgsync.clock()
        WHERE h.key = lock_key AND h.token = unlock.token
          AND h.pid = pg_backend_pid() AND h.backend_start = pgsync.session_start();
    END IF;
    RETURN FOUND AND pg_advisory_unlock(lock_key);
END
$$;

COMMENT ON FUNCTION pgsync.unlock(text, bigint) IS
    'Releases a lock of this session; false where the token does not hold it here. A guarded transaction that is still open holds off the next holder until it ends.';

CREATE OR REPLACE FUNCTION pgsync.abandon_lock(name text) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    held pgsync.lock_holder;
BEGIN
    SELECT h.* INTO held FROM pgsync.lock_holder AS h
    WHERE h.key = pgsync.lock_key(abandon_lock.name)
      AND h.pid = pg_backend_pid() AND h.backend_start = pgsync.session_start();
    RETURN FOUND AND pgsync.unlock(name, held.token);
END
$$;

COMMENT ON FUNCTION pgsync.abandon_lock(text) IS
    'Releases whatever this session holds under the name: for a caller whose try_lock was interrupted before it learned the token.';

CREATE OR REPLACE FUNCTION pgsync.force_unlock(name text) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    lock_key bigint := pgsync.lock_key(name);
    held pgsync.lock_holder;
BEGIN
    SELECT h.* INTO held FROM pgsync.lock_holder AS h WHERE h.key = lock_key;
    IF NOT FOUND THEN
        RETURN false;
    ELSIF held.pid = pg_backend_pid() THEN
        RETURN pgsync.unlock(name, held.token);
    END IF;
    IF NOT pgsync.end_session(held.pid, held.backend_start) THEN
        RETURN false;
    END IF;
    -- From now on its token proves nothing, though nobody else holds the lock yet.
    DELETE FROM pgsync.lock_holder AS h WHERE h.token = ANY (ARRAY(
        SELECT f.token FROM pgsync.lock_holder AS f WHERE f.token = held.token FOR UPDATE SKIP LOCKED));
    RETURN true;
END
$$;

COMMENT ON FUNCTION pgsync.force_unlock(text) IS
    'Takes the lock from its holder by ending the session that carries it; that session''s other locks go too, and their holders are told.';

CREATE OR REPLACE FUNCTION pgsync.reap_locks() RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    held pgsync.lock_holder;
    reaped integer := 0;
BEGIN
    FOR held IN
        SELECT h.* FROM pgsync.lock_holder AS h WHERE h.expires_at <= pgsync.clock()
    LOOP
        BEGIN
            IF pgsync.end_session(held.pid, held.backend_start) THEN
                reaped := reaped + 1;
            END IF;
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE WARNING 'lock % is past its deadline, but % may not end its session', held.name, session_user;
        END;
        -- Its session has gone, by us or before; a holder of a new grant has another token.
        DELETE FROM pgsync.lock_holder AS h WHERE h.token = ANY (ARRAY(
            SELECT f.token FROM pgsync.lock_holder AS f WHERE f.token = held.token
              AND NOT EXISTS (SELECT FROM pg_stat_activity AS a
                              WHERE a.pid = held.pid AND a.backend_start = held.backend_start)
            FOR UPDATE SKIP LOCKED));
    END LOOP;
    RETURN reaped;
END
$$;

COMMENT ON FUNCTION pgsync.reap_locks() IS
    'Ends the sessions of holders past their deadline, forgets leftovers of dead ones, and says how many sessions it ended.';

CREATE OR REPLACE FUNCTION pgsync.assert_lock(name text, token bigint) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM FROM pgsync.lock_holder AS h
    WHERE h.key = pgsync.lock_key(assert_lock.name)
      AND h.token = assert_lock.token
      AND h.expires_at > pgsync.clock()
    FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'PS001',
            MESSAGE = format('token %s no longer holds lock %L', assert_lock.token, assert_lock.name),
            HINT = 'Roll back: somebody else may hold the lock now.';
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.assert_lock(text, bigint) IS
    'In the transaction that the lock protects: raises PS001 unless the token holds the lock, and holds off the next holder until this transaction ends.';

CREATE OR REPLACE VIEW pgsync.locks AS
SELECT h.name,
       h.mode,
       h.owner,
       h.token,
       h.acquired_at,
       h.expires_at,
       moment.now - h.acquired_at AS age,
       h.expires_at - moment.now AS remaining,
       h.expires_at <= moment.now AS expired,
       (SELECT count(*) FROM pg_locks AS w
        WHERE w.locktype = 'advisory' AND w.objsubid = 1 AND NOT w.granted
          AND w.classid = l.classid AND w.objid = l.objid AND w.database = l.database) AS waiting,
       a.client_addr AS host,
       a.application_name,
       h.pid
FROM pgsync.lock_holder AS h
JOIN pg_locks AS l
  ON l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted AND l.pid = h.pid
 AND l.classid = ((h.key >> 32) & 4294967295)::oid
 AND l.objid = (h.key & 4294967295)::oid
LEFT JOIN pg_stat_activity AS a ON a.pid = h.pid
CROSS JOIN (SELECT pgsync.clock() AS now) AS moment
WHERE l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database());

COMMENT ON VIEW pgsync.locks IS
    'Locks held now: who, since when, until when at the latest, and how many wait for it.';
