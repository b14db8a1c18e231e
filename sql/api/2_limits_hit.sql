-- What callers ask: take, hit, peek. A key with one limit is decided by one statement.
--
-- Call rate_limit_hit outside a longer transaction: it keeps its counter's row locked until commit.
-- A count that a server crash may forget can be committed asynchronously, by
--   SELECT h.* FROM set_config('synchronous_commit', 'off', true), pgsync.rate_limit_hit(...) AS h;
--
-- The functions that decide set enable_seqscan off: a plan made while a table is empty would scan it
-- ever after. They force generic plans, since planning takes longer than deciding.

CREATE OR REPLACE FUNCTION pgsync.open_fixed_window(
    key text, max integer, per interval, cost bigint, times integer, moment timestamptz
) RETURNS pgsync.limit_decision
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    decision pgsync.limit_decision;
BEGIN
    INSERT INTO pgsync.rate_limit_counter AS c (key, per, hits, max_hits, window_started_at, resets_at)
    SELECT open_fixed_window.key, q.per, cost * times, q.max, moment, moment + q.per
    FROM (
        SELECT pgsync.span(pgsync.microseconds(open_fixed_window.per)) AS per, coalesce((
                   SELECT o.max FROM pgsync.rate_limit_override AS o
                   WHERE o.key = open_fixed_window.key AND o.per = open_fixed_window.per), max) AS max
    ) AS q
    WHERE cost * times <= q.max
      AND NOT EXISTS (
          SELECT FROM pgsync.rate_limit_penalty AS p WHERE p.key = open_fixed_window.key AND p.until > moment)
      AND NOT EXISTS (
          SELECT FROM pgsync.rate_limit_counter AS s
          WHERE s.key = open_fixed_window.key AND s.per = q.per AND s.algorithm = 'fixed')
    ON CONFLICT (key, per, algorithm) DO NOTHING
    RETURNING times, c.max_hits - c.hits, interval '0', c.resets_at, 1, c.max_hits, moment, c.resets_at,
              ARRAY[c.hits]
    INTO decision;
    RETURN decision;
END
$$;

COMMENT ON FUNCTION pgsync.open_fixed_window(text, integer, interval, bigint, integer, timestamptz) IS
    'Internal: takes permits of a fixed window whose key is new; nulls where it is not, or has not all of them.';

CREATE OR REPLACE FUNCTION pgsync.take_token_bucket(
    key text, max integer, burst integer, per interval, cost bigint, times integer, moment timestamptz
) RETURNS pgsync.limit_decision
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    decision pgsync.limit_decision;
BEGIN
    INSERT INTO pgsync.rate_limit_counter AS c
        (key, per, algorithm, hits, max_hits, burst, window_started_at, tat, resets_at)
    SELECT k.key, k.per, 'bucket', k.cost, q.max, q.burst, k.moment,
           k.moment + pgsync.span(div(k.length * k.cost + q.max - 1, q.max)),
           k.moment + pgsync.span(div(k.length * k.cost + q.max - 1, q.max)) + greatest(k.per, interval '1 minute')
    FROM (SELECT take_token_bucket.key, max, burst, pgsync.span(pgsync.microseconds(take_token_bucket.per)) AS per,
                 pgsync.microseconds(take_token_bucket.per) AS length, cost * times AS cost, moment) AS k
    LEFT JOIN pgsync.rate_limit_counter AS s ON s.key = k.key AND s.per = k.per AND s.algorithm = 'bucket'
    LEFT JOIN pgsync.rate_limit_override AS o ON o.key = k.key AND o.per = k.per
    LEFT JOIN pgsync.rate_limit_penalty AS p ON p.key = k.key
    CROSS JOIN LATERAL (
        SELECT coalesce(o.max, k.max) AS max,
               CASE WHEN o.max IS NULL THEN coalesce(k.burst, k.max)
                    ELSE pgsync.overridden_burst('bucket', k.max, k.burst, o.max, o.burst) END AS burst
    ) AS q
    WHERE (p.until > k.moment) IS NOT TRUE AND k.cost <= q.burst
      AND (s.tat - pgsync.span(div(k.length * (q.burst - k.cost), q.max)) > k.moment) IS NOT TRUE
    ON CONFLICT (key, per, algorithm) DO UPDATE
    SET hits = c.hits + excluded.hits, max_hits = excluded.max_hits, burst = excluded.burst,
        -- What a first hit at that moment would add, or nothing of it while the clock is behind.
        tat = greatest(c.tat, moment) + (excluded.tat - moment),
        resets_at = CASE WHEN greatest(c.tat, moment) + (excluded.tat - moment) > c.resets_at
            THEN greatest(c.tat, moment) + (excluded.resets_at - moment) ELSE c.resets_at END,
        without_waiters = NULL
    WHERE (c.last_slot_at > moment) IS NOT TRUE
      AND c.tat - pgsync.span(div(pgsync.microseconds(c.per) * (excluded.burst - excluded.hits), excluded.max_hits))
          <= moment
    RETURNING times, pgsync.limit_room('bucket', c.max_hits::integer, c.burst, c.per,
                  ROW(NULL, NULL, NULL, c.tat)::pgsync.limit_state, moment),
              interval '0', c.tat, 1, c.max_hits, moment, c.window_started_at + c.per, ARRAY[c.hits]
    INTO decision;
    RETURN decision;
END
$$;

COMMENT ON FUNCTION pgsync.take_token_bucket(text, integer, integer, interval, bigint, integer, timestamptz) IS
    'Internal: takes permits of a token bucket, its key''s only limit; nulls where it has not all of them, or others wait.';

CREATE OR REPLACE FUNCTION pgsync.rate_limit_take(
    key text,
    max integer,
    per interval,
    cost integer DEFAULT 1,
    times integer DEFAULT 1,
    algorithm text DEFAULT 'fixed',
    burst integer DEFAULT NULL
) RETURNS pgsync.limit_decision
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    moment timestamptz := pgsync.clock();
    decision pgsync.limit_decision;
BEGIN
    -- Most calls end here.
    IF algorithm = 'fixed' AND burst IS NULL AND cost > 0 AND times > 0 THEN
        -- A key in use: the condition is looked at before the row is locked, and again after.
        UPDATE pgsync.rate_limit_counter AS c
        SET hits = cost::bigint * times + CASE WHEN c.resets_at <= moment THEN 0 ELSE c.hits END,
            max_hits = q.max,
            window_started_at = CASE WHEN c.resets_at <= moment THEN moment ELSE c.window_started_at END,
            resets_at = CASE WHEN c.resets_at <= moment THEN moment + q.per ELSE c.resets_at END,
            without_waiters = NULL
        FROM (
            SELECT pgsync.span(pgsync.microseconds(rate_limit_take.per)) AS per, coalesce((
                       SELECT o.max FROM pgsync.rate_limit_override AS o
                       WHERE o.key = rate_limit_take.key AND o.per = rate_limit_take.per), max) AS max
        ) AS q
        WHERE c.key = rate_limit_take.key AND c.per = q.per AND c.algorithm = 'fixed'
          AND NOT EXISTS (
              SELECT FROM pgsync.rate_limit_penalty AS p WHERE p.key = rate_limit_take.key AND p.until > moment)
          AND (c.last_slot_at > moment) IS NOT TRUE
          AND cost::bigint * times + CASE WHEN c.resets_at <= moment THEN 0 ELSE c.hits END <= q.max
        RETURNING times, c.max_hits - c.hits, interval '0', c.resets_at, 1, c.max_hits,
                  greatest(c.window_started_at, moment), c.resets_at, ARRAY[c.hits]
        INTO decision;
        IF FOUND THEN
            RETURN decision;
        END IF;
    END IF;
    PERFORM pgsync.check_name(key, 'limit key');
    PERFORM pgsync.check_limits(ARRAY[max], ARRAY[per], cost, times, ARRAY[algorithm], ARRAY[burst]);
    IF algorithm = 'fixed' THEN
        decision := pgsync.open_fixed_window(key, max, per, cost, times, moment);
    ELSIF algorithm = 'bucket' THEN
        decision := pgsync.take_token_bucket(key, max, burst, per, cost, times, moment);
    END IF;
    IF decision.granted > 0 THEN
        RETURN decision;
    END IF;
    RETURN pgsync.take_of_all(key, ARRAY[max], ARRAY[per], cost, times, ARRAY[algorithm], ARRAY[burst]);
END
$$;

COMMENT ON FUNCTION pgsync.rate_limit_take(text, integer, interval, integer, integer, text, integer) IS
    'Takes cost permits of the key''s only limit, up to times times, and answers with a pgsync.limit_decision.';

CREATE OR REPLACE FUNCTION pgsync.rate_limit_take(
    key text,
    max integer[],
    per interval[],
    cost integer DEFAULT 1,
    times integer DEFAULT 1,
    algorithm text[] DEFAULT NULL,
    burst integer[] DEFAULT NULL
) RETURNS pgsync.limit_decision
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    PERFORM pgsync.check_name(key, 'limit key');
    PERFORM pgsync.check_limits(max, per, cost, times, algorithm, burst);
    IF cardinality(max) = 1 THEN
        RETURN pgsync.rate_limit_take(key, max[1], per[1], cost, times, coalesce(algorithm[1], 'fixed'), burst[1]);
    END IF;
    RETURN pgsync.take_of_all(key, max, per, cost, times, algorithm, burst);
END
$$;

COMMENT ON FUNCTION pgsync.rate_limit_take(text, integer[], interval[], integer, integer, text[], integer[]) IS
    'Takes cost permits from every limit of the key, up to times times, and answers with a pgsync.limit_decision.';

CREATE OR REPLACE FUNCTION pgsync.rate_limit_hit(
    key text,
    max integer[],
    per interval[],
    cost integer DEFAULT 1,
    algorithm text[] DEFAULT NULL,
    burst integer[] DEFAULT NULL,
    OUT allowed boolean,
    OUT remaining integer,
    OUT retry_after interval,
    OUT resets_at timestamptz,
    OUT binding integer
)
LANGUAGE sql VOLATILE AS $$
    SELECT t.granted = 1, t.remaining, t.retry_after, t.resets_at, t.binding
    FROM pgsync.rate_limit_take(key, max, per, cost, 1, algorithm, burst) AS t;
$$;

COMMENT ON FUNCTION pgsync.rate_limit_hit(text, integer[], interval[], integer, text[], integer[]) IS
    'Takes cost permits from every limit of the key, all or nothing. One row: allowed, remaining, retry_after, resets_at of the limit that binds, and its place among them, or 0 for a penalty. algorithm: fixed, sliding or bucket for each; burst: how many permits a bucket holds.';

CREATE OR REPLACE FUNCTION pgsync.rate_limit_hit(
    key text,
    max integer,
    per interval,
    cost integer DEFAULT 1,
    algorithm text DEFAULT 'fixed',
    burst integer DEFAULT NULL,
    OUT allowed boolean,
    OUT remaining integer,
    OUT retry_after interval,
    OUT resets_at timestamptz
)
LANGUAGE sql VOLATILE AS $$
    SELECT t.granted = 1, t.remaining, t.retry_after, t.resets_at
    FROM pgsync.rate_limit_take(key, max, per, cost, 1, algorithm, burst) AS t;
$$;

COMMENT ON FUNCTION pgsync.rate_limit_hit(text, integer, interval, integer, text, integer) IS
    'Takes cost permits from the key''s limit of max per interval, by a fixed window, a sliding window or a token bucket. One row: allowed, remaining, retry_after, resets_at.';

CREATE OR REPLACE FUNCTION pgsync.rate_limit_peek(
    key text,
    max integer[],
    per interval[],
    cost integer DEFAULT 1,
    algorithm text[] DEFAULT NULL,
    burst integer[] DEFAULT NULL,
    OUT allowed boolean,
    OUT remaining integer,
    OUT retry_after interval,
    OUT resets_at timestamptz,
    OUT binding integer,
    OUT quota integer
)
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    moment timestamptz := pgsync.clock();
BEGIN
    PERFORM pgsync.check_name(key, 'limit key');
    PERFORM pgsync.check_limits(max, per, cost, 1, algorithm, burst);
    SELECT j.opens_at <= moment, j.remaining, j.opens_at - moment, j.resets_at, j.binding, j.quota
    INTO allowed, remaining, retry_after, resets_at, binding, quota
    FROM pgsync.read_limits(key, max, per, algorithm, burst) AS r
    CROSS JOIN LATERAL pgsync.judge_limits(r.readings, cost, moment, r.penalised_until) AS j;
END
$$;

COMMENT ON FUNCTION pgsync.rate_limit_peek(text, integer[], interval[], integer, text[], integer[]) IS
    'What rate_limit_hit would answer now, without taking a permit.';
