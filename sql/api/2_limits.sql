-- Rate limits: fixed windows opened by their first hit, decided by the server's clock.
--
-- Call rate_limit_hit outside a longer transaction: it keeps its counter's row locked until commit.
-- A count that a server crash may forget can be committed asynchronously, by
--   SELECT h.* FROM set_config('synchronous_commit', 'off', true), pgsync.rate_limit_hit(...) AS h;

CREATE OR REPLACE FUNCTION pgsync.check_limit(max integer[], per interval[], cost integer)
RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF cardinality(max) IS DISTINCT FROM cardinality(per) OR coalesce(cardinality(max), 0) = 0 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'max and per must have the same number of limits, at least one';
    ELSIF cost IS NULL OR cost < 1 THEN
        RAISE invalid_parameter_value USING MESSAGE = format('cost must be 1 or more, not %s', cost);
    ELSIF cost > (SELECT min(m) FROM unnest(max) AS m) THEN
        RAISE invalid_parameter_value USING MESSAGE = format('a cost of %s can never pass a limit of %s',
            cost, (SELECT min(m) FROM unnest(max) AS m));
    ELSIF cardinality(per) > (SELECT count(DISTINCT p) FROM unnest(per) AS p) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'two limits of a key have the same window';
    END IF;
    PERFORM pgsync.check_duration(p, 'per') FROM unnest(per) AS p;
END
$$;

COMMENT ON FUNCTION pgsync.check_limit(integer[], interval[], integer) IS
    'Raises invalid_parameter_value for limits or costs that can never work.';

CREATE OR REPLACE FUNCTION pgsync.judge_limits(
    key text,
    max integer[],
    per interval[],
    cost integer,
    moment timestamptz,
    OUT allowed boolean,
    OUT remaining integer,
    OUT retry_after interval,
    OUT resets_at timestamptz
)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    penalised_until timestamptz;
BEGIN
    SELECT p.until INTO penalised_until FROM pgsync.rate_limit_penalty AS p
    WHERE p.key = judge_limits.key AND p.until > moment;

    -- The window with least room; of the full ones, that which opens last.
    SELECT w.room >= judge_limits.cost, greatest(w.room, 0), w.resets_at
    INTO allowed, remaining, resets_at
    FROM (
        SELECT (l.max - coalesce(c.hits, 0))::integer AS room, coalesce(c.resets_at, moment) AS resets_at
        FROM unnest(judge_limits.max, judge_limits.per) AS l (max, per)
        LEFT JOIN pgsync.rate_limit_counter AS c
          ON c.key = judge_limits.key AND c.per = l.per AND c.resets_at > moment
    ) AS w
    ORDER BY w.room >= judge_limits.cost, CASE WHEN w.room < judge_limits.cost THEN w.resets_at END DESC, w.room
    LIMIT 1;

    IF penalised_until IS NOT NULL THEN
        resets_at := CASE WHEN allowed THEN penalised_until ELSE greatest(resets_at, penalised_until) END;
        allowed := false;
        remaining := 0;
    END IF;
    retry_after := CASE WHEN allowed THEN interval '0' ELSE resets_at - moment END;
END
$$;

COMMENT ON FUNCTION pgsync.judge_limits(text, integer[], interval[], integer, timestamptz) IS
    'Internal: what the counters say at a moment; of several limits the one that binds.';

CREATE OR REPLACE FUNCTION pgsync.rate_limit_peek(
    key text,
    max integer[],
    per interval[],
    cost integer DEFAULT 1,
    OUT allowed boolean,
    OUT remaining integer,
    OUT retry_after interval,
    OUT resets_at timestamptz
)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pgsync.check_name(key, 'limit key');
    PERFORM pgsync.check_limit(max, per, cost);
    SELECT j.* INTO allowed, remaining, retry_after, resets_at
    FROM pgsync.judge_limits(key, max, per, cost, pgsync.clock()) AS j;
END
$$;

COMMENT ON FUNCTION pgsync.rate_limit_peek(text, integer[], interval[], integer) IS
    'What rate_limit_hit would answer now, without taking a permit; of several limits the one that binds.';

CREATE OR REPLACE FUNCTION pgsync.rate_limit_hit(
    key text,
    max integer[],
    per interval[],
    cost integer DEFAULT 1,
    OUT allowed boolean,
    OUT remaining integer,
    OUT retry_after interval,
    OUT resets_at timestamptz
)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    moment timestamptz := pgsync.clock();
    locked integer;
BEGIN
    PERFORM pgsync.check_name(key, 'limit key');
    PERFORM pgsync.check_limit(max, per, cost);

    -- Denied without a write where that can be known: six times cheaper than an upsert.
    SELECT j.* INTO allowed, remaining, retry_after, resets_at
    FROM pgsync.judge_limits(key, max, per, cost, moment) AS j;
    IF NOT allowed THEN
        RETURN;
    END IF;

    IF cardinality(max) = 1 THEN
        -- The upsert decides again, now with the row locked.
        INSERT INTO pgsync.rate_limit_counter AS c
            (key, per, hits, max_hits, window_started_at, resets_at)
        VALUES (rate_limit_hit.key, per[1], cost, max[1], moment, moment + per[1])
        ON CONFLICT (key, per) DO UPDATE
        SET hits = CASE WHEN c.resets_at <= moment THEN excluded.hits ELSE c.hits + excluded.hits END,
            max_hits = excluded.max_hits,
            window_started_at = CASE WHEN c.resets_at <= moment THEN excluded.window_started_at ELSE c.window_started_at END,
            resets_at = CASE WHEN c.resets_at <= moment THEN excluded.resets_at ELSE c.resets_at END
        WHERE c.resets_at <= moment OR c.hits + excluded.hits <= excluded.max_hits
        RETURNING c.max_hits - c.hits, c.resets_at INTO remaining, resets_at;
        allowed := FOUND;
    ELSE
        -- All rows locked in one order, all judged, then all written. Once more where the clean-up
        -- removed an ended window just before it was locked.
        LOOP
            INSERT INTO pgsync.rate_limit_counter AS c
                (key, per, hits, max_hits, window_started_at, resets_at)
            SELECT rate_limit_hit.key, l.per, 0, l.max, moment, moment
            FROM unnest(rate_limit_hit.max, rate_limit_hit.per) AS l (max, per)
            ORDER BY l.per
            ON CONFLICT (key, per) DO NOTHING;
            PERFORM FROM pgsync.rate_limit_counter AS c
            WHERE c.key = rate_limit_hit.key AND c.per = ANY (rate_limit_hit.per)
            ORDER BY c.per FOR UPDATE;
            GET DIAGNOSTICS locked = ROW_COUNT;
            EXIT WHEN locked = cardinality(max);
        END LOOP;
        moment := pgsync.clock();
        SELECT j.allowed INTO allowed FROM pgsync.judge_limits(key, max, per, cost, moment) AS j;
        IF allowed THEN
            UPDATE pgsync.rate_limit_counter AS c
            SET hits = CASE WHEN c.resets_at <= moment THEN 0 ELSE c.hits END + rate_limit_hit.cost,
                max_hits = l.max,
                window_started_at = CASE WHEN c.resets_at <= moment THEN moment ELSE c.window_started_at END,
                resets_at = CASE WHEN c.resets_at <= moment THEN moment + l.per ELSE c.resets_at END
            FROM unnest(rate_limit_hit.max, rate_limit_hit.per) AS l (max, per)
            WHERE c.key = rate_limit_hit.key AND c.per = l.per;
            SELECT j.remaining, j.resets_at INTO remaining, resets_at
            FROM pgsync.judge_limits(key, max, per, 1, moment) AS j;
        END IF;
    END IF;

    IF allowed THEN
        retry_after := interval '0';
    ELSE
        -- Filled since our look. Should its window have ended this instant, the denial stands and
        -- the caller may ask again at once.
        SELECT j.remaining, j.retry_after, j.resets_at INTO remaining, retry_after, resets_at
        FROM pgsync.judge_limits(key, max, per, cost, moment) AS j;
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.rate_limit_hit(text, integer[], interval[], integer) IS
    'Takes cost permits from every limit of the key, all or nothing. One row: allowed, remaining, retry_after, resets_at of the limit that binds.';

CREATE OR REPLACE FUNCTION pgsync.rate_limit_hit(
    key text,
    max integer,
    per interval,
    cost integer DEFAULT 1,
    OUT allowed boolean,
    OUT remaining integer,
    OUT retry_after interval,
    OUT resets_at timestamptz
)
LANGUAGE sql VOLATILE AS $$
    SELECT h.allowed, h.remaining, h.retry_after, h.resets_at
    FROM pgsync.rate_limit_hit(key, ARRAY[max], ARRAY[per], cost) AS h;
$$;

COMMENT ON FUNCTION pgsync.rate_limit_hit(text, integer, interval, integer) IS
    'Takes cost permits from the key''s window of max per interval. One row: allowed, remaining, retry_after, resets_at.';

CREATE OR REPLACE FUNCTION pgsync.rate_limit_clear(key text) RETURNS void
LANGUAGE sql VOLATILE AS $$
    DELETE FROM pgsync.rate_limit_counter AS c WHERE c.key = rate_limit_clear.key;
    DELETE FROM pgsync.rate_limit_penalty AS p WHERE p.key = rate_limit_clear.key;
$$;

COMMENT ON FUNCTION pgsync.rate_limit_clear(text) IS 'Forgets the hits and the penalty of a key.';

CREATE OR REPLACE FUNCTION pgsync.rate_limit_penalize(key text, pause interval, reason text)
RETURNS timestamptz
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    penalised_until timestamptz;
BEGIN
    PERFORM pgsync.check_name(rate_limit_penalize.key, 'limit key');
    PERFORM pgsync.check_duration(pause, 'pause');
    INSERT INTO pgsync.rate_limit_penalty AS p (key, until, reason)
    VALUES (rate_limit_penalize.key, pgsync.clock() + pause, rate_limit_penalize.reason)
    ON CONFLICT ON CONSTRAINT rate_limit_penalty_pkey DO UPDATE
    SET until = greatest(p.until, excluded.until), reason = excluded.reason
    RETURNING p.until INTO penalised_until;
    RETURN penalised_until;
END
$$;

COMMENT ON FUNCTION pgsync.rate_limit_penalize(text, interval, text) IS
    'Closes a key for everybody for a while (an API''s Retry-After) and returns until when; never shortens a penalty.';

CREATE OR REPLACE FUNCTION pgsync.prune_rate_limits(batch integer DEFAULT 1000) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    removed integer;
BEGIN
    -- A minute's grace keeps the clean-up off rows that are about to be used again.
    DELETE FROM pgsync.rate_limit_counter WHERE ctid = ANY (ARRAY(
        SELECT c.ctid FROM pgsync.rate_limit_counter AS c
        WHERE c.resets_at < pgsync.clock() - interval '1 minute'
        ORDER BY c.resets_at LIMIT batch FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS removed = ROW_COUNT;
    DELETE FROM pgsync.rate_limit_penalty AS p WHERE p.until < pgsync.clock() - interval '1 minute';
    RETURN removed;
END
$$;

COMMENT ON FUNCTION pgsync.prune_rate_limits(integer) IS
    'Removes up to batch ended windows, skipping rows in use, and says how many.';

CREATE OR REPLACE VIEW pgsync.rate_limits AS
SELECT coalesce(c.key, p.key) AS key,
       c.per,
       CASE WHEN p.until IS NOT NULL THEN 'penalised'
            WHEN c.is_open AND c.hits >= c.max_hits THEN 'full' ELSE 'open' END AS state,
       CASE WHEN c.is_open THEN c.hits ELSE 0 END AS hits,
       c.max_hits AS max,
       CASE WHEN p.until IS NOT NULL THEN 0
            WHEN c.is_open THEN greatest(c.max_hits - c.hits, 0) ELSE c.max_hits END AS remaining,
       c.window_started_at,
       c.resets_at,
       p.until AS penalised_until,
       p.reason AS penalty_reason
FROM (SELECT *, resets_at > pgsync.clock() AS is_open FROM pgsync.rate_limit_counter) AS c
FULL JOIN (SELECT * FROM pgsync.rate_limit_penalty WHERE until > pgsync.clock()) AS p ON p.key = c.key;

COMMENT ON VIEW pgsync.rate_limits IS
    'The current window of each limited key, and keys that a penalty closes (per is null where they have no window).';
