-- Fencing: what a holder's token is good for, inside this database and outside.

CREATE OR REPLACE FUNCTION pgsync.assert_lock(name text, token bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
BEGIN
    -- Nobody waits for this one: it tells who guards, which a row's lock does not.
    PERFORM pg_advisory_xact_lock_shared(pgsync.slot_key(token::text, -1));
    PERFORM FROM pgsync.lock_holder AS h
    WHERE h.token = assert_lock.token
      AND h.name = assert_lock.name
      AND h.expires_at > pgsync.clock()
      AND NOT h.handed_over
      AND EXISTS (SELECT FROM pg_stat_get_activity(h.pid) AS a
                  WHERE a.backend_start = h.backend_start OR a.backend_start IS NULL)
      -- Nor has anybody been granted it since, whose own look the row of a release that failed
      -- before its commit would have escaped.
      AND NOT EXISTS (SELECT FROM pgsync.lock_holder AS n
                      WHERE n.key = h.key AND n.token > h.token AND (n.mode <> 'shared' OR h.mode <> 'shared'))
    FOR KEY SHARE OF h;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'PS001',
            MESSAGE = format('token %s no longer holds lock %L', assert_lock.token, assert_lock.name),
            HINT = 'Roll back: somebody else may hold the lock now.';
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.assert_lock(text, bigint) IS
    'In the transaction that the lock protects: raises PS001 unless the token holds the lock, and holds off the next holder until this transaction ends.';

CREATE OR REPLACE FUNCTION pgsync.fence(resource text, token bigint) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    highest bigint;
BEGIN
    PERFORM pgsync.check_name(resource, 'resource');
    IF token IS NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = 'token must not be null';
    END IF;
    INSERT INTO pgsync.fence AS f (resource, token, passed_at)
    VALUES (fence.resource, fence.token, pgsync.clock())
    ON CONFLICT ON CONSTRAINT fence_pkey DO UPDATE SET token = excluded.token, passed_at = excluded.passed_at
    WHERE f.token <= excluded.token;
    IF NOT FOUND THEN
        SELECT f.token INTO highest FROM pgsync.fence AS f WHERE f.resource = fence.resource;
        RAISE EXCEPTION USING ERRCODE = 'PS004',
            MESSAGE = format('token %s is stale for %L: %s has passed its fence', token, resource, highest),
            HINT = 'Stop: a later holder of the lock works on it.';
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.fence(text, bigint) IS
    'Lets a token pass if none higher has passed for the resource, else raises PS004. In the transaction of a write it makes a stale holder''s write impossible; others who pass the same fence wait for that transaction.';

CREATE OR REPLACE FUNCTION pgsync.prune_fences(unused interval DEFAULT interval '30 days') RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    pruned bigint;
BEGIN
    DELETE FROM pgsync.fence AS f WHERE f.resource = ANY (ARRAY(
        SELECT o.resource FROM pgsync.fence AS o WHERE o.passed_at < pgsync.clock() - unused
        ORDER BY o.passed_at LIMIT 10000 FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS pruned = ROW_COUNT;
    RETURN pruned;
END
$$;

COMMENT ON FUNCTION pgsync.prune_fences(interval) IS
    'Forgets fences that no token has passed for so long, at most 10,000 at a time; a holder frozen for longer than that would pass again. Returns how many.';

CREATE OR REPLACE FUNCTION pgsync.hand_over_lock(token bigint) RETURNS timestamptz
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    given pgsync.lock_holder;
BEGIN
    UPDATE pgsync.lock_holder AS h SET handed_over = true
    WHERE h.token = hand_over_lock.token
      AND h.expires_at > pgsync.clock() AND NOT h.handed_over
      AND h.pid = pg_backend_pid() AND h.backend_start = pgsync.session_start()
    RETURNING h.* INTO given;
    IF FOUND THEN
        PERFORM pgsync.free_key(given.key, given.mode = 'shared');
    END IF;
    RETURN given.expires_at;
END
$$;

COMMENT ON FUNCTION pgsync.hand_over_lock(bigint) IS
    'Leaves a lock of this session to whoever calls restore_lock with its token, in any session, before the deadline, which it returns; until then nobody else is granted it. Null where the token holds no lock here.';

CREATE OR REPLACE FUNCTION pgsync.restore_lock(
    name text,
    token bigint,
    ttl interval,
    owner text DEFAULT NULL,
    OUT acquired boolean,
    OUT new_token bigint,
    OUT holder text,
    OUT acquired_at timestamptz,
    OUT expires_at timestamptz
)
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    given pgsync.lock_holder;
    granted record;
    held pgsync.lock_holder;
    awaited boolean;
BEGIN
    PERFORM pgsync.check_duration(ttl, 'ttl');
    owner := coalesce(owner, session_user);
    SELECT h.* INTO given FROM pgsync.lock_holder AS h
    WHERE h.token = restore_lock.token AND h.name = restore_lock.name
      AND h.handed_over AND h.expires_at > pgsync.clock();
    -- Somebody who tries for the lock has it for an instant, until they see that it was handed over.
    acquired := FOUND AND pgsync.wait_for_key(given.key, given.mode = 'shared', '2 seconds');
    IF acquired THEN
        DELETE FROM pgsync.lock_holder AS h
        WHERE h.token = restore_lock.token AND h.handed_over AND h.expires_at > pgsync.clock()
        RETURNING h.awaited INTO awaited;
        IF FOUND THEN
            granted := pgsync.grant_lock(name, given.key, ttl, owner, given.mode, given.slot, given.delay, given.audited, '0');
            new_token := granted.token;
            acquired_at := granted.acquired_at;
            expires_at := granted.expires_at;
            holder := owner;
            IF awaited THEN
                UPDATE pgsync.lock_holder AS h SET awaited = true WHERE h.token = new_token;
            END IF;
        ELSE
            PERFORM pgsync.free_key(given.key, given.mode = 'shared');
        END IF;
    END IF;
    acquired := new_token IS NOT NULL;
    IF NOT acquired THEN
        held := pgsync.holder_of(ARRAY[coalesce(given.key, pgsync.lock_key(name))]);
        holder := held.owner;
        acquired_at := held.acquired_at;
        expires_at := held.expires_at;
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.restore_lock(text, bigint, interval, text) IS
    'Takes a lock that was handed over with this token. The new holder has a new token, higher than the old one, which is worth nothing from then on.';
