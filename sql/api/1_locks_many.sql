-- Many locks in one call.

CREATE OR REPLACE FUNCTION pgsync.exchange_locks(
    released bigint[], names text[], ttls interval[], owners text[], modes text[], slots integer[],
    delays interval[], audited boolean[]
) RETURNS TABLE (
    place integer, acquired boolean, token bigint, holder text, acquired_at timestamptz,
    expires_at timestamptz, waited interval, obstacle text
)
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    base bigint := coalesce(nullif(current_setting('pgsync.lock_token_base', true), '')::bigint, pgsync.lock_token_base());
    started timestamptz := coalesce(nullif(current_setting('pgsync.session_start', true), '')::timestamptz, pgsync.session_start());
    gone bigint[];
    keys bigint[];
    former bigint[];
    room integer;
    changed integer := 0;
    now timestamptz;
BEGIN
    -- What is usual is released, and granted, all at once; the rest one by one, as if it came alone.
    IF released <> '{}' THEN
        WITH gone AS (
            DELETE FROM pgsync.lock_holder AS h
            WHERE h.token = ANY (released) AND h.xmax = 0 AND h.mode = 'exclusive'
              AND h.pid = pg_backend_pid() AND h.backend_start = started
              AND NOT h.handed_over AND NOT h.awaited AND NOT h.audited
            RETURNING h.token, pg_advisory_unlock(h.key) AS freed
        )
        SELECT array_agg(g.token) FILTER (WHERE g.freed) INTO gone FROM gone AS g;
        FOR n IN 1..cardinality(released) LOOP
            place := -n;
            acquired := coalesce(released[n] = ANY (gone), false) OR pgsync.release_lock(released[n]);
            RETURN NEXT;
        END LOOP;
    END IF;
    room := coalesce(nullif(current_setting('pgsync.lock_room', true), '')::integer, 0) + coalesce(cardinality(gone), 0);

    IF names <> '{}' THEN
        -- Not in WHERE, which may try more than it lets pass. A name that comes twice is tried once.
        keys := ARRAY(
            SELECT CASE WHEN w.usual AND pg_try_advisory_lock(w.key) THEN w.key END
            FROM (SELECT pgsync.lock_key(n.name) AS key,
                         n.mode = 'exclusive' AND n.slot IS NULL AND n.delay IS NULL AND n.ttl > '0'
                         AND octet_length(n.name) BETWEEN 1 AND 1024 AND array_position(names, n.name) = n.place
                         AND cardinality(names) <= room AS usual
                  FROM unnest(names, ttls, modes, slots, delays) WITH ORDINALITY AS n (name, ttl, mode, slot, delay, place)
                  OFFSET 0) AS w);
        former := ARRAY(SELECT h.key FROM pgsync.lock_holder AS h WHERE h.key = ANY (keys));
        now := pgsync.clock();
        -- Tokens are drawn while the advisory locks are held; see grant_lock.
        RETURN QUERY
            INSERT INTO pgsync.lock_holder AS h
                (token, key, name, mode, owner, host, pid, backend_start, acquired_at, expires_at, audited)
            SELECT base + nextval('pgsync.lock_token'), w.key, w.name, 'exclusive', coalesce(w.owner, session_user),
                   nullif(current_setting('pgsync.host', true), ''), pg_backend_pid(), started, now, now + w.ttl, w.audited
            FROM unnest(keys, names, ttls, owners, audited) AS w (key, name, ttl, owner, audited)
            WHERE w.key IS NOT NULL AND w.key <> ALL (former)
            RETURNING array_position(keys, h.key), true, h.token, h.owner, h.acquired_at, h.expires_at, interval '0', NULL::text;
        GET DIAGNOSTICS changed = ROW_COUNT;
    END IF;
    room := set_config('pgsync.lock_room', (room - changed)::text, false);

    FOR n IN 1..cardinality(names) LOOP
        CONTINUE WHEN keys[n] IS NOT NULL AND keys[n] <> ALL (former);
        IF keys[n] IS NOT NULL THEN
            PERFORM pg_advisory_unlock(keys[n]);
        END IF;
        SELECT n, l.* INTO place, acquired, token, holder, acquired_at, expires_at, waited, obstacle
        FROM pgsync.acquire_lock(names[n], ttls[n], owners[n], modes[n], slots[n], delays[n], audited[n], '0', false) AS l;
        RETURN NEXT;
    END LOOP;
END
$$;

COMMENT ON FUNCTION pgsync.exchange_locks(bigint[], text[], interval[], text[], text[], integer[], interval[], boolean[]) IS
    'Many releases and tries in one round trip: a row for each release (place -1, -2...; acquired says whether it was held) and then for each try (place 1, 2...).';

CREATE OR REPLACE FUNCTION pgsync.try_locks(
    names text[],
    ttl interval,
    owner text DEFAULT NULL,
    mode text DEFAULT 'exclusive',
    delay interval DEFAULT NULL,
    audited boolean DEFAULT false,
    OUT acquired boolean,
    OUT tokens bigint[],
    OUT blocked_by text,
    OUT holder text,
    OUT acquired_at timestamptz,
    OUT expires_at timestamptz,
    OUT obstacle text
)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    wanted text;
    got record;
    by_name jsonb := '{}';
BEGIN
    IF names IS NULL OR cardinality(names) = 0 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'names must not be empty';
    END IF;
    FOR wanted IN SELECT DISTINCT n COLLATE "C" FROM unnest(names) AS n ORDER BY 1 LOOP
        got := pgsync.acquire_lock(wanted, ttl, owner, mode, NULL, delay, audited, '0', false);
        IF NOT got.acquired THEN
            PERFORM pgsync.release_lock(t.value::bigint) FROM jsonb_each_text(by_name) AS t;
            acquired := false;
            blocked_by := wanted;
            holder := got.holder;
            acquired_at := got.acquired_at;
            expires_at := got.expires_at;
            obstacle := got.obstacle;
            RETURN;
        END IF;
        by_name := by_name || jsonb_build_object(wanted, got.token);
    END LOOP;
    acquired := true;
    tokens := ARRAY(SELECT (by_name ->> n.name)::bigint FROM unnest(names) WITH ORDINALITY AS n (name, place) ORDER BY n.place);
    holder := got.holder;
    acquired_at := got.acquired_at;
    expires_at := got.expires_at;
END
$$;

COMMENT ON FUNCTION pgsync.try_locks(text[], interval, text, text, interval, boolean) IS
    'Takes all the locks or none. tokens are in the order of names; blocked_by is the name that somebody else holds.';
