-- What operators see and do: overrides, penalties, the clean-up, and the view.

CREATE OR REPLACE FUNCTION pgsync.rate_limit_clear(key text) RETURNS void
LANGUAGE sql VOLATILE AS $$
    DELETE FROM pgsync.rate_limit_counter AS c WHERE c.key = rate_limit_clear.key;
    DELETE FROM pgsync.rate_limit_waiter AS w WHERE w.key = rate_limit_clear.key;
    DELETE FROM pgsync.rate_limit_penalty AS p WHERE p.key = rate_limit_clear.key;
$$;

COMMENT ON FUNCTION pgsync.rate_limit_clear(text) IS 'Forgets the hits, the promises to waiters and the penalty of a key.';

CREATE OR REPLACE FUNCTION pgsync.rate_limit_penalize_until(key text, until timestamptz, reason text)
RETURNS timestamptz
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    penalised_until timestamptz;
BEGIN
    PERFORM pgsync.check_name(key, 'limit key');
    IF until IS NULL OR NOT isfinite(until) THEN
        RAISE invalid_parameter_value USING MESSAGE = format('until must be a moment, not %s', coalesce(until::text, 'null'));
    END IF;
    INSERT INTO pgsync.rate_limit_penalty AS p (key, until, reason)
    VALUES (rate_limit_penalize_until.key, rate_limit_penalize_until.until, coalesce(rate_limit_penalize_until.reason, ''))
    ON CONFLICT ON CONSTRAINT rate_limit_penalty_pkey DO UPDATE
    SET until = greatest(p.until, excluded.until), reason = excluded.reason
    RETURNING p.until INTO penalised_until;
    RETURN penalised_until;
END
$$;

COMMENT ON FUNCTION pgsync.rate_limit_penalize_until(text, timestamptz, text) IS
    'Closes a key for everybody until a moment, and returns until when it is closed; never shortens a penalty.';

CREATE OR REPLACE FUNCTION pgsync.rate_limit_penalize(key text, pause interval, reason text)
RETURNS timestamptz
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pgsync.check_duration(pause, 'pause');
    RETURN pgsync.rate_limit_penalize_until(key, pgsync.clock() + pause, reason);
END
$$;

COMMENT ON FUNCTION pgsync.rate_limit_penalize(text, interval, text) IS
    'Closes a key for everybody for a while (an API''s Retry-After) and returns until when; never shortens a penalty.';

CREATE OR REPLACE FUNCTION pgsync.rate_limit_penalised_until(key text) RETURNS timestamptz
LANGUAGE sql STABLE AS $$
    SELECT p.until FROM pgsync.rate_limit_penalty AS p
    WHERE p.key = rate_limit_penalised_until.key AND p.until > pgsync.clock();
$$;

COMMENT ON FUNCTION pgsync.rate_limit_penalised_until(text) IS
    'Until when a penalty closes the key; null where none does. Who has waited asks before it goes on.';

CREATE OR REPLACE FUNCTION pgsync.set_limit(
    key text, max integer, per interval, burst integer DEFAULT NULL, actor text DEFAULT NULL, reason text DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pgsync.check_name(key, 'limit key');
    PERFORM pgsync.check_duration(per, 'per');
    IF max IS NULL OR max < 1 OR burst < 1 THEN
        RAISE invalid_parameter_value USING MESSAGE = format('max and burst must be 1 or more, not %s',
            coalesce(least(max, burst)::text, 'null'));
    END IF;
    INSERT INTO pgsync.rate_limit_override AS o (key, per, max, burst, set_at, set_by, reason)
    VALUES (set_limit.key, set_limit.per, set_limit.max, set_limit.burst, pgsync.clock(),
            coalesce(actor, session_user), set_limit.reason)
    ON CONFLICT ON CONSTRAINT rate_limit_override_pkey DO UPDATE
    SET max = excluded.max, burst = excluded.burst, set_at = excluded.set_at, set_by = excluded.set_by,
        reason = excluded.reason;
    PERFORM pgsync.record_audit('set limit', key, actor,
        jsonb_build_object('max', max, 'per', per, 'burst', burst, 'reason', reason));
END
$$;

COMMENT ON FUNCTION pgsync.set_limit(text, integer, interval, integer, text, text) IS
    'Sets max permits per interval for one key, whatever callers state for that window, from the next decision on.';

CREATE OR REPLACE FUNCTION pgsync.unset_limit(key text, per interval, actor text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    DELETE FROM pgsync.rate_limit_override AS o WHERE o.key = unset_limit.key AND o.per = unset_limit.per;
    IF FOUND THEN
        PERFORM pgsync.record_audit('unset limit', key, actor, jsonb_build_object('per', per));
    END IF;
    RETURN FOUND;
END
$$;

COMMENT ON FUNCTION pgsync.unset_limit(text, interval, text) IS
    'Lets callers'' own limit hold again; false where none was set.';

CREATE OR REPLACE FUNCTION pgsync.prune_rate_limits(batch integer DEFAULT 1000) RETURNS integer
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    -- A minute's grace keeps the clean-up off rows that are about to be used again.
    past timestamptz := pgsync.clock() - interval '1 minute';
    removed integer;
    total integer;
BEGIN
    DELETE FROM pgsync.rate_limit_counter WHERE ctid = ANY (ARRAY(
        SELECT c.ctid FROM pgsync.rate_limit_counter AS c
        WHERE c.resets_at < past
        ORDER BY c.resets_at LIMIT batch FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS total = ROW_COUNT;
    DELETE FROM pgsync.rate_limit_penalty WHERE ctid = ANY (ARRAY(
        SELECT p.ctid FROM pgsync.rate_limit_penalty AS p
        WHERE p.until < past
        ORDER BY p.until LIMIT batch FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS removed = ROW_COUNT;
    total := total + removed;
    DELETE FROM pgsync.rate_limit_reservation WHERE ctid = ANY (ARRAY(
        SELECT r.ctid FROM pgsync.rate_limit_reservation AS r
        WHERE r.expires_at < past
        ORDER BY r.expires_at LIMIT batch FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS removed = ROW_COUNT;
    total := total + removed;
    -- While a later waiter waits, those before it are needed to reckon anew if it is cancelled.
    DELETE FROM pgsync.rate_limit_waiter WHERE ctid = ANY (ARRAY(
        SELECT w.ctid FROM pgsync.rate_limit_waiter AS w
        WHERE w.slot_at < past AND NOT EXISTS (
            SELECT FROM pgsync.rate_limit_counter AS c
            WHERE c.key = w.key AND c.per = w.per AND c.algorithm = w.algorithm AND c.last_slot_at > past)
        ORDER BY w.slot_at LIMIT batch FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN total + removed;
END
$$;

COMMENT ON FUNCTION pgsync.prune_rate_limits(integer) IS
    'Removes up to batch each of ended windows, penalties, reservations and waiters, skipping rows in use, and says how many.';

CREATE OR REPLACE VIEW pgsync.rate_limits AS
SELECT l.key,
       l.algorithm,
       l.per,
       CASE WHEN p.until IS NOT NULL THEN 'penalised' WHEN l.room = 0 THEN 'full' ELSE 'open' END AS state,
       l.burst - l.room AS hits,
       l.max,
       round((l.burst - l.room)::numeric / l.burst, 3) AS fill,
       CASE WHEN p.until IS NOT NULL THEN 0 ELSE l.room END AS remaining,
       nullif(greatest(l.opens_at, p.until), l.moment) AS opens_at,
       l.resets_at,
       CASE WHEN l.last_slot_at > l.moment THEN (
           SELECT count(*) FROM pgsync.rate_limit_waiter AS w
           WHERE w.key = l.key AND w.per = l.per AND w.algorithm = l.algorithm AND w.slot_at > l.moment)
       ELSE 0 END AS waiting,
       l.window_started_at,
       CASE WHEN l.algorithm = 'bucket' THEN l.burst END AS burst,
       l.is_set,
       l.shadowed,
       p.until AS penalised_until,
       p.reason AS penalty_reason
FROM (
    SELECT c.key, c.algorithm, c.per, q.max, q.burst, m.moment, c.last_slot_at, c.window_started_at, c.shadowed,
           pgsync.limit_room(c.algorithm, q.max, q.burst, c.per, s.state, m.moment) AS room,
           pgsync.limit_opens_at(c.algorithm, q.max, q.burst, c.per, s.state, 1, m.moment) AS opens_at,
           pgsync.limit_resets_at(c.algorithm, c.per, s.state, m.moment) AS resets_at,
           o.key IS NOT NULL AS is_set
    FROM pgsync.rate_limit_counter AS c
    LEFT JOIN pgsync.rate_limit_override AS o ON o.key = c.key AND o.per = c.per
    CROSS JOIN (SELECT pgsync.clock() AS moment) AS m
    CROSS JOIN LATERAL (
        SELECT ROW(c.window_started_at, c.hits, c.previous_hits, c.tat)::pgsync.limit_state AS state) AS s
    CROSS JOIN LATERAL (
        SELECT coalesce(o.max, greatest(c.max_hits, 1))::integer AS max,
               pgsync.overridden_burst(c.algorithm, greatest(c.max_hits, 1)::integer,
                   CASE WHEN c.algorithm = 'bucket' THEN c.burst END, o.max, o.burst) AS burst) AS q
) AS l
LEFT JOIN pgsync.rate_limit_penalty AS p ON p.key = l.key AND p.until > l.moment
UNION ALL
SELECT p.key, NULL, NULL, 'penalised', NULL, NULL, NULL, 0, p.until, p.until, 0, NULL, NULL, false, 0, p.until, p.reason
FROM pgsync.rate_limit_penalty AS p
WHERE p.until > pgsync.clock()
  AND NOT EXISTS (SELECT FROM pgsync.rate_limit_counter AS c WHERE c.key = p.key);

COMMENT ON VIEW pgsync.rate_limits IS
    'Each limit of each key in use, as its last hit stated it or as it is set: how full it is, when it opens (null: it is open), how many wait; and keys that a penalty closes (per is null where they have no limit in use).';

CREATE OR REPLACE VIEW pgsync.limit_overrides AS
SELECT o.key, o.per, o.max, o.burst, o.set_at, o.set_by, o.reason
FROM pgsync.rate_limit_override AS o;

COMMENT ON VIEW pgsync.limit_overrides IS 'Limits that are set for single keys, in place of what callers state.';
