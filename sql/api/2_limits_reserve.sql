-- What is known only afterwards: permits given back, reservations, and limits that only report.

CREATE OR REPLACE FUNCTION pgsync.rate_limit_refund(
    key text, per interval[], cost integer, taken_at timestamptz, marks bigint[], algorithm text[] DEFAULT NULL
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    moment timestamptz;
    changed boolean;
BEGIN
    IF cost IS NULL OR cost < 1 THEN
        RAISE invalid_parameter_value USING MESSAGE = format('cost must be 1 or more, not %s', cost);
    END IF;
    PERFORM FROM pgsync.rate_limit_counter AS c
    JOIN unnest(rate_limit_refund.per, rate_limit_refund.algorithm) AS l (per, algorithm)
      ON c.key = rate_limit_refund.key AND c.per = l.per AND c.algorithm = coalesce(l.algorithm, 'fixed')
    ORDER BY c.per, c.algorithm FOR UPDATE OF c;
    moment := pgsync.clock();
    WITH returned AS (
        UPDATE pgsync.rate_limit_counter AS c
        SET (hits, previous_hits, tat) = (
                SELECT n.hits, n.previous_hits, n.tat
                FROM pgsync.limit_returned(r.algorithm, r.max_hits::integer, r.per, r.state,
                    cost, rate_limit_refund.taken_at, r.mark, moment) AS n),
            without_waiters = CASE WHEN c.last_slot_at > moment THEN
                pgsync.limit_returned(r.algorithm, r.max_hits::integer, r.per, c.without_waiters,
                    cost, rate_limit_refund.taken_at, r.mark, moment) END
        FROM (
            SELECT o.per, o.algorithm, o.max_hits, l.mark,
                   ROW(o.window_started_at, o.hits, o.previous_hits, o.tat)::pgsync.limit_state AS state
            FROM pgsync.rate_limit_counter AS o
            JOIN unnest(rate_limit_refund.per, rate_limit_refund.algorithm, rate_limit_refund.marks)
                AS l (per, algorithm, mark) ON o.per = l.per AND o.algorithm = coalesce(l.algorithm, 'fixed')
            WHERE o.key = rate_limit_refund.key
        ) AS r
        WHERE c.key = rate_limit_refund.key AND c.per = r.per AND c.algorithm = r.algorithm
        RETURNING r.state IS DISTINCT FROM
            ROW(c.window_started_at, c.hits, c.previous_hits, c.tat)::pgsync.limit_state AS changed
    )
    SELECT coalesce(bool_or(r.changed), false) INTO changed FROM returned AS r;
    RETURN changed;
END
$$;

COMMENT ON FUNCTION pgsync.rate_limit_refund(text, interval[], integer, timestamptz, bigint[], text[]) IS
    'Gives permits back, with taken_at and marks of their rate_limit_take. Those of a window that has ended are gone; false where all are.';

CREATE OR REPLACE FUNCTION pgsync.rate_limit_reserve(
    key text,
    max integer[],
    per interval[],
    cost integer,
    ttl interval,
    algorithm text[] DEFAULT NULL,
    burst integer[] DEFAULT NULL,
    OUT decision pgsync.limit_decision,
    OUT reservation bigint
)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pgsync.check_duration(ttl, 'ttl');
    decision := pgsync.rate_limit_take(key, max, per, cost, 1, algorithm, burst);
    IF decision.granted = 1 THEN
        INSERT INTO pgsync.rate_limit_reservation AS r (key, per, algorithm, cost, marks, taken_at, expires_at)
        VALUES (rate_limit_reserve.key, rate_limit_reserve.per,
                coalesce(rate_limit_reserve.algorithm, array_fill('fixed'::text, ARRAY[cardinality(rate_limit_reserve.per)])),
                rate_limit_reserve.cost, decision.marks, decision.taken_at, pgsync.clock() + ttl)
        RETURNING r.id INTO reservation;
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.rate_limit_reserve(text, integer[], interval[], integer, interval, text[], integer[]) IS
    'As rate_limit_take, for a cost that is known only afterwards: rate_limit_settle corrects it, within ttl. After that it counts as settled with what it took, since whoever died with it may have spent it.';

CREATE OR REPLACE FUNCTION pgsync.rate_limit_settle(reservation bigint, cost integer) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    reserved pgsync.rate_limit_reservation;
    moment timestamptz;
BEGIN
    IF cost IS NULL OR cost < 0 THEN
        RAISE invalid_parameter_value USING MESSAGE = format('cost must be 0 or more, not %s', cost);
    END IF;
    DELETE FROM pgsync.rate_limit_reservation AS r
    WHERE r.id = reservation AND r.expires_at > pgsync.clock() RETURNING r.* INTO reserved;
    IF NOT FOUND THEN
        RETURN false;
    ELSIF cost < reserved.cost THEN
        PERFORM pgsync.rate_limit_refund(reserved.key, reserved.per, reserved.cost - cost, reserved.taken_at,
            reserved.marks, reserved.algorithm);
    ELSIF cost > reserved.cost THEN
        -- It was spent, whether there is room for it or not: what follows has to wait.
        PERFORM pgsync.lock_limits(reserved.key, reserved.per, reserved.algorithm);
        moment := pgsync.clock();
        UPDATE pgsync.rate_limit_counter AS c
        SET (window_started_at, hits, previous_hits, tat, resets_at) = (
                SELECT n.started_at, n.hits, n.previous_hits, n.tat,
                       pgsync.limit_ends_at(c.algorithm, c.per, n, c.resets_at)
                FROM pgsync.limit_taken(c.algorithm, greatest(c.max_hits, 1)::integer, c.per,
                    ROW(c.window_started_at, c.hits, c.previous_hits, c.tat)::pgsync.limit_state,
                    rate_limit_settle.cost - reserved.cost, moment) AS n),
            without_waiters = CASE WHEN c.last_slot_at > moment THEN
                pgsync.limit_taken(c.algorithm, greatest(c.max_hits, 1)::integer, c.per, c.without_waiters,
                    rate_limit_settle.cost - reserved.cost, moment) END
        FROM unnest(reserved.per, reserved.algorithm) AS l (per, algorithm)
        WHERE c.key = reserved.key AND c.per = l.per AND c.algorithm = l.algorithm;
    END IF;
    RETURN true;
END
$$;

COMMENT ON FUNCTION pgsync.rate_limit_settle(bigint, integer) IS
    'Says what a reservation cost in the end, 0 to cancel it: what is over is given back, what is missing taken even past the limit. False where it has been settled or has expired; then it stands as it was taken.';

CREATE OR REPLACE FUNCTION pgsync.rate_limit_shadow(
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
    decision pgsync.limit_decision := pgsync.rate_limit_take(key, max, per, cost, times, algorithm, burst);
    place integer := greatest(decision.binding, 1);
BEGIN
    IF decision.granted < times THEN
        UPDATE pgsync.rate_limit_counter AS c SET shadowed = c.shadowed + times - decision.granted
        WHERE c.key = rate_limit_shadow.key AND c.per = rate_limit_shadow.per[place]
          AND c.algorithm = coalesce(rate_limit_shadow.algorithm[place], 'fixed');
    END IF;
    RETURN decision;
END
$$;

COMMENT ON FUNCTION pgsync.rate_limit_shadow(text, integer[], interval[], integer, integer, text[], integer[]) IS
    'As rate_limit_take, for a limit on trial: what it does not grant is counted (rate_limits.shadowed), and the caller lets it pass.';
