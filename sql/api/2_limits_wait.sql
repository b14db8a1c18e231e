-- Waiting: who cannot take permits now is promised them for a moment to come, first come first
-- served, and sleeps until then without a connection. The counter's row tells of the last promise;
-- rate_limit_waiter keeps them singly, so that one can be taken back.

CREATE OR REPLACE FUNCTION pgsync.fold_waiters(key text, per interval[], algorithm text[], moment timestamptz)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    line record;
    past record;
    state pgsync.limit_state;
BEGIN
    FOR line IN
        SELECT c.per, c.algorithm, c.max_hits, c.without_waiters, c.last_slot_at
        FROM pgsync.rate_limit_counter AS c
        JOIN unnest(fold_waiters.per, fold_waiters.algorithm) AS l (per, algorithm)
          ON c.key = fold_waiters.key AND c.per = l.per AND c.algorithm = coalesce(l.algorithm, 'fixed')
        WHERE c.last_slot_at IS NOT NULL
    LOOP
        state := line.without_waiters;
        FOR past IN
            WITH served AS (
                DELETE FROM pgsync.rate_limit_waiter AS w
                WHERE w.key = fold_waiters.key AND w.per = line.per AND w.algorithm = line.algorithm
                  AND w.slot_at <= moment
                RETURNING w.id, w.cost, w.slot_at
            )
            SELECT s.* FROM served AS s ORDER BY s.id
        LOOP
            state := pgsync.limit_taken(line.algorithm, line.max_hits::integer, line.per, state, past.cost, past.slot_at);
        END LOOP;
        IF line.last_slot_at > moment THEN
            UPDATE pgsync.rate_limit_counter AS c SET without_waiters = state
            WHERE c.key = fold_waiters.key AND c.per = line.per AND c.algorithm = line.algorithm;
        END IF;
    END LOOP;
END
$$;

COMMENT ON FUNCTION pgsync.fold_waiters(text, interval[], text[], timestamptz) IS
    'Internal: counts waiters whose moment has passed as hits, in rows that are locked.';

CREATE OR REPLACE FUNCTION pgsync.rate_limit_acquire(
    key text,
    max integer[],
    per interval[],
    cost integer,
    patience interval,
    algorithm text[] DEFAULT NULL,
    burst integer[] DEFAULT NULL,
    most_waiting integer DEFAULT 1000,
    OUT allowed boolean,
    OUT remaining integer,
    OUT retry_after interval,
    OUT resets_at timestamptz,
    OUT binding integer,
    OUT quota integer,
    OUT taken_at timestamptz,
    OUT marks bigint[],
    OUT waiter bigint
)
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    seen record;
    judged record;
    waiting integer := 0;
BEGIN
    SELECT t.granted = 1, t.remaining, t.retry_after, t.resets_at, t.binding, t.quota, t.taken_at, t.marks
    INTO allowed, remaining, retry_after, resets_at, binding, quota, taken_at, marks
    FROM pgsync.rate_limit_take(key, max, per, cost, 1, algorithm, burst) AS t;
    IF allowed OR retry_after > patience OR patience <= interval '0' THEN
        RETURN;
    END IF;
    PERFORM pgsync.lock_limits(key, per, algorithm);
    moment := pgsync.clock();
    PERFORM pgsync.fold_waiters(key, per, algorithm, moment);
    seen := pgsync.read_limits(key, max, per, algorithm, burst);
    judged := pgsync.judge_limits(seen.readings, cost, moment, seen.penalised_until);
    retry_after := judged.opens_at - moment;
    IF retry_after > interval '0' THEN
        SELECT count(*) INTO waiting FROM pgsync.rate_limit_waiter AS w
        WHERE w.key = rate_limit_acquire.key AND w.per = rate_limit_acquire.per[1]
          AND w.algorithm = coalesce(rate_limit_acquire.algorithm[1], 'fixed') AND w.slot_at > moment;
    END IF;
    allowed := retry_after <= patience AND waiting < most_waiting;
    IF allowed THEN
        taken_at := judged.opens_at;
        seen.readings := pgsync.take_limits(key, cost, moment, taken_at, seen.readings);
        IF taken_at > moment THEN
            waiter := nextval(pg_get_serial_sequence('pgsync.rate_limit_waiter', 'id'));
            INSERT INTO pgsync.rate_limit_waiter (key, per, algorithm, id, cost, slot_at)
            SELECT rate_limit_acquire.key, l.per, coalesce(l.algorithm, 'fixed'), waiter, rate_limit_acquire.cost,
                   rate_limit_acquire.taken_at
            FROM unnest(rate_limit_acquire.per, rate_limit_acquire.algorithm) AS l (per, algorithm);
        END IF;
        judged := pgsync.judge_limits(seen.readings, 1, taken_at, NULL);
        SELECT m.marks INTO marks FROM pgsync.limit_marks(seen.readings) AS m;
    END IF;
    remaining := judged.remaining;
    resets_at := judged.resets_at;
    binding := judged.binding;
    quota := judged.quota;
END
$$;

COMMENT ON FUNCTION pgsync.rate_limit_acquire(text, integer[], interval[], integer, interval, text[], integer[], integer) IS
    'Takes permits, or promises them for a moment to come, at most patience away: then retry_after is how long to wait, and waiter the number for rate_limit_cancel_wait. Not allowed where the wait would be longer, or most_waiting wait already.';

CREATE OR REPLACE FUNCTION pgsync.rate_limit_cancel_wait(waiter bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    moment timestamptz;
    line record;
    other record;
    cancelled boolean := false;
    state pgsync.limit_state;
    last_slot timestamptz;
BEGIN
    PERFORM FROM pgsync.rate_limit_counter AS c
    JOIN pgsync.rate_limit_waiter AS w ON w.key = c.key AND w.per = c.per AND w.algorithm = c.algorithm
    WHERE w.id = waiter
    ORDER BY c.per, c.algorithm FOR UPDATE OF c;
    moment := pgsync.clock();
    FOR line IN
        WITH mine AS (
            DELETE FROM pgsync.rate_limit_waiter AS w WHERE w.id = waiter AND w.slot_at > moment
            RETURNING w.key, w.per, w.algorithm
        )
        SELECT c.key, c.per, c.algorithm, c.max_hits, c.without_waiters
        FROM mine AS m
        LEFT JOIN pgsync.rate_limit_counter AS c ON c.key = m.key AND c.per = m.per AND c.algorithm = m.algorithm
    LOOP
        cancelled := true;
        -- All the others again, at the moments that they were promised.
        state := line.without_waiters;
        last_slot := NULL;
        FOR other IN
            SELECT w.cost, w.slot_at FROM pgsync.rate_limit_waiter AS w
            WHERE w.key = line.key AND w.per = line.per AND w.algorithm = line.algorithm ORDER BY w.id
        LOOP
            state := pgsync.limit_taken(line.algorithm, line.max_hits::integer, line.per, state, other.cost, other.slot_at);
            last_slot := other.slot_at;
        END LOOP;
        UPDATE pgsync.rate_limit_counter AS c
        SET (window_started_at, hits, previous_hits, tat, resets_at) = (
                SELECT coalesce((state).started_at, moment - 2 * c.per), coalesce((state).hits, 0),
                       coalesce((state).previous_hits, 0), (state).tat,
                       coalesce(pgsync.limit_ends_at(c.algorithm, c.per, state, c.resets_at), moment)),
            last_slot_at = last_slot,
            without_waiters = CASE WHEN last_slot > moment THEN c.without_waiters END
        WHERE c.key = line.key AND c.per = line.per AND c.algorithm = line.algorithm;
    END LOOP;
    RETURN cancelled;
END
$$;

COMMENT ON FUNCTION pgsync.rate_limit_cancel_wait(bigint) IS
    'Takes back what a waiter was promised; the others keep their moments. False where its moment has come: then it counts.';
