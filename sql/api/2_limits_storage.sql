-- A storage for the Python library limits: each of its methods is one function.
--
-- Its three strategies keep tables of their own. As in limits.sql the decision is the upsert itself,
-- with the row locked; where a look before it can refuse, nothing is written. Durations that come
-- back are counted from now, so that no client's clock matters. Sequential scans are off: a plan that
-- a session caches while a table is empty would scan it ever after.

CREATE OR REPLACE FUNCTION pgsync.limits_storage_length(key text, expiry interval, amount bigint)
RETURNS interval
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    PERFORM pgsync.check_name(key, 'limit key');
    PERFORM pgsync.check_duration(expiry, 'expiry');
    IF amount IS NULL OR amount < 0 THEN
        RAISE invalid_parameter_value USING MESSAGE = format('amount must be 0 or more, not %s', amount);
    END IF;
    -- In seconds: a day of a session's time zone may have 23 hours.
    RETURN make_interval(secs => extract(epoch FROM expiry)::double precision);
END
$$;

COMMENT ON FUNCTION pgsync.limits_storage_length(text, interval, bigint) IS
    'Internal: checks the arguments of a hit and returns the length of its window in seconds.';

-- Fixed windows ----------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION pgsync.limits_storage_incr(key text, expiry interval, amount bigint DEFAULT 1)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
    length interval := pgsync.limits_storage_length(key, expiry, amount);
    moment timestamptz := pgsync.clock();
    counted bigint;
BEGIN
    INSERT INTO pgsync.limits_storage_counter AS c (key, hits, expires_at)
    VALUES (limits_storage_incr.key, amount, moment + length)
    ON CONFLICT (key) DO UPDATE
    SET hits = CASE WHEN c.expires_at > moment THEN c.hits ELSE 0 END + excluded.hits,
        expires_at = CASE WHEN c.expires_at > moment THEN c.expires_at ELSE excluded.expires_at END
    RETURNING c.hits INTO counted;
    RETURN counted;
END
$$;

COMMENT ON FUNCTION pgsync.limits_storage_incr(text, interval, bigint) IS
    'Counts a hit of a fixed window, which the first one opens, and returns how many it has now.';

CREATE OR REPLACE FUNCTION pgsync.limits_storage_get(key text, OUT hits bigint, OUT expires_in interval)
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    moment timestamptz := pgsync.clock();
BEGIN
    SELECT c.hits, c.expires_at - moment INTO hits, expires_in
    FROM pgsync.limits_storage_counter AS c
    WHERE c.key = limits_storage_get.key AND c.expires_at > moment;
    hits := coalesce(hits, 0);
    expires_in := coalesce(expires_in, interval '0');
END
$$;

COMMENT ON FUNCTION pgsync.limits_storage_get(text) IS
    'The hits of a fixed window and how long it goes on; zero of both where there is none.';

-- Sliding window counters ------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION pgsync.limits_storage_slide(
    kept pgsync.limits_storage_sliding,
    moment timestamptz,
    length interval
) RETURNS TABLE (
    previous_hits bigint,
    hits bigint,
    expires_at timestamptz,
    previous_expires_in interval,
    weighted bigint
)
LANGUAGE sql STABLE AS $$
    SELECT s.previous_hits, s.hits, s.expires_at, s.previous_expires_in,
           floor(s.previous_hits * extract(epoch FROM s.previous_expires_in) / extract(epoch FROM length))::bigint
               + s.hits
    FROM (
        SELECT w.previous_hits, w.hits, w.expires_at,
               CASE WHEN w.previous_hits = 0 THEN interval '0'
                    ELSE least(w.expires_at - length - moment, length) END AS previous_expires_in
        FROM (
            SELECT kept.previous_hits, kept.hits, kept.expires_at WHERE kept.expires_at > moment + length
            UNION ALL
            -- The current window has ended: it is the one before, and the next follows without a gap.
            SELECT kept.hits, 0, kept.expires_at + length
            WHERE kept.expires_at > moment AND kept.expires_at <= moment + length
            UNION ALL
            SELECT 0, 0, moment + 2 * length WHERE (kept.expires_at > moment) IS NOT TRUE
        ) AS w
    ) AS s;
$$;

COMMENT ON FUNCTION pgsync.limits_storage_slide(pgsync.limits_storage_sliding, timestamptz, interval) IS
    'Internal: what a row of sliding windows is at a moment, and the hits of both weighed.';

CREATE OR REPLACE FUNCTION pgsync.limits_storage_acquire_sliding(
    key text, max bigint, expiry interval, amount bigint DEFAULT 1
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
    length interval := pgsync.limits_storage_length(key, expiry, amount);
    moment timestamptz := pgsync.clock();
    room bigint := max - amount;
    kept pgsync.limits_storage_sliding;
BEGIN
    SELECT * INTO kept FROM pgsync.limits_storage_sliding AS s
    WHERE s.key = limits_storage_acquire_sliding.key;
    IF (SELECT n.weighted <= room FROM pgsync.limits_storage_slide(kept, moment, length) AS n) IS NOT TRUE THEN
        RETURN false;
    END IF;
    INSERT INTO pgsync.limits_storage_sliding AS s (key, previous_hits, hits, expires_at)
    VALUES (limits_storage_acquire_sliding.key, 0, amount, moment + 2 * length)
    ON CONFLICT (key) DO UPDATE
    SET (previous_hits, hits, expires_at) = (
        SELECT n.previous_hits, n.hits + excluded.hits, n.expires_at
        FROM pgsync.limits_storage_slide(s, moment, length) AS n)
    WHERE (SELECT n.weighted <= room FROM pgsync.limits_storage_slide(s, moment, length) AS n);
    RETURN FOUND;
END
$$;

COMMENT ON FUNCTION pgsync.limits_storage_acquire_sliding(text, bigint, interval, bigint) IS
    'Takes permits if the hits of the current window, and those of the one before weighed by how much of it is left, leave room.';

CREATE OR REPLACE FUNCTION pgsync.limits_storage_get_sliding(
    key text,
    expiry interval,
    OUT previous_hits bigint,
    OUT previous_expires_in interval,
    OUT hits bigint,
    OUT expires_in interval
)
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
    length interval := pgsync.limits_storage_length(key, expiry, 0);
    moment timestamptz := pgsync.clock();
    kept pgsync.limits_storage_sliding;
BEGIN
    SELECT * INTO kept FROM pgsync.limits_storage_sliding AS s
    WHERE s.key = limits_storage_get_sliding.key AND s.expires_at > moment;
    SELECT n.previous_hits, n.previous_expires_in, n.hits,
           CASE WHEN kept.key IS NULL THEN interval '0' ELSE n.expires_at - moment END
    INTO previous_hits, previous_expires_in, hits, expires_in
    FROM pgsync.limits_storage_slide(kept, moment, length) AS n;
END
$$;

COMMENT ON FUNCTION pgsync.limits_storage_get_sliding(text, interval) IS
    'The hits of the window before and of the current one, and how long each of them goes on to weigh.';

-- Moving windows ---------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION pgsync.limits_storage_acquire_entry(
    key text, max bigint, expiry interval, amount bigint DEFAULT 1
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
    length interval := pgsync.limits_storage_length(key, expiry, amount);
    moment timestamptz := pgsync.clock();
    room bigint := max - amount;
    seen record;
    kept pgsync.limits_storage_moving;
BEGIN
    -- The latest entry before the window tells how many have left it. Where hits come in between,
    -- that is too few for a moment, which refuses one too many and never admits one.
    SELECT m.id, m.taken, greatest(m.gone, e.through) AS gone INTO seen
    FROM pgsync.limits_storage_moving AS m
    LEFT JOIN LATERAL (
        SELECT o.through FROM pgsync.limits_storage_entry AS o
        WHERE o.moving_id = m.id AND o.at < moment - length
        ORDER BY o.at DESC, o.through DESC LIMIT 1
    ) AS e ON true
    WHERE m.key = limits_storage_acquire_entry.key;
    IF (coalesce(seen.taken - seen.gone, 0) <= room) IS NOT TRUE THEN
        RETURN false;
    END IF;

    INSERT INTO pgsync.limits_storage_moving AS m (key, taken, gone, latest_at, expires_at)
    VALUES (limits_storage_acquire_entry.key, amount, 0, pgsync.clock(), moment + 2 * length)
    ON CONFLICT (key) DO UPDATE
    SET taken = m.taken + excluded.taken,
        gone = greatest(m.gone, CASE m.id WHEN seen.id THEN seen.gone END),
        -- The clock once more, with the row locked: entries are in the order of their admission.
        latest_at = greatest(m.latest_at, pgsync.clock()),
        expires_at = CASE WHEN m.expires_at > moment + length THEN m.expires_at ELSE excluded.expires_at END
    WHERE m.taken - greatest(m.gone, CASE m.id WHEN seen.id THEN seen.gone END) <= room
    RETURNING m.* INTO kept;
    IF NOT FOUND THEN
        RETURN false;
    END IF;

    IF amount > 0 THEN
        INSERT INTO pgsync.limits_storage_entry (moving_id, at, through, cost)
        VALUES (kept.id, kept.latest_at, kept.taken, amount);
    END IF;
    DELETE FROM pgsync.limits_storage_entry WHERE ctid = ANY (ARRAY(
        SELECT o.ctid FROM pgsync.limits_storage_entry AS o
        WHERE o.moving_id = kept.id AND o.at < moment - length AND o.through <= kept.gone
        ORDER BY o.at LIMIT 100));
    RETURN true;
END
$$;

COMMENT ON FUNCTION pgsync.limits_storage_acquire_entry(text, bigint, interval, bigint) IS
    'Takes permits of a moving window if fewer than max minus amount were taken in the time before now.';

CREATE OR REPLACE FUNCTION pgsync.limits_storage_get_moving(
    key text, expiry interval, OUT hits bigint, OUT oldest interval
)
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    length interval := pgsync.limits_storage_length(key, expiry, 0);
    moment timestamptz := pgsync.clock();
BEGIN
    SELECT m.taken - (e.through - e.cost), moment - e.at INTO hits, oldest
    FROM pgsync.limits_storage_moving AS m
    CROSS JOIN LATERAL (
        SELECT o.at, o.through, o.cost FROM pgsync.limits_storage_entry AS o
        WHERE o.moving_id = m.id AND o.at >= moment - length
        ORDER BY o.at, o.through LIMIT 1
    ) AS e
    WHERE m.key = limits_storage_get_moving.key;
    hits := coalesce(hits, 0);
    oldest := coalesce(oldest, interval '0');
END
$$;

COMMENT ON FUNCTION pgsync.limits_storage_get_moving(text, interval) IS
    'How many permits a moving window has given, and how long ago the oldest of them.';

-- All of them ------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION pgsync.limits_storage_clear(key text) RETURNS void
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    cleared bigint;
BEGIN
    DELETE FROM pgsync.limits_storage_counter AS c WHERE c.key = limits_storage_clear.key;
    DELETE FROM pgsync.limits_storage_sliding AS s WHERE s.key = limits_storage_clear.key;
    DELETE FROM pgsync.limits_storage_moving AS m WHERE m.key = limits_storage_clear.key
    RETURNING m.id INTO cleared;
    DELETE FROM pgsync.limits_storage_entry AS e WHERE e.moving_id = cleared;
END
$$;

COMMENT ON FUNCTION pgsync.limits_storage_clear(text) IS 'Forgets what all strategies know of a key.';

CREATE OR REPLACE FUNCTION pgsync.limits_storage_reset(prefix text) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    cleared bigint[];
    forgotten bigint;
BEGIN
    WITH counters AS (
        DELETE FROM pgsync.limits_storage_counter AS c WHERE starts_with(c.key, prefix) RETURNING c.expires_at
    ), slidings AS (
        DELETE FROM pgsync.limits_storage_sliding AS s WHERE starts_with(s.key, prefix) RETURNING s.expires_at
    ), movings AS (
        DELETE FROM pgsync.limits_storage_moving AS m WHERE starts_with(m.key, prefix) RETURNING m.expires_at, m.id
    )
    SELECT count(*) FILTER (WHERE g.expires_at > moment), array_agg(g.id)
    INTO forgotten, cleared
    FROM (
        SELECT c.expires_at, NULL::bigint AS id FROM counters AS c
        UNION ALL SELECT s.expires_at, NULL FROM slidings AS s
        UNION ALL SELECT m.expires_at, m.id FROM movings AS m
    ) AS g;
    DELETE FROM pgsync.limits_storage_entry AS e WHERE e.moving_id = ANY (cleared);
    RETURN forgotten;
END
$$;

COMMENT ON FUNCTION pgsync.limits_storage_reset(text) IS
    'Forgets all keys that begin with the prefix, and returns how many of them were in use.';

CREATE OR REPLACE FUNCTION pgsync.prune_limits_storage(batch integer DEFAULT 1000) RETURNS integer
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    -- A minute's grace keeps the clean-up off rows that are about to be used again.
    ended timestamptz := pgsync.clock() - interval '1 minute';
    idle bigint[];
    removed integer;
    pruned integer := 0;
BEGIN
    DELETE FROM pgsync.limits_storage_counter WHERE ctid = ANY (ARRAY(
        SELECT c.ctid FROM pgsync.limits_storage_counter AS c WHERE c.expires_at < ended
        ORDER BY c.expires_at LIMIT batch FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS removed = ROW_COUNT;
    pruned := pruned + removed;

    DELETE FROM pgsync.limits_storage_sliding WHERE ctid = ANY (ARRAY(
        SELECT s.ctid FROM pgsync.limits_storage_sliding AS s WHERE s.expires_at < ended
        ORDER BY s.expires_at LIMIT batch FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS removed = ROW_COUNT;
    pruned := pruned + removed;

    -- A window's entries first, in as many turns as they need, and the row when none is left.
    idle := ARRAY(
        SELECT m.id FROM pgsync.limits_storage_moving AS m WHERE m.expires_at < ended
        ORDER BY m.expires_at LIMIT batch FOR UPDATE SKIP LOCKED);
    DELETE FROM pgsync.limits_storage_entry WHERE ctid = ANY (ARRAY(
        SELECT e.ctid FROM pgsync.limits_storage_entry AS e WHERE e.moving_id = ANY (idle) LIMIT batch));
    GET DIAGNOSTICS removed = ROW_COUNT;
    pruned := pruned + removed;
    DELETE FROM pgsync.limits_storage_moving AS m
    WHERE m.expires_at < ended AND m.id = ANY (idle)
      AND NOT EXISTS (SELECT FROM pgsync.limits_storage_entry AS e WHERE e.moving_id = m.id);
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN pruned + removed;
END
$$;

COMMENT ON FUNCTION pgsync.prune_limits_storage(integer) IS
    'Removes up to batch ended windows of each strategy of the library limits, skipping rows in use, and says how much.';

CREATE OR REPLACE VIEW pgsync.limits_storage AS
SELECT 'fixed window' AS strategy, c.key, c.hits, NULL::bigint AS previous_hits, c.expires_at
FROM pgsync.limits_storage_counter AS c WHERE c.expires_at > pgsync.clock()
UNION ALL
SELECT 'sliding window', s.key, s.hits, s.previous_hits, s.expires_at
FROM pgsync.limits_storage_sliding AS s WHERE s.expires_at > pgsync.clock()
UNION ALL
SELECT 'moving window', m.key, m.taken - m.gone, NULL, m.expires_at
FROM pgsync.limits_storage_moving AS m WHERE m.expires_at > pgsync.clock();

COMMENT ON VIEW pgsync.limits_storage IS
    'Keys of the library limits that are in use, as their last hit left them.';
