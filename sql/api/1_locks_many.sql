-- Many locks in one call.

CREATE OR REPLACE FUNCTION pgsync.exchange_locks(
    released bigint[], names text[], ttls interval[], owners text[], modes text[], slots integer[],
    delays interval[], audited boolean[]
) RETURNS TABLE (
    place integer, acquired boolean, token bigint, holder text, acquired_at timestamptz,
    expires_at timestamptz, waited interval, obstacle text
)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    FOR n IN 1..cardinality(released) LOOP
        place := -n;
        acquired := pgsync.release_lock(released[n]);
        RETURN NEXT;
    END LOOP;
    FOR n IN 1..cardinality(names) LOOP
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
