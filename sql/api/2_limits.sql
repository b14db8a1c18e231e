-- Rate limits: the three algorithms, as functions of a state and a moment that read no table.
--
-- Each answers two questions. When is a cost free, at the earliest (limit_opens_at)? And what is the
-- state once it is taken at such a moment (limit_taken)? A hit is allowed where the answer to the
-- first is now; a waiter is promised a later moment, and the state says so from then on. Once free, a
-- cost stays free while nobody takes: so several limits of a key open together at their latest.
--
--   fixed    A window is opened by its first hit, and lasts `per`. With permits promised to waiters
--            the state is that of the last window that has any: those before it are full.
--   sliding  Two fixed windows side by side, the earlier of which counts by as much of it as lies
--            within `per` of the moment.
--   bucket   The generic cell rate algorithm (ITU-T I.371): `tat` is when the bucket is full again,
--            each permit moves it on by per / max, and it may be `burst` permits ahead of the clock.
--
-- All of it is reckoned in whole microseconds, rounded so that a limit is never exceeded. What uses an
-- argument twice is in PL/pgSQL: as an SQL function it would not be inlined but planned at each call.

CREATE OR REPLACE FUNCTION pgsync.microseconds(duration interval) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN extract(epoch FROM duration) * 1000000;

COMMENT ON FUNCTION pgsync.microseconds(interval) IS 'Internal: the length of an interval.';

CREATE OR REPLACE FUNCTION pgsync.span(microseconds numeric) RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN interval '1 microsecond' * microseconds::double precision;

COMMENT ON FUNCTION pgsync.span(numeric) IS
    'Internal: an interval of this length, without days, which daylight saving makes longer or shorter.';

CREATE OR REPLACE FUNCTION pgsync.limit_rolled(state pgsync.limit_state, per interval, moment timestamptz)
RETURNS pgsync.limit_state
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF moment < state.started_at + per THEN
        RETURN state;
    ELSIF moment < state.started_at + 2 * per THEN
        RETURN ROW(state.started_at + per, 0, state.hits, NULL)::pgsync.limit_state;
    END IF;
    RETURN ROW(moment, 0, 0, NULL)::pgsync.limit_state;
END
$$;

COMMENT ON FUNCTION pgsync.limit_rolled(pgsync.limit_state, interval, timestamptz) IS
    'Internal: a sliding window in whose current part the moment lies, or is yet to come.';

CREATE OR REPLACE FUNCTION pgsync.limit_opens_at(
    algorithm text, max integer, burst integer, per interval, state pgsync.limit_state, cost bigint, moment timestamptz
) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    rolled pgsync.limit_state;
    free bigint;
BEGIN
    IF state.started_at IS NULL THEN
        RETURN moment;
    ELSIF algorithm = 'fixed' THEN
        RETURN CASE WHEN moment >= state.started_at + per THEN moment
                    WHEN state.hits + cost <= max THEN greatest(moment, state.started_at)
                    ELSE state.started_at + per END;
    ELSIF algorithm = 'bucket' THEN
        RETURN greatest(moment, state.tat - pgsync.span(div(pgsync.microseconds(per) * (burst - cost), max)));
    END IF;
    rolled := pgsync.limit_rolled(state, per, moment);
    IF rolled.hits + cost > max THEN  -- in its next part at the earliest
        rolled := pgsync.limit_rolled(rolled, per, rolled.started_at + per);
    END IF;
    free := max - rolled.hits - cost;
    IF free >= rolled.previous_hits THEN
        RETURN greatest(moment, rolled.started_at);
    END IF;
    RETURN greatest(moment, rolled.started_at + per
        - pgsync.span(div(pgsync.microseconds(per) * free, rolled.previous_hits)));
END
$$;

COMMENT ON FUNCTION pgsync.limit_opens_at(text, integer, integer, interval, pgsync.limit_state, bigint, timestamptz) IS
    'Internal: the first moment, from this one on, at which a limit has the permits.';

CREATE OR REPLACE FUNCTION pgsync.limit_taken(
    algorithm text, max integer, per interval, state pgsync.limit_state, cost bigint, moment timestamptz
) RETURNS pgsync.limit_state
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    rolled pgsync.limit_state;
BEGIN
    IF algorithm = 'fixed' THEN
        IF moment < state.started_at + per THEN
            RETURN ROW(state.started_at, state.hits + cost, 0, NULL)::pgsync.limit_state;
        END IF;
        RETURN ROW(moment, cost, 0, NULL)::pgsync.limit_state;
    ELSIF algorithm = 'bucket' THEN
        RETURN ROW(coalesce(state.started_at, moment), coalesce(state.hits, 0) + cost, 0,
            greatest(state.tat, moment) + pgsync.span(div(pgsync.microseconds(per) * cost + max - 1, max)))::pgsync.limit_state;
    END IF;
    rolled := pgsync.limit_rolled(state, per, moment);
    RETURN ROW(rolled.started_at, rolled.hits + cost, rolled.previous_hits, NULL)::pgsync.limit_state;
END
$$;

COMMENT ON FUNCTION pgsync.limit_taken(text, integer, interval, pgsync.limit_state, bigint, timestamptz) IS
    'Internal: the state of a limit once permits are taken at a moment, whether it has them or not.';

CREATE OR REPLACE FUNCTION pgsync.limit_returned(
    algorithm text, max integer, per interval, state pgsync.limit_state,
    cost bigint, taken_at timestamptz, mark bigint, moment timestamptz
) RETURNS pgsync.limit_state
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF algorithm = 'bucket' THEN
        IF taken_at >= state.started_at THEN
            -- Without them the bucket might have been full since, but not fuller than full: all that
            -- was taken after them counts as if it were taken now.
            state.tat := least(state.tat, greatest(
                state.tat - pgsync.span(div(pgsync.microseconds(per) * cost, max)),
                moment + pgsync.span(div(pgsync.microseconds(per) * greatest(state.hits - mark, 0) + max - 1, max))));
        END IF;
    ELSIF taken_at >= state.started_at AND taken_at < state.started_at + per THEN
        state.hits := greatest(state.hits - cost, 0);
    ELSIF algorithm = 'sliding' AND taken_at >= state.started_at - per AND taken_at < state.started_at THEN
        state.previous_hits := greatest(state.previous_hits - cost, 0);
    END IF;
    RETURN state;
END
$$;

COMMENT ON FUNCTION pgsync.limit_returned(
    text, integer, interval, pgsync.limit_state, bigint, timestamptz, bigint, timestamptz) IS
    'Internal: the state of a limit once permits are given back that were taken at taken_at, when mark had been given in all; what has left it already is not given back.';

CREATE OR REPLACE FUNCTION pgsync.limit_room(
    algorithm text, max integer, burst integer, per interval, state pgsync.limit_state, moment timestamptz
) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    rolled pgsync.limit_state;
    ahead numeric;
BEGIN
    IF algorithm = 'bucket' THEN
        ahead := greatest(0, pgsync.microseconds(state.tat - moment));
        RETURN greatest(0, burst - div(ahead * max + pgsync.microseconds(per) - 1, pgsync.microseconds(per)))::bigint;
    ELSIF state.started_at > moment THEN
        RETURN 0;
    ELSIF algorithm = 'fixed' THEN
        RETURN CASE WHEN moment < state.started_at + per THEN greatest(0, max - state.hits) ELSE max END;
    ELSIF state.started_at IS NULL THEN
        RETURN max;
    END IF;
    rolled := pgsync.limit_rolled(state, per, moment);
    ahead := pgsync.microseconds(rolled.started_at + per - moment);
    RETURN greatest(0, max - rolled.hits - div(rolled.previous_hits * ahead + pgsync.microseconds(per) - 1,
        pgsync.microseconds(per)))::bigint;
END
$$;

COMMENT ON FUNCTION pgsync.limit_room(text, integer, integer, interval, pgsync.limit_state, timestamptz) IS
    'Internal: how many permits a limit has at a moment.';

CREATE OR REPLACE FUNCTION pgsync.limit_resets_at(
    algorithm text, per interval, state pgsync.limit_state, moment timestamptz
) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN greatest(moment, CASE algorithm
        WHEN 'bucket' THEN state.tat
        WHEN 'fixed' THEN state.started_at + per
        ELSE state.started_at + CASE WHEN state.hits > 0 THEN 2 * per ELSE per END END);
END
$$;

COMMENT ON FUNCTION pgsync.limit_resets_at(text, interval, pgsync.limit_state, timestamptz) IS
    'Internal: when all of a limit is free again if nobody takes more.';

CREATE OR REPLACE FUNCTION pgsync.check_limits(
    max integer[], per interval[], cost integer, times integer, algorithm text[], burst integer[]
) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    size integer := coalesce(cardinality(max), 0);
    most integer;
BEGIN
    IF size = 0 OR cardinality(per) IS DISTINCT FROM size
       OR coalesce(cardinality(algorithm), size) <> size OR coalesce(cardinality(burst), size) <> size THEN
        RAISE invalid_parameter_value USING MESSAGE =
            'max, per, algorithm and burst must have the same number of limits, at least one';
    ELSIF cost IS NULL OR cost < 1 THEN
        RAISE invalid_parameter_value USING MESSAGE =
            format('cost must be 1 or more, not %s', coalesce(cost::text, 'null'));
    ELSIF times IS NULL OR times < 1 THEN
        RAISE invalid_parameter_value USING MESSAGE =
            format('times must be 1 or more, not %s', coalesce(times::text, 'null'));
    END IF;
    FOR i IN 1 .. size LOOP
        PERFORM pgsync.check_duration(per[i], 'per');
        IF coalesce(algorithm[i], 'fixed') NOT IN ('fixed', 'sliding', 'bucket') THEN
            RAISE invalid_parameter_value USING MESSAGE =
                format('algorithm must be fixed, sliding or bucket, not %s', algorithm[i]);
        ELSIF burst[i] IS NOT NULL AND algorithm[i] IS DISTINCT FROM 'bucket' THEN
            RAISE invalid_parameter_value USING MESSAGE = 'only a token bucket has a burst';
        END IF;
        most := CASE algorithm[i] WHEN 'bucket' THEN coalesce(burst[i], max[i]) ELSE max[i] END;
        IF max[i] IS NULL OR max[i] < 1 OR most < 1 THEN
            RAISE invalid_parameter_value USING MESSAGE =
                format('max and burst must be 1 or more, not %s', least(max[i], most));
        ELSIF cost > most THEN
            RAISE invalid_parameter_value USING MESSAGE =
                format('a cost of %s can never pass a limit of %s', cost, most);
        END IF;
        FOR j IN 1 .. i - 1 LOOP
            IF per[j] = per[i] AND coalesce(algorithm[j], 'fixed') = coalesce(algorithm[i], 'fixed') THEN
                RAISE invalid_parameter_value USING MESSAGE = 'two limits of a key have the same window';
            END IF;
        END LOOP;
    END LOOP;
END
$$;

COMMENT ON FUNCTION pgsync.check_limits(integer[], interval[], integer, integer, text[], integer[]) IS
    'Raises invalid_parameter_value for limits or costs that can never work.';
