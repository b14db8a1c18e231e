-- Decisions on any number of limits of a key, all or nothing: read, judge, and if there is room lock,
-- read and judge again, write.

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
