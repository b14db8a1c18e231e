-- Renewing and releasing what this session holds.

CREATE OR REPLACE FUNCTION pgsync.renew_lock(name text, token bigint, ttl interval)
RETURNS timestamptz
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    renewed timestamptz;
BEGIN
    PERFORM pgsync.check_duration(ttl, 'ttl');
    UPDATE pgsync.lock_holder AS h
    SET expires_at = pgsync.clock() + renew_lock.ttl
    WHERE h.token = renew_lock.token
      AND h.name = renew_lock.name
      AND h.expires_at > pgsync.clock()
      AND NOT h.handed_over
      AND h.pid = pg_backend_pid()
      AND h.backend_start = pgsync.session_start()
    RETURNING h.expires_at INTO renewed;
    RETURN renewed;
END
$$;

COMMENT ON FUNCTION pgsync.renew_lock(text, bigint, interval) IS
    'Moves the deadline to ttl from now and returns it; null where the token no longer holds the lock. Only the holding session may renew, which proves it alive.';

DROP FUNCTION IF EXISTS pgsync.release_guarded_lock(bigint);

CREATE OR REPLACE FUNCTION pgsync.release_guarded_lock(
    token bigint, OUT key bigint, OUT mode text, OUT awaited text, OUT late jsonb
)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    DELETE FROM pgsync.lock_holder AS h WHERE h.token = ANY (ARRAY(
        SELECT f.token FROM pgsync.lock_holder AS f
        WHERE f.token = release_guarded_lock.token AND f.pid = pg_backend_pid()
          AND f.backend_start = pgsync.session_start() AND NOT f.handed_over
        FOR UPDATE SKIP LOCKED))
    RETURNING h.key, h.mode, CASE WHEN h.awaited THEN h.name END INTO key, mode, awaited;
    IF NOT FOUND THEN
        -- A guarded transaction keeps the row locked, and with it holds off the next holder. To
        -- wait for it here would hang a caller who commits after releasing.
        UPDATE pgsync.lock_holder AS h SET pid = 0, expires_at = least(h.expires_at, pgsync.clock())
        WHERE h.token = release_guarded_lock.token AND NOT h.handed_over
          AND h.pid = pg_backend_pid() AND h.backend_start = pgsync.session_start()
        RETURNING h.key, h.mode, CASE WHEN h.awaited THEN h.name END INTO key, mode, awaited;
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.release_guarded_lock(bigint) IS
    'Internal: the part of release_lock for a row that somebody has locked, or had.';

CREATE OR REPLACE FUNCTION pgsync.release_lock(token bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    started text := coalesce(nullif(current_setting('pgsync.session_start', true), ''), pgsync.session_start()::text);
    gone record;
    released boolean;
BEGIN
    -- xmax is 0 in a row that nobody has locked: the usual case, and the cheap one.
    DELETE FROM pgsync.lock_holder AS h
    WHERE h.token = release_lock.token AND h.xmax = 0
      AND h.pid = pg_backend_pid() AND h.backend_start = started::timestamptz AND NOT h.handed_over
    RETURNING h.key, h.mode, CASE WHEN h.awaited THEN h.name END AS awaited, CASE WHEN h.audited AND h.expires_at <= pgsync.clock() THEN jsonb_build_object(
        'token', h.token, 'expired_at', h.expires_at, 'name', h.name, 'owner', h.owner) END AS late INTO gone;
    IF NOT FOUND THEN
        gone := pgsync.release_guarded_lock(token);
        IF gone.key IS NULL THEN
            RETURN false;
        END IF;
    END IF;
    -- This transaction keeps the advisory lock until it has ended: so whoever waits for it wakes to
    -- find the row gone. Jobs that wait find it free at once.
    IF gone.awaited IS NULL THEN
        PERFORM CASE WHEN gone.mode = 'shared' THEN pg_try_advisory_xact_lock_shared(gone.key) ELSE pg_try_advisory_xact_lock(gone.key) END;
    END IF;
    released := CASE WHEN gone.mode = 'shared' THEN pg_advisory_unlock_shared(gone.key) ELSE pg_advisory_unlock(gone.key) END;
    started := set_config('pgsync.lock_room', coalesce(nullif(current_setting('pgsync.lock_room', true), '')::integer + 1, 0)::text, false);
    IF gone.late IS NOT NULL THEN
        PERFORM pgsync.record_audit('lock.expired', gone.late ->> 'name', gone.late ->> 'owner',
            gone.late - '{name,owner}'::text[]);
    END IF;
    IF gone.awaited IS NOT NULL THEN
        PERFORM pgsync.resume_lock_lines(ARRAY[gone.awaited]);
    END IF;
    RETURN released;
END
$$;

COMMENT ON FUNCTION pgsync.release_lock(bigint) IS
    'Releases the lock that this session holds with the token, which passes on when the transaction ends; false where it holds none with it. A guarded transaction that is still open holds off the next holder until it ends.';

CREATE OR REPLACE FUNCTION pgsync.expire_lock(token bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
BEGIN
    UPDATE pgsync.lock_holder AS h SET expires_at = least(h.expires_at, pgsync.clock())
    WHERE h.token = expire_lock.token AND NOT h.handed_over
      AND h.pid = pg_backend_pid() AND h.backend_start = pgsync.session_start();
    RETURN pgsync.release_lock(token);
END
$$;

COMMENT ON FUNCTION pgsync.expire_lock(bigint) IS
    'Releases a lock whose ttl has passed for its holder, who counts from before the server did: an expiry, audited as such, and no release.';

CREATE OR REPLACE FUNCTION pgsync.unlock(name text, token bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM pgsync.lock_holder AS h WHERE h.token = unlock.token AND h.name = unlock.name)
        AND pgsync.release_lock(token);
END
$$;

COMMENT ON FUNCTION pgsync.unlock(text, bigint) IS
    'Releases a lock of this session; false where the token does not hold it here. A guarded transaction that is still open holds off the next holder until it ends.';

CREATE OR REPLACE FUNCTION pgsync.free_orphans(keys bigint[]) RETURNS integer
LANGUAGE sql VOLATILE AS $$
    SELECT count(pgsync.free_key(l.key, l.shared)) FROM (
        SELECT o.key, o.shared FROM pgsync.advisory_locks AS o
        WHERE o.pid = pg_backend_pid() AND o.granted
        OFFSET 0
    ) AS l
    WHERE (keys IS NULL OR l.key = ANY (keys))
      AND NOT EXISTS (SELECT FROM pgsync.lock_holder AS h
                      WHERE h.key = l.key AND NOT h.handed_over
                        AND h.pid = pg_backend_pid() AND h.backend_start = pgsync.session_start())
$$;

COMMENT ON FUNCTION pgsync.free_orphans(bigint[]) IS
    'Internal: gives back advisory locks of this session that have no holder''s row, since the transaction that took them failed; with null all of them.';

CREATE OR REPLACE FUNCTION pgsync.abandon_lock(name text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    released boolean;
BEGIN
    PERFORM pgsync.check_name(name, 'lock name');
    SELECT bool_or(pgsync.release_lock(m.token)) INTO released FROM (
        SELECT h.token FROM pgsync.lock_holder AS h
        WHERE h.name = abandon_lock.name
          AND h.pid = pg_backend_pid() AND h.backend_start = pgsync.session_start()
        OFFSET 0
    ) AS m;
    PERFORM pgsync.free_orphans(ARRAY(SELECT pgsync.slot_key(name, n) FROM generate_series(0, 1000) AS n)
        || pgsync.lock_key(name));
    RETURN coalesce(released, false);
END
$$;

COMMENT ON FUNCTION pgsync.abandon_lock(text) IS
    'Releases whatever this session holds under the name: for a caller whose try_lock was interrupted before it learned the token.';

CREATE OR REPLACE FUNCTION pgsync.abandon_all_but(tokens bigint[]) RETURNS integer
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    released integer;
BEGIN
    SELECT count(pgsync.release_lock(m.token)) INTO released FROM (
        SELECT h.token FROM pgsync.lock_holder AS h
        WHERE h.pid = pg_backend_pid() AND h.backend_start = pgsync.session_start()
          AND NOT h.handed_over AND NOT h.token = ANY (tokens)
        OFFSET 0
    ) AS m;
    PERFORM pgsync.free_orphans(NULL);
    RETURN released;
END
$$;

COMMENT ON FUNCTION pgsync.abandon_all_but(bigint[]) IS
    'Releases every lock of this session but those of the tokens: for the owner of a session that is pgsync''s alone, whose statement was interrupted before it learned what it was granted.';
