-- Decisions: how many permits a key may take now, of all its limits or of none.
--
-- Call rate_limit_hit outside a longer transaction: it keeps its counter's row locked until commit.
-- A count that a server crash may forget can be committed asynchronously, by
--   SELECT h.* FROM set_config('synchronous_commit', 'off', true), pgsync.rate_limit_hit(...) AS h;
--
-- The functions that decide set enable_seqscan off: a plan made while a table is empty would scan it
-- ever after.

CREATE OR REPLACE FUNCTION pgsync.overridden_burst(algorithm text, max integer, burst integer, set_max integer, set_burst integer)
RETURNS integer
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN CASE WHEN set_max IS NULL THEN coalesce(burst, max)
                WHEN algorithm <> 'bucket' THEN set_max
                ELSE coalesce(set_burst, greatest(1, least(2147483647, coalesce(burst, max)::bigint * set_max / max))) END;
END
$$;

COMMENT ON FUNCTION pgsync.overridden_burst(text, integer, integer, integer, integer) IS
    'Internal: how many permits a limit has at most at once; a bucket that is set without a burst holds more or fewer as its max is.';

CREATE OR REPLACE FUNCTION pgsync.read_limits(
    key text, max integer[], per interval[], algorithm text[], burst integer[],
    OUT readings pgsync.limit_reading[], OUT penalised_until timestamptz
)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    reading pgsync.limit_reading;
    length interval;
BEGIN
    IF cardinality(max) > 1 THEN
        SELECT array_agg(ROW(l.algorithm, coalesce(o.max, l.max),
                   pgsync.overridden_burst(l.algorithm, l.max, l.burst, o.max, o.burst), l.per,
                   ROW(c.window_started_at, c.hits, c.previous_hits, c.tat)::pgsync.limit_state,
                   c.last_slot_at, c.without_waiters)::pgsync.limit_reading ORDER BY l.place),
               max(p.until)
        INTO readings, penalised_until
        FROM (
            SELECT coalesce(u.algorithm, 'fixed') AS algorithm, u.max, u.burst,
                   pgsync.span(pgsync.microseconds(u.per)) AS per, u.place
            FROM unnest(read_limits.max, read_limits.per, read_limits.algorithm, read_limits.burst)
                WITH ORDINALITY AS u (max, per, algorithm, burst, place)
        ) AS l
        LEFT JOIN pgsync.rate_limit_counter AS c
          ON c.key = read_limits.key AND c.per = l.per AND c.algorithm = l.algorithm
        LEFT JOIN pgsync.rate_limit_override AS o ON o.key = read_limits.key AND o.per = l.per
        LEFT JOIN pgsync.rate_limit_penalty AS p ON p.key = read_limits.key;
        RETURN;
    END IF;
    reading.algorithm := coalesce(algorithm[1], 'fixed');
    length := pgsync.span(pgsync.microseconds(per[1]));
    SELECT reading.algorithm, coalesce(o.max, read_limits.max[1]),
           pgsync.overridden_burst(reading.algorithm, read_limits.max[1], read_limits.burst[1], o.max, o.burst), length,
           ROW(c.window_started_at, c.hits, c.previous_hits, c.tat)::pgsync.limit_state,
           c.last_slot_at, c.without_waiters, p.until
    INTO reading.algorithm, reading.max, reading.burst, reading.per, reading.state,
         reading.last_slot_at, reading.without_waiters, penalised_until
    FROM (SELECT) AS one
    LEFT JOIN pgsync.rate_limit_counter AS c
      ON c.key = read_limits.key AND c.per = length AND c.algorithm = reading.algorithm
    LEFT JOIN pgsync.rate_limit_override AS o ON o.key = read_limits.key AND o.per = length
    LEFT JOIN pgsync.rate_limit_penalty AS p ON p.key = read_limits.key;
    readings := ARRAY[reading];
END
$$;

COMMENT ON FUNCTION pgsync.read_limits(text, integer[], interval[], text[], integer[]) IS
    'Internal: the limits of a key as they stand, and until when it is, or was, penalised.';

CREATE OR REPLACE FUNCTION pgsync.judge_limits(
    readings pgsync.limit_reading[], cost bigint, moment timestamptz, penalised_until timestamptz,
    OUT opens_at timestamptz, OUT room bigint, OUT remaining integer, OUT resets_at timestamptz,
    OUT binding integer, OUT quota integer
)
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    reading pgsync.limit_reading;
    place integer := 0;
    its_room bigint;
    opens timestamptz;
    binds pgsync.limit_reading;
BEGIN
    -- Of the limits that are full the one binds that opens last; of others the one with least room.
    FOREACH reading IN ARRAY readings LOOP
        place := place + 1;
        its_room := pgsync.limit_room(reading.algorithm, reading.max, reading.burst, reading.per, reading.state, moment);
        IF its_room >= cost THEN
            opens := moment;
        ELSIF cost > reading.burst THEN
            opens := moment + reading.per;  -- It is set lower than the cost, for now.
        ELSE
            opens := pgsync.limit_opens_at(
                reading.algorithm, reading.max, reading.burst, reading.per, reading.state, cost, moment);
        END IF;
        IF opens_at IS NULL OR opens > opens_at OR opens = opens_at AND its_room < remaining THEN
            opens_at := opens;
            remaining := its_room;
            binding := place;
            binds := reading;
        END IF;
        room := least(room, its_room);
    END LOOP;
    quota := binds.max;
    resets_at := pgsync.limit_resets_at(binds.algorithm, binds.per, binds.state, moment);
    IF penalised_until > moment THEN
        resets_at := CASE WHEN opens_at > moment THEN greatest(resets_at, penalised_until) ELSE penalised_until END;
        binding := CASE WHEN penalised_until >= opens_at THEN 0 ELSE binding END;
        opens_at := greatest(opens_at, penalised_until);
        room := 0;
        remaining := 0;
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.judge_limits(pgsync.limit_reading[], bigint, timestamptz, timestamptz) IS
    'Internal: what a key may take at a moment, and which limit binds: its place, or 0 for a penalty.';

CREATE OR REPLACE FUNCTION pgsync.lock_limits(key text, per interval[], algorithm text[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    locked integer;
BEGIN
    -- Once more where the clean-up removed an ended window just before it was locked.
    LOOP
        INSERT INTO pgsync.rate_limit_counter AS c
            (key, per, algorithm, hits, max_hits, window_started_at, resets_at)
        SELECT lock_limits.key, l.per, coalesce(l.algorithm, 'fixed'), 0, 0, moment - 2 * l.per, moment
        FROM unnest(lock_limits.per, lock_limits.algorithm) AS l (per, algorithm)
        ORDER BY l.per, 3
        ON CONFLICT ON CONSTRAINT rate_limit_counter_pkey DO NOTHING;
        PERFORM FROM pgsync.rate_limit_counter AS c
        JOIN unnest(lock_limits.per, lock_limits.algorithm) AS l (per, algorithm)
          ON c.key = lock_limits.key AND c.per = l.per AND c.algorithm = coalesce(l.algorithm, 'fixed')
        ORDER BY c.per, c.algorithm FOR UPDATE OF c;
        GET DIAGNOSTICS locked = ROW_COUNT;
        EXIT WHEN locked = cardinality(per);
    END LOOP;
END
$$;

COMMENT ON FUNCTION pgsync.lock_limits(text, interval[], text[]) IS
    'Internal: makes and locks the rows of a key''s limits, in their order.';

CREATE OR REPLACE FUNCTION pgsync.limit_ends_at(
    algorithm text, per interval, state pgsync.limit_state, former timestamptz
) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN CASE algorithm
        WHEN 'fixed' THEN state.started_at + per
        WHEN 'sliding' THEN state.started_at + 2 * per
        -- It is in an index: a bucket's moves on in steps, since each hit moves its tat.
        ELSE CASE WHEN state.tat > former IS NOT FALSE
                  THEN state.tat + greatest(per, interval '1 minute') ELSE former END END;
END
$$;

COMMENT ON FUNCTION pgsync.limit_ends_at(text, interval, pgsync.limit_state, timestamptz) IS
    'Internal: from when on a state counts no more, at the latest; former is what was said last.';

CREATE OR REPLACE FUNCTION pgsync.take_limits(
    key text, cost bigint, moment timestamptz, slot_at timestamptz, INOUT readings pgsync.limit_reading[]
)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_variable
DECLARE
    reading pgsync.limit_reading;
    others_wait boolean;
BEGIN
    FOR i IN 1 .. cardinality(readings) LOOP
        reading := readings[i];
        others_wait := reading.last_slot_at > moment IS TRUE;
        reading.without_waiters := CASE
            WHEN slot_at > moment THEN CASE WHEN others_wait THEN reading.without_waiters ELSE reading.state END
            WHEN others_wait THEN
                pgsync.limit_taken(reading.algorithm, reading.max, reading.per, reading.without_waiters, cost, moment) END;
        reading.last_slot_at := CASE WHEN slot_at > moment THEN slot_at ELSE reading.last_slot_at END;
        reading.state := pgsync.limit_taken(
            reading.algorithm, reading.max, reading.per, reading.state, cost, greatest(slot_at, moment));
        readings[i] := reading;
    END LOOP;
    UPDATE pgsync.rate_limit_counter AS c
    SET window_started_at = (r.state).started_at, hits = (r.state).hits, previous_hits = (r.state).previous_hits,
        tat = (r.state).tat, resets_at = pgsync.limit_ends_at(r.algorithm, r.per, r.state, c.resets_at),
        max_hits = r.max, burst = r.burst, last_slot_at = r.last_slot_at, without_waiters = r.without_waiters
    FROM unnest(readings) AS r
    WHERE c.key = take_limits.key AND c.per = r.per AND c.algorithm = r.algorithm;
END
$$;

COMMENT ON FUNCTION pgsync.take_limits(text, bigint, timestamptz, timestamptz, pgsync.limit_reading[]) IS
    'Internal: takes permits of limits whose rows are locked, now or, for a waiter, at slot_at.';

CREATE OR REPLACE FUNCTION pgsync.limit_marks(
    readings pgsync.limit_reading[], OUT marks bigint[], OUT valid_until timestamptz
)
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    reading pgsync.limit_reading;
BEGIN
    FOREACH reading IN ARRAY readings LOOP
        marks := marks || (reading.state).hits;
        valid_until := least(valid_until, (reading.state).started_at + reading.per);
    END LOOP;
END
$$;

COMMENT ON FUNCTION pgsync.limit_marks(pgsync.limit_reading[]) IS
    'Internal: how many permits each limit has given, and when the first of their windows ends.';

CREATE OR REPLACE FUNCTION pgsync.take_of_all(
    key text, max integer[], per interval[], cost integer, times integer, algorithm text[], burst integer[]
) RETURNS pgsync.limit_decision
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    seen record;
    judged record;
    taken record;
    granted integer;
BEGIN
    PERFORM pgsync.check_limits(max, per, cost, times, algorithm, burst);
    seen := pgsync.read_limits(key, max, per, algorithm, burst);
    judged := pgsync.judge_limits(seen.readings, cost, moment, seen.penalised_until);
    IF judged.room >= cost THEN
        -- All rows locked in one order, all judged, then all written.
        PERFORM pgsync.lock_limits(key, per, algorithm);
        moment := pgsync.clock();
        seen := pgsync.read_limits(key, max, per, algorithm, burst);
        judged := pgsync.judge_limits(seen.readings, cost, moment, seen.penalised_until);
    END IF;
    granted := least(times, judged.room / cost);
    IF granted = 0 THEN
        RETURN ROW(0, judged.remaining, judged.opens_at - moment, judged.resets_at, judged.binding, judged.quota,
            NULL, NULL, NULL)::pgsync.limit_decision;
    END IF;
    seen.readings := pgsync.take_limits(key, granted * cost::bigint, moment, NULL, seen.readings);
    judged := pgsync.judge_limits(seen.readings, CASE WHEN granted < times THEN cost ELSE 1 END, moment, NULL);
    taken := pgsync.limit_marks(seen.readings);
    RETURN ROW(granted, judged.remaining,
        CASE WHEN granted < times THEN judged.opens_at - moment ELSE interval '0' END, judged.resets_at, judged.binding, judged.quota,
        moment, taken.valid_until, taken.marks)::pgsync.limit_decision;
END
$$;

COMMENT ON FUNCTION pgsync.take_of_all(text, integer[], interval[], integer, integer, text[], integer[]) IS
    'Internal: rate_limit_take, of any number of limits of any kind.';

CREATE OR REPLACE FUNCTION pgsync.take_fixed_window(
    key text, max integer, per interval, cost bigint, times integer, moment timestamptz
) RETURNS pgsync.limit_decision
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    decision pgsync.limit_decision;
BEGIN
    -- A key in use: the condition is looked at before the row is locked, and again after.
    UPDATE pgsync.rate_limit_counter AS c
    SET hits = cost * times + CASE WHEN c.resets_at <= moment THEN 0 ELSE c.hits END,
        max_hits = q.max,
        window_started_at = CASE WHEN c.resets_at <= moment THEN moment ELSE c.window_started_at END,
        resets_at = CASE WHEN c.resets_at <= moment THEN moment + q.per ELSE c.resets_at END,
        without_waiters = NULL
    FROM (
        SELECT pgsync.span(pgsync.microseconds(take_fixed_window.per)) AS per, coalesce((
                   SELECT o.max FROM pgsync.rate_limit_override AS o
                   WHERE o.key = take_fixed_window.key AND o.per = take_fixed_window.per), max) AS max
    ) AS q
    WHERE c.key = take_fixed_window.key AND c.per = q.per AND c.algorithm = 'fixed'
      AND NOT EXISTS (
          SELECT FROM pgsync.rate_limit_penalty AS p WHERE p.key = take_fixed_window.key AND p.until > moment)
      AND (c.last_slot_at > moment) IS NOT TRUE
      AND cost * times + CASE WHEN c.resets_at <= moment THEN 0 ELSE c.hits END <= q.max
      -- It may have been opened since that moment, while this waited for the row; not in the future.
      AND c.window_started_at <= pgsync.clock()
    RETURNING times, c.max_hits - c.hits, interval '0', c.resets_at, 1, c.max_hits,
              greatest(c.window_started_at, moment), c.resets_at, ARRAY[c.hits]
    INTO decision;
    IF FOUND THEN
        RETURN decision;
    END IF;
    INSERT INTO pgsync.rate_limit_counter AS c (key, per, hits, max_hits, window_started_at, resets_at)
    SELECT take_fixed_window.key, q.per, cost * times, q.max, moment, moment + q.per
    FROM (
        SELECT pgsync.span(pgsync.microseconds(take_fixed_window.per)) AS per, coalesce((
                   SELECT o.max FROM pgsync.rate_limit_override AS o
                   WHERE o.key = take_fixed_window.key AND o.per = take_fixed_window.per), max) AS max
    ) AS q
    WHERE cost * times <= q.max
      AND NOT EXISTS (
          SELECT FROM pgsync.rate_limit_penalty AS p WHERE p.key = take_fixed_window.key AND p.until > moment)
      AND NOT EXISTS (
          SELECT FROM pgsync.rate_limit_counter AS s
          WHERE s.key = take_fixed_window.key AND s.per = q.per AND s.algorithm = 'fixed')
    ON CONFLICT (key, per, algorithm) DO NOTHING
    RETURNING times, c.max_hits - c.hits, interval '0', c.resets_at, 1, c.max_hits, moment, c.resets_at,
              ARRAY[c.hits]
    INTO decision;
    RETURN decision;
END
$$;

COMMENT ON FUNCTION pgsync.take_fixed_window(text, integer, interval, bigint, integer, timestamptz) IS
    'Internal: takes permits of a fixed window, its key''s only limit; nulls where it has not all of them, where others wait, or where another made its row just now.';

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
    'Internal: as take_fixed_window, of a token bucket.';

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
DECLARE
    moment timestamptz := pgsync.clock();
    decision pgsync.limit_decision;
BEGIN
    -- Most calls end here. The statement looks before it takes, since a denial is six times cheaper
    -- without an upsert; and the upsert decides again, with its row locked.
    IF octet_length(key) <= 1024 AND key <> '' AND cardinality(max) = 1 AND cardinality(per) = 1
       AND per[1] > interval '0' AND cost > 0 AND times > 0 AND cost <= max[1]
       AND coalesce(cardinality(algorithm), 1) = 1 THEN
        IF coalesce(algorithm[1], 'fixed') = 'fixed' AND burst[1] IS NULL THEN
            decision := pgsync.take_fixed_window(key, max[1], per[1], cost, times, moment);
        ELSIF algorithm[1] = 'bucket' AND cost <= coalesce(burst[1], cost) AND coalesce(cardinality(burst), 1) = 1 THEN
            decision := pgsync.take_token_bucket(key, max[1], burst[1], per[1], cost, times, moment);
        END IF;
        IF decision.granted > 0 THEN
            RETURN decision;
        END IF;
    ELSE
        PERFORM pgsync.check_name(key, 'limit key');
        PERFORM pgsync.check_limits(max, per, cost, times, algorithm, burst);
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
    FROM pgsync.rate_limit_take(key, ARRAY[max], ARRAY[per], cost, 1, ARRAY[algorithm], ARRAY[burst]) AS t;
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
