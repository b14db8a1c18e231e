-- Locks: session advisory locks with an owner, a deadline and a fencing token.
--
-- Call these outside an explicit transaction: the advisory lock belongs to the session, so a
-- ROLLBACK would take back the holder's row and leave the lock. For a lock that ends with a
-- transaction see 1_locks_transaction.sql.
--
-- The calls set enable_seqscan off: a session plans its statements once, when the table of holders
-- may be empty, and would read all of it at each call once ten thousand locks are held.

DROP FUNCTION IF EXISTS pgsync.record_holder(text, bigint, interval, text, text);
DROP FUNCTION IF EXISTS pgsync.take_expired_lock(bigint);
DROP FUNCTION IF EXISTS pgsync.try_lock(text, interval, text, text);
DROP FUNCTION IF EXISTS pgsync.wait_lock(text, interval, text, interval, text);

-- STABLE like convert_to: declared IMMUTABLE it would never be inlined.
CREATE OR REPLACE FUNCTION pgsync.lock_key(name text) RETURNS bigint
LANGUAGE sql STABLE STRICT PARALLEL SAFE
RETURN ('x' || encode(substring(sha256(convert_to(name, 'UTF8')) FROM 1 FOR 8), 'hex'))::bit(64)::bigint;

COMMENT ON FUNCTION pgsync.lock_key(text) IS
    'The advisory lock of a name: the first 8 bytes of sha256(name) in UTF-8, as a signed big-endian number.';

CREATE OR REPLACE FUNCTION pgsync.slot_key(name text, slot integer) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN ('x' || encode(substring(sha256(convert_to(name, 'UTF8') || '\x00'::bytea || int4send(slot)) FROM 1 FOR 8), 'hex'))::bit(64)::bigint;

COMMENT ON FUNCTION pgsync.slot_key(text, integer) IS
    'The advisory lock of one slot of a semaphore; slot 0 is the gate at which its waiters queue. The zero byte, which no name can hold, keeps it apart from all lock_key(name).';

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

-- As the owner of the schema: who may set the sequence may also set it back.
CREATE OR REPLACE FUNCTION pgsync.lock_token_base() RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pgsync, pg_temp AS $$
DECLARE
    -- A session lives in one life of the server, so it may remember what it read.
    known bigint := nullif(current_setting('pgsync.lock_token_base', true), '')::bigint;
    timeline bigint;
BEGIN
    IF known IS NOT NULL THEN
        RETURN known;
    END IF;
    SELECT b.base INTO known FROM pgsync.lock_token_base AS b;
    IF NOT FOUND THEN
        PERFORM pg_advisory_xact_lock(pgsync.slot_key('pgsync.lock_token_base', 0));
        SELECT b.base INTO known FROM pgsync.lock_token_base AS b;
    END IF;
    IF known IS NULL THEN
        -- The first grant since a crash or a failover. A standby that lagged may have missed
        -- tokens, but it writes a higher timeline; a cluster made anew begins again with the first,
        -- so what counts is by how much the timeline differs. After a crash it is the same: there
        -- the sequence may have lost what was not flushed yet, a second's worth, and leaps far
        -- beyond that. All this must be on disk before a token is given out.
        PERFORM set_config('synchronous_commit', 'on', true);
        timeline := ('x' || substring(pg_walfile_name(pg_current_wal_insert_lsn()) FROM 1 FOR 8))::bit(32)::bigint;
        INSERT INTO pgsync.lock_token_epoch AS e (epoch, timeline) VALUES (timeline, timeline)
        ON CONFLICT (only_row) DO UPDATE SET timeline = excluded.timeline, epoch = CASE
            WHEN excluded.timeline >= e.timeline THEN e.epoch + excluded.timeline - e.timeline
            ELSE e.epoch + 1 END
        RETURNING e.epoch << 44 INTO known;
        PERFORM setval('pgsync.lock_token', nextval('pgsync.lock_token') + 1000000);
        INSERT INTO pgsync.lock_token_base (base, set_at) VALUES (known, pgsync.clock());
    END IF;
    PERFORM set_config('pgsync.lock_token_base', known::text, false);
    RETURN known;
END
$$;

COMMENT ON FUNCTION pgsync.lock_token_base() IS
    'The high bits of this server life''s fencing tokens: an epoch that rises with the timeline of the server''s log, shifted left by 44 bits. A token is this plus the next value of pgsync.lock_token, so tokens never go back, not even after a failover to a standby that had lagged.';

CREATE OR REPLACE FUNCTION pgsync.draw_lock_room() RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    per_session bigint := current_setting('max_locks_per_transaction')::bigint;
    nominal bigint := per_session
        * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint);
    sessions bigint := (SELECT count(*) FROM pg_stat_activity AS a WHERE a.backend_type = 'client backend');
    used bigint;
BEGIN
    FOR round IN 1..2 LOOP
        SELECT count(*) INTO used FROM pgsync.lock_holder;
        EXIT WHEN used < nominal / 4;
        IF round = 1 THEN
            PERFORM pgsync.forget_dead_holders();
        END IF;
    END LOOP;
    IF used >= nominal / 4 THEN
        -- Beyond the whole of it, new connections fail, for everybody.
        RAISE EXCEPTION USING ERRCODE = 'PS002',
            MESSAGE = format('%s locks are held, and pgsync takes no more than a quarter of the server''s lock table (%s)', used, nominal),
            HINT = format('Set max_locks_per_transaction to %s or more (it is %s) and restart the server.',
                2 * per_session, per_session);
    END IF;
    -- All who draw at once may use what they drew: together half of what is left.
    RETURN greatest(1, least(500, (nominal / 4 - used) / (2 * sessions)));
END
$$;

COMMENT ON FUNCTION pgsync.draw_lock_room() IS
    'Internal: how many more locks this session may hold before it must ask again. Raises PS002 once a quarter of the server''s lock table is in use.';

CREATE OR REPLACE FUNCTION pgsync.forget_dead_holders() RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    forgotten bigint;
BEGIN
    WITH dead AS (
        SELECT h.token, h.delay, h.lost_at, h.expires_at FROM pgsync.lock_holder AS h
        WHERE NOT h.handed_over
          AND NOT EXISTS (SELECT FROM pg_stat_activity AS a
                          WHERE a.pid = h.pid
                            AND (a.backend_start = h.backend_start OR a.backend_start IS NULL))
        FOR UPDATE OF h SKIP LOCKED
    ), seen AS (
        UPDATE pgsync.lock_holder AS h SET lost_at = pgsync.clock()
        FROM dead AS d WHERE h.token = d.token AND d.delay IS NOT NULL AND d.lost_at IS NULL
    )
    DELETE FROM pgsync.lock_holder AS h USING dead AS d
    WHERE h.token = d.token
      AND (d.delay IS NULL OR least(d.lost_at, d.expires_at) + d.delay <= pgsync.clock());
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    RETURN forgotten;
END
$$;

COMMENT ON FUNCTION pgsync.forget_dead_holders() IS
    'Removes the rows of holders whose sessions have gone, once their lock delay has passed; returns how many. The next holder does that for its own lock, so this is housekeeping.';

CREATE OR REPLACE FUNCTION pgsync.holds_key(key bigint, shared boolean) RETURNS boolean
LANGUAGE sql VOLATILE
RETURN EXISTS (
    SELECT FROM pgsync.advisory_locks AS l
    WHERE l.pid = pg_backend_pid() AND l.granted AND l.key = holds_key.key AND l.shared = holds_key.shared
);

COMMENT ON FUNCTION pgsync.holds_key(bigint, boolean) IS 'Whether this session holds the advisory lock.';

CREATE OR REPLACE FUNCTION pgsync.try_key(key bigint, shared boolean) RETURNS boolean
LANGUAGE sql VOLATILE
RETURN CASE WHEN shared THEN pg_try_advisory_lock_shared(key) ELSE pg_try_advisory_lock(key) END;

COMMENT ON FUNCTION pgsync.try_key(bigint, boolean) IS 'Internal: takes the advisory lock if it is free.';

CREATE OR REPLACE FUNCTION pgsync.free_key(key bigint, shared boolean) RETURNS boolean
LANGUAGE sql VOLATILE
RETURN CASE WHEN shared THEN pg_advisory_unlock_shared(key) ELSE pg_advisory_unlock(key) END;

COMMENT ON FUNCTION pgsync.free_key(bigint, boolean) IS 'Internal: gives the advisory lock back.';

CREATE OR REPLACE FUNCTION pgsync.wait_for_key(key bigint, shared boolean, patience interval) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET lock_timeout = '1s' AS $$
BEGIN
    PERFORM set_config('lock_timeout', greatest(1, ceil(extract(epoch FROM patience) * 1000))::text, true);
    IF shared THEN
        PERFORM pg_advisory_lock_shared(key);
    ELSE
        PERFORM pg_advisory_lock(key);
    END IF;
    RETURN true;
EXCEPTION
    -- Either may strike just after the grant: ask, and never leave the lock behind.
    WHEN lock_not_available THEN
        RETURN pgsync.holds_key(key, shared);
    WHEN query_canceled THEN
        IF pgsync.holds_key(key, shared) THEN
            PERFORM pgsync.free_key(key, shared);
        END IF;
        RAISE;
END
$$;

COMMENT ON FUNCTION pgsync.wait_for_key(bigint, boolean, interval) IS
    'Internal: waits for the advisory lock in the server''s queue, and says whether it came.';

CREATE OR REPLACE FUNCTION pgsync.end_session(pid integer, backend_start timestamptz) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    session record;
BEGIN
    SELECT a.usename, a.backend_start INTO session FROM pg_stat_activity AS a
    WHERE a.pid = end_session.pid AND a.datname = current_database();
    IF NOT FOUND OR session.backend_start <> end_session.backend_start THEN
        RETURN false;
    END IF;
    -- Of another role's session one sees no more than that it is there.
    IF session.backend_start IS NULL OR NOT pg_has_role(session.usename, 'USAGE')
            AND NOT pg_has_role('pg_signal_backend', 'USAGE') THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('%s may not end the session of %s (pid %s)', current_user, session.usename, pid),
            HINT = format('GRANT pg_signal_backend, pg_read_all_stats TO %I, or connect both as one role.', current_user);
    END IF;
    RETURN pg_terminate_backend(end_session.pid);
END
$$;

COMMENT ON FUNCTION pgsync.end_session(integer, timestamptz) IS
    'Ends the session that pid and backend_start name; false where it has gone. Needs its role, or pg_signal_backend and pg_read_all_stats: raises insufficient_privilege and says what to grant.';

CREATE OR REPLACE FUNCTION pgsync.guards_of(token bigint) RETURNS TABLE (pid integer, backend_start timestamptz)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT l.pid, l.backend_start FROM pgsync.advisory_locks AS l
    WHERE l.granted AND l.key = pgsync.slot_key(guards_of.token::text, -1);
END;

COMMENT ON FUNCTION pgsync.guards_of(bigint) IS
    'The sessions whose transactions are guarded by the lock of this token (assert_lock), and so hold off the next holder.';

CREATE OR REPLACE FUNCTION pgsync.end_overdue_guards(former pgsync.lock_holder) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    grace interval := coalesce(nullif(current_setting('pgsync.guard_grace', true), ''), '30 seconds')::interval;
    ended boolean := false;
    guard record;
BEGIN
    IF former.expires_at + grace > pgsync.clock() THEN
        RETURN false;
    END IF;
    FOR guard IN SELECT g.pid, g.backend_start FROM pgsync.guards_of(former.token) AS g WHERE g.pid <> pg_backend_pid() LOOP
        ended := pgsync.end_session(guard.pid, guard.backend_start) OR ended;
    END LOOP;
    RETURN ended;
EXCEPTION WHEN insufficient_privilege THEN
    RETURN false;
END
$$;

COMMENT ON FUNCTION pgsync.end_overdue_guards(pgsync.lock_holder) IS
    'Internal: ends the sessions of guarded transactions that go on beyond the lock''s deadline by more than the setting pgsync.guard_grace (30 seconds).';

CREATE OR REPLACE FUNCTION pgsync.kept_back(key bigint, mode text) RETURNS pgsync.lock_holder
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    kept pgsync.lock_holder;
    now timestamptz := pgsync.clock();
BEGIN
    SELECT h.* INTO kept FROM pgsync.lock_holder AS h
    WHERE h.key = kept_back.key AND (kept_back.mode <> 'shared' OR h.mode <> 'shared')
      AND (h.handed_over AND h.expires_at > now
           OR h.pid <> 0 AND least(h.lost_at, h.expires_at) + h.delay > now AND h.lost_at IS NOT NULL)
    LIMIT 1;
    IF NOT kept.handed_over THEN
        kept.expires_at := least(kept.lost_at, kept.expires_at) + kept.delay;
    END IF;
    RETURN kept;
END
$$;

COMMENT ON FUNCTION pgsync.kept_back(bigint, text) IS
    'Internal: whoever keeps a lock from being granted by the row alone: it was handed over, or its lost holder''s delay runs. Reads only: a row that is locked meanwhile would be passed over by the next who tries, and would keep the one it was handed over to waiting.';

CREATE OR REPLACE FUNCTION pgsync.may_be_in_the_way(key bigint, mode text) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    -- A row that a release is about to delete is passed over; see former_in_the_way.
    PERFORM FROM pgsync.lock_holder AS h
    WHERE h.key = may_be_in_the_way.key AND (may_be_in_the_way.mode <> 'shared' OR h.mode <> 'shared')
      AND NOT h.handed_over
    LIMIT 1 FOR KEY SHARE SKIP LOCKED;
    RETURN FOUND OR EXISTS (
        SELECT FROM pgsync.lock_holder AS h
        WHERE h.key = may_be_in_the_way.key AND (h.handed_over OR h.lost_at IS NOT NULL));
END
$$;

COMMENT ON FUNCTION pgsync.may_be_in_the_way(bigint, text) IS
    'Internal, for who has just taken the advisory lock and found a row of a former holder: whether former_in_the_way must look at it.';

CREATE OR REPLACE FUNCTION pgsync.former_in_the_way(
    key bigint, mode text, patience interval
) RETURNS pgsync.lock_holder
LANGUAGE plpgsql VOLATILE SET lock_timeout = '1ms' AS $$
DECLARE
    former pgsync.lock_holder;
    now timestamptz;
BEGIN
    FOR round IN 1..3 LOOP
        former := pgsync.kept_back(key, mode);
        IF former.token IS NOT NULL THEN
            RETURN former;
        END IF;
        FOR former IN
            SELECT h.* FROM pgsync.lock_holder AS h
            WHERE h.key = former_in_the_way.key
              AND (former_in_the_way.mode <> 'shared' OR h.mode <> 'shared')
            FOR UPDATE SKIP LOCKED
        LOOP
            now := pgsync.clock();
            IF former.handed_over THEN
                IF former.expires_at > now THEN
                    RETURN former;
                END IF;
            ELSIF former.pid = pg_backend_pid() AND former.backend_start = pgsync.session_start() THEN
                -- Session locks stack: without this a session would be granted its own lock again.
                IF former.expires_at > now THEN
                    RETURN former;
                END IF;
                PERFORM pgsync.free_key(former.key, former.mode = 'shared');
            ELSIF former.pid <> 0 AND former.delay IS NOT NULL THEN
                IF former.lost_at IS NULL THEN
                    former.lost_at := now;
                    UPDATE pgsync.lock_holder AS h SET lost_at = now WHERE h.token = former.token;
                END IF;
                former.expires_at := least(former.lost_at, former.expires_at) + former.delay;
                IF former.expires_at > now THEN
                    RETURN former;
                END IF;
            END IF;
            DELETE FROM pgsync.lock_holder AS h WHERE h.token = former.token;
        END LOOP;
        -- What is left is locked: by a guarded transaction (assert_lock), which lets others have a
        -- key share of the row and must end first, or by a release that is about to commit, which
        -- no guard can have outlived, and lets nobody.
        SELECT h.* INTO former FROM pgsync.lock_holder AS h
        WHERE h.key = former_in_the_way.key
          AND (former_in_the_way.mode <> 'shared' OR h.mode <> 'shared')
        LIMIT 1 FOR KEY SHARE SKIP LOCKED;
        IF NOT FOUND THEN
            RETURN NULL;
        ELSIF pgsync.end_overdue_guards(former) THEN
            -- Its row is free once the ended session has rolled back.
            patience := greatest(patience, interval '2 seconds');
        ELSIF round > 1 OR patience <= interval '0' THEN
            RETURN former;
        END IF;
        PERFORM set_config('lock_timeout', greatest(1, ceil(extract(epoch FROM patience) * 1000))::text, true);
        PERFORM FROM pgsync.lock_holder AS h WHERE h.token = former.token FOR UPDATE;
    END LOOP;
EXCEPTION WHEN lock_not_available THEN
    RETURN former;
END
$$;

COMMENT ON FUNCTION pgsync.former_in_the_way(bigint, text, interval) IS
    'Internal, for who has just taken the advisory lock: removes the rows of former holders, or returns the one that keeps the lock from being granted: guarded still, handed over, lost and delayed, or this session''s own.';

CREATE OR REPLACE FUNCTION pgsync.grant_lock(
    name text, key bigint, ttl interval, owner text, mode text, slot integer, delay interval,
    audited boolean, patience interval,
    OUT token bigint, OUT acquired_at timestamptz, OUT expires_at timestamptz, OUT in_the_way pgsync.lock_holder
)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    base bigint := coalesce(nullif(current_setting('pgsync.lock_token_base', true), '')::bigint, pgsync.lock_token_base());
    room integer := coalesce(nullif(current_setting('pgsync.lock_room', true), '')::integer, 0);
    started timestamptz := coalesce(nullif(current_setting('pgsync.session_start', true), '')::timestamptz, pgsync.session_start());
BEGIN
    IF room <= 0 THEN
        room := pgsync.draw_lock_room();
    END IF;
    PERFORM FROM pgsync.lock_holder AS h
    WHERE h.key = grant_lock.key AND (grant_lock.mode <> 'shared' OR h.mode <> 'shared') LIMIT 1;
    IF FOUND AND pgsync.may_be_in_the_way(key, mode) THEN
        in_the_way := pgsync.former_in_the_way(key, mode, patience);
        IF in_the_way.token IS NOT NULL THEN
            room := pgsync.free_key(key, mode = 'shared')::integer;
            RETURN;
        END IF;
    END IF;
    -- Drawn while the advisory lock is held: so a later grant of the name has a higher one.
    token := base + nextval('pgsync.lock_token');
    acquired_at := pgsync.clock();
    expires_at := acquired_at + ttl;
    INSERT INTO pgsync.lock_holder
        (token, key, name, mode, slot, owner, host, pid, backend_start, acquired_at, expires_at, delay, audited)
    VALUES (grant_lock.token, grant_lock.key, grant_lock.name, grant_lock.mode, grant_lock.slot, grant_lock.owner,
            nullif(current_setting('pgsync.host', true), ''), pg_backend_pid(), started,
            grant_lock.acquired_at, grant_lock.expires_at, grant_lock.delay, grant_lock.audited);
    room := set_config('pgsync.lock_room', (room - 1)::text, false);
END
$$;

COMMENT ON FUNCTION pgsync.grant_lock(text, bigint, interval, text, text, integer, interval, boolean, interval) IS
    'Internal: writes the holder''s row for an advisory lock that this session has just taken. Where a former holder is in the way it gives the lock back and returns that holder, and no token.';

CREATE OR REPLACE FUNCTION pgsync.end_expired_holders(keys bigint[], OUT ended boolean, OUT obstacle text)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    held pgsync.lock_holder;
BEGIN
    ended := false;
    FOR held IN
        SELECT h.* FROM pgsync.lock_holder AS h
        WHERE h.key = ANY (keys) AND h.expires_at <= pgsync.clock() AND h.pid <> 0
          -- Of one that was handed over, that session has other locks only.
          AND h.pid <> pg_backend_pid() AND NOT h.handed_over
    LOOP
        CONTINUE WHEN NOT pgsync.end_session(held.pid, held.backend_start);
        ended := true;
        IF held.audited THEN
            PERFORM pgsync.record_audit('lock.expired', held.name, held.owner,
                jsonb_build_object('token', held.token, 'expired_at', held.expires_at));
        END IF;
    END LOOP;
EXCEPTION WHEN insufficient_privilege THEN
    GET STACKED DIAGNOSTICS obstacle = MESSAGE_TEXT;
END
$$;

COMMENT ON FUNCTION pgsync.end_expired_holders(bigint[]) IS
    'Internal: ends the sessions of holders past their deadline; obstacle says why where this role may not.';
