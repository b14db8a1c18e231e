-- Taking a lock: try_lock and wait_lock, and what they are made of.

CREATE OR REPLACE FUNCTION pgsync.check_lock_request(
    name text, ttl interval, mode text, slots integer, delay interval
) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    PERFORM pgsync.check_name(name, 'lock name');
    PERFORM pgsync.check_duration(ttl, 'ttl');
    IF mode IS NULL OR mode NOT IN ('exclusive', 'shared', 'semaphore') THEN
        RAISE invalid_parameter_value USING MESSAGE = format('unknown lock mode %L', mode),
            HINT = 'Use exclusive, shared or semaphore.';
    ELSIF (mode = 'semaphore') <> (slots IS NOT NULL) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'slots must be given for a semaphore, and only for one';
    ELSIF slots NOT BETWEEN 1 AND 1000 THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('slots must be from 1 to 1000, not %s', slots);
    ELSIF delay <= interval '0' THEN
        RAISE invalid_parameter_value USING MESSAGE = format('delay must be above zero, not %s', delay);
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.check_lock_request(text, interval, text, integer, interval) IS
    'Internal: raises invalid_parameter_value for what no lock can be.';

CREATE OR REPLACE FUNCTION pgsync.take_slot(
    name text, slots integer, ttl interval, owner text, delay interval, audited boolean,
    OUT token bigint, OUT acquired_at timestamptz, OUT expires_at timestamptz, OUT in_the_way pgsync.lock_holder
)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    first integer := floor(random() * slots);
    slot integer;
    key bigint;
    granted record;
BEGIN
    FOR n IN 0..slots - 1 LOOP
        slot := 1 + (first + n) % slots;
        key := pgsync.slot_key(name, slot);
        IF pg_try_advisory_lock(key) THEN
            granted := pgsync.grant_lock(name, key, ttl, owner, 'semaphore', slot, delay, audited, '0');
            token := granted.token;
            acquired_at := granted.acquired_at;
            expires_at := granted.expires_at;
            in_the_way := granted.in_the_way;
            EXIT WHEN token IS NOT NULL;
        END IF;
    END LOOP;
END
$$;

COMMENT ON FUNCTION pgsync.take_slot(text, integer, interval, text, interval, boolean) IS
    'Internal: takes a free slot of a semaphore; without a token where there is none.';

CREATE OR REPLACE FUNCTION pgsync.wait_for_slot(
    name text, slots integer, ttl interval, owner text, delay interval, audited boolean, patience interval,
    OUT token bigint, OUT acquired_at timestamptz, OUT expires_at timestamptz, OUT in_the_way pgsync.lock_holder
)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    gate bigint := pgsync.slot_key(name, 0);
    until timestamptz := clock_timestamp() + patience;
    granted record;
BEGIN
    -- One waiter looks, at the head of the server's queue; nobody can wait for any of many locks.
    IF NOT pgsync.wait_for_key(gate, false, patience) THEN
        RETURN;
    END IF;
    LOOP
        granted := pgsync.take_slot(name, slots, ttl, owner, delay, audited);
        EXIT WHEN granted.token IS NOT NULL OR clock_timestamp() >= until;
        PERFORM pg_sleep(0.005);
    END LOOP;
    PERFORM pg_advisory_unlock(gate);
    token := granted.token;
    acquired_at := granted.acquired_at;
    expires_at := granted.expires_at;
    in_the_way := granted.in_the_way;
END
$$;

COMMENT ON FUNCTION pgsync.wait_for_slot(text, integer, interval, text, interval, boolean, interval) IS
    'Internal: waits until a slot of a semaphore is free, behind those who wait already.';

CREATE OR REPLACE FUNCTION pgsync.holder_of(keys bigint[]) RETURNS pgsync.lock_holder
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    held pgsync.lock_holder;
BEGIN
    FOR look IN 1..3 LOOP
        SELECT h.* INTO held FROM pgsync.lock_holder AS h WHERE h.key = ANY (keys)
        ORDER BY h.mode = 'shared', h.expires_at LIMIT 1;
        IF FOUND THEN
            RETURN held;
        END IF;
        -- A holder that has the lock for an instant only has not committed its row yet.
        PERFORM pg_sleep(0.001);
    END LOOP;
    -- A transaction's lock, or a lock of somebody who knows the key only.
    SELECT format('%s (pid %s)', coalesce(nullif(l.application_name, ''), 'a session'), l.pid)
    INTO held.owner
    FROM pgsync.advisory_locks AS l WHERE l.granted AND l.key = ANY (keys) LIMIT 1;
    RETURN held;
END
$$;

COMMENT ON FUNCTION pgsync.holder_of(bigint[]) IS
    'Internal: who holds one of these advisory locks; of a session without a holder''s row what the server knows of it.';

CREATE OR REPLACE FUNCTION pgsync.wait_for_lock(
    name text, keys bigint[], ttl interval, owner text, mode text, slots integer, delay interval,
    audited boolean, patience interval, deadline timestamptz,
    OUT token bigint, OUT acquired_at timestamptz, OUT expires_at timestamptz, OUT in_the_way pgsync.lock_holder
)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    until timestamptz := clock_timestamp() + patience;
    granted record;
BEGIN
    -- Others see who waits, though this transaction has not committed.
    PERFORM set_config('application_name', left('pgsync locks: ' || owner, 63), true);
    -- Wait no longer than a deadline ahead: after it the next try may end the holder.
    IF deadline > pgsync.clock() THEN
        patience := least(patience, deadline - pgsync.clock());
    END IF;

    IF mode = 'semaphore' THEN
        granted := pgsync.wait_for_slot(name, slots, ttl, owner, delay, audited, patience);
    ELSIF pgsync.wait_for_key(keys[1], mode = 'shared', patience) THEN
        granted := pgsync.grant_lock(name, keys[1], ttl, owner, mode, NULL, delay, audited,
            greatest(until - clock_timestamp(), '0'));
        IF (granted.in_the_way).expires_at > pgsync.clock() THEN
            -- Handed over or delayed: no queue of the server's tells when that is over.
            PERFORM pg_sleep_for(least(until - clock_timestamp(), (granted.in_the_way).expires_at - pgsync.clock()));
        END IF;
    ELSE
        RETURN;
    END IF;
    token := granted.token;
    acquired_at := granted.acquired_at;
    expires_at := granted.expires_at;
    in_the_way := granted.in_the_way;
END
$$;

COMMENT ON FUNCTION pgsync.wait_for_lock(text, bigint[], interval, text, text, integer, interval, boolean, interval, timestamptz) IS
    'Internal: the waiting of acquire_lock.';

CREATE OR REPLACE FUNCTION pgsync.acquire_lock(
    name text,
    ttl interval,
    owner text,
    mode text,
    slots integer,
    delay interval,
    audited boolean,
    patience interval,
    resumed boolean,
    OUT acquired boolean,
    OUT token bigint,
    OUT holder text,
    OUT acquired_at timestamptz,
    OUT expires_at timestamptz,
    OUT waited interval,
    OUT obstacle text
)
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    key bigint := pgsync.lock_key(name);
    keys bigint[];
    shared boolean := mode = 'shared';
    began timestamptz;
    granted record;
    deadline timestamptz;
    ended boolean := false;
    in_the_way pgsync.lock_holder;
    held pgsync.lock_holder;
BEGIN
    IF (octet_length(name) BETWEEN 1 AND 1024 AND ttl > '0' AND mode IN ('exclusive', 'shared')
            AND slots IS NULL AND delay IS NULL) IS NOT TRUE THEN
        PERFORM pgsync.check_lock_request(name, ttl, mode, slots, delay);
    END IF;
    owner := coalesce(owner, session_user);
    waited := '0';
    acquired := false;

    IF mode = 'semaphore' THEN
        -- Who waits at the gate comes first.
        IF pg_try_advisory_lock_shared(pgsync.slot_key(name, 0)) THEN
            granted := pgsync.take_slot(name, slots, ttl, owner, delay, audited);
            acquired := granted.token IS NOT NULL;
            in_the_way := granted.in_the_way;
            PERFORM pg_advisory_unlock_shared(pgsync.slot_key(name, 0));
        END IF;
    ELSIF pgsync.try_key(key, shared) THEN
        granted := pgsync.grant_lock(name, key, ttl, owner, mode, NULL, delay, audited, '0');
        acquired := granted.token IS NOT NULL;
        IF NOT acquired THEN
            in_the_way := granted.in_the_way;
        END IF;
    END IF;

    IF NOT acquired THEN
        keys := CASE WHEN mode = 'semaphore'
            THEN ARRAY(SELECT pgsync.slot_key(name, n) FROM generate_series(1, slots) AS n) ELSE ARRAY[key] END;
        IF audited AND NOT resumed THEN
            PERFORM pgsync.record_audit('lock.contended', name, owner, jsonb_build_object(
                'held_by', (pgsync.holder_of(keys)).owner, 'waits', patience > interval '0'));
        END IF;
        began := clock_timestamp();
        SELECT min(h.expires_at) INTO deadline FROM pgsync.lock_holder AS h WHERE h.key = ANY (keys);
        IF deadline <= pgsync.clock() THEN
            SELECT e.ended, e.obstacle INTO ended, obstacle FROM pgsync.end_expired_holders(keys) AS e;
        END IF;
        IF patience > interval '0' OR ended THEN
            -- The lock of a session that was ended comes in a few milliseconds.
            granted := pgsync.wait_for_lock(name, keys, ttl, owner, mode, slots, delay, audited,
                greatest(patience, CASE WHEN ended THEN interval '2 seconds' ELSE '0' END), deadline);
            acquired := granted.token IS NOT NULL;
            in_the_way := granted.in_the_way;
        END IF;
        waited := clock_timestamp() - began;
    END IF;

    IF acquired THEN
        token := granted.token;
        holder := owner;
        acquired_at := granted.acquired_at;
        expires_at := granted.expires_at;
        RETURN;
    END IF;
    held := in_the_way;
    IF held.token IS NULL THEN
        held := pgsync.holder_of(keys);
    END IF;
    IF shared AND held.mode = 'shared' THEN
        obstacle := 'somebody waits for it exclusively, and comes first';
    ELSIF held.handed_over THEN
        obstacle := 'it was handed over, and waits for the one who has its token';
    ELSIF in_the_way.delay IS NOT NULL AND in_the_way.lost_at IS NOT NULL THEN
        obstacle := 'its former holder was lost, and its lock delay has not passed';
    END IF;
    holder := held.owner;
    acquired_at := held.acquired_at;
    expires_at := held.expires_at;
END
$$;

COMMENT ON FUNCTION pgsync.acquire_lock(text, interval, text, text, integer, interval, boolean, interval, boolean) IS
    'What try_lock and wait_lock do, without their protection: whose call of this is interrupted must call abandon_lock. resumed: an earlier call has begun to wait, which need not be audited again.';

CREATE OR REPLACE FUNCTION pgsync.wait_lock(
    name text,
    ttl interval,
    owner text,
    patience interval,
    mode text DEFAULT 'exclusive',
    slots integer DEFAULT NULL,
    delay interval DEFAULT NULL,
    audited boolean DEFAULT false,
    OUT acquired boolean,
    OUT token bigint,
    OUT holder text,
    OUT acquired_at timestamptz,
    OUT expires_at timestamptz,
    OUT waited interval,
    OUT obstacle text
)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    SELECT l.* INTO acquired, token, holder, acquired_at, expires_at, waited, obstacle
    FROM pgsync.acquire_lock(name, ttl, owner, mode, slots, delay, audited, patience, false) AS l;
EXCEPTION WHEN query_canceled OR OTHERS THEN
    -- The session lock outlives this transaction: give it back, or nobody ever does.
    PERFORM pgsync.abandon_lock(name);
    RAISE;
END
$$;

COMMENT ON FUNCTION pgsync.wait_lock(text, interval, text, interval, text, integer, interval, boolean) IS
    'try_lock that waits in the server''s queue for at most patience, and says how long it waited. Keep patience to about a second and call again: a blocked statement holds back vacuum. It may return before, at the holder''s deadline: call again.';

CREATE OR REPLACE FUNCTION pgsync.try_lock(
    name text,
    ttl interval,
    owner text DEFAULT NULL,
    mode text DEFAULT 'exclusive',
    slots integer DEFAULT NULL,
    delay interval DEFAULT NULL,
    audited boolean DEFAULT false,
    OUT acquired boolean,
    OUT token bigint,
    OUT holder text,
    OUT acquired_at timestamptz,
    OUT expires_at timestamptz,
    OUT obstacle text
)
LANGUAGE sql VOLATILE AS $$
    SELECT l.acquired, l.token, l.holder, l.acquired_at, l.expires_at, l.obstacle
    FROM pgsync.wait_lock(name, ttl, owner, '0', mode, slots, delay, audited) AS l
$$;

COMMENT ON FUNCTION pgsync.try_lock(text, interval, text, text, integer, interval, boolean) IS
    'Takes the lock for this session, or says who holds it. One row: acquired, token (of your grant only), holder, acquired_at, expires_at, obstacle (what else is in the way). mode is exclusive, shared or semaphore (with slots). delay: how long nobody is granted it after this holder was lost. A holder past its deadline has its session ended.';
