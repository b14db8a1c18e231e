-- The usual lock of the library: what nearly all come to, in less of the server's time.
--
-- Exclusive and without delay, its holder's row is written, and deleted, by one statement. What is
-- not usual is left to acquire_lock and release_lock, and these answer as those do. They are for
-- sessions of the library alone, which plan without sequential scans.

CREATE OR REPLACE FUNCTION pgsync.acquire_usual_lock(
    name text,
    ttl interval,
    owner text,
    audited boolean,
    patience interval,
    OUT acquired boolean,
    OUT token bigint,
    OUT holder text,
    OUT acquired_at timestamptz,
    OUT expires_at timestamptz,
    OUT waited interval,
    OUT obstacle text
)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    -- Null for what acquire_lock refuses.
    its_key bigint := CASE WHEN octet_length(name) BETWEEN 1 AND 1024 AND ttl > '0' THEN pgsync.lock_key(name) END;
    has_come boolean := pg_try_advisory_lock(its_key);
    began timestamptz := clock_timestamp();
    deadline timestamptz;
    room text;
    granted record;
BEGIN
    waited := '0';
    IF NOT has_come AND patience > '0' AND NOT audited THEN
        -- It stays when the lock has come: this session waits for the same owner again and again.
        IF current_setting('application_name') <> left('pgsync locks: ' || owner, 63) THEN
            PERFORM set_config('application_name', left('pgsync locks: ' || owner, 63), false);
        END IF;
        SELECT min(h.expires_at) INTO deadline FROM pgsync.lock_holder AS h WHERE h.key = its_key;
        -- Wait no longer than a deadline ahead: after it acquire_lock may end the holder.
        has_come := coalesce(deadline > pgsync.clock(), true)
            AND pgsync.wait_for_key(its_key, false, least(patience, deadline - pgsync.clock()));
        waited := clock_timestamp() - began;
    END IF;
    IF has_come THEN
        -- As grant_lock, where this session has granted before and nobody's row is in the way.
        INSERT INTO pgsync.lock_holder AS h
            (token, key, name, mode, owner, host, pid, backend_start, acquired_at, expires_at, audited)
        SELECT current_setting('pgsync.lock_token_base')::bigint + nextval('pgsync.lock_token'),
               its_key, acquire_usual_lock.name, 'exclusive', acquire_usual_lock.owner,
               nullif(current_setting('pgsync.host', true), ''), pg_backend_pid(),
               current_setting('pgsync.session_start')::timestamptz, moment.now, moment.now + ttl,
               acquire_usual_lock.audited
        FROM (SELECT pgsync.clock() AS now OFFSET 0) AS moment
        WHERE nullif(current_setting('pgsync.lock_room', true), '')::integer > 0
          AND NOT EXISTS (SELECT FROM pgsync.lock_holder AS f WHERE f.key = its_key)
        RETURNING true, h.token, h.owner, h.acquired_at, h.expires_at,
                  set_config('pgsync.lock_room', (current_setting('pgsync.lock_room')::integer - 1)::text, false)
        INTO acquired, token, holder, acquired_at, expires_at, room;
        IF acquired THEN
            RETURN;
        END IF;
        granted := pgsync.grant_lock(name, its_key, ttl, owner, 'exclusive', NULL, NULL, audited,
            greatest(patience - (clock_timestamp() - began), '0'));
        IF granted.token IS NOT NULL THEN
            acquired := true;
            token := granted.token;
            holder := owner;
            acquired_at := granted.acquired_at;
            expires_at := granted.expires_at;
            RETURN;
        END IF;
    END IF;
    SELECT l.* INTO acquired, token, holder, acquired_at, expires_at, waited, obstacle
    FROM pgsync.acquire_lock(name, ttl, owner, 'exclusive', NULL, NULL, audited,
        greatest(patience - (clock_timestamp() - began), '0'), false) AS l;
    waited := clock_timestamp() - began;
END
$$;

COMMENT ON FUNCTION pgsync.acquire_usual_lock(text, interval, text, boolean, interval) IS
    'Internal: acquire_lock for an exclusive lock without delay, in a session of the library. Whose call of this is interrupted must call abandon_lock.';

CREATE OR REPLACE FUNCTION pgsync.release_usual_lock(token bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    released boolean;
    room text;
BEGIN
    -- This transaction keeps the advisory lock until it has ended; see release_lock.
    DELETE FROM pgsync.lock_holder AS h
    WHERE h.token = release_usual_lock.token AND h.xmax = 0 AND h.pid = pg_backend_pid()
      AND h.backend_start = nullif(current_setting('pgsync.session_start', true), '')::timestamptz
      AND h.mode = 'exclusive' AND NOT h.handed_over AND NOT h.awaited AND NOT h.audited
    RETURNING pg_try_advisory_xact_lock(h.key) AND pg_advisory_unlock(h.key),
              set_config('pgsync.lock_room', (current_setting('pgsync.lock_room')::integer + 1)::text, false)
    INTO released, room;
    RETURN coalesce(released, pgsync.release_lock(token));
END
$$;

COMMENT ON FUNCTION pgsync.release_usual_lock(bigint) IS
    'Internal: release_lock, in a session of the library.';
