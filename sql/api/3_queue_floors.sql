-- Floors under the claim. While a snapshot is held open, dead index entries cannot be vacuumed, and
-- every claim would walk all of them. A floor says where a scan may begin. How it is known that
-- nothing appears below one: docs/decisions/0009-floors-under-the-claim.md.
--
-- That rests on two rules, which whoever writes a job follows:
--   a position of job_ready is drawn (nextval) by the very INSERT or UPDATE that writes it
--   a run_at of job_scheduled is at least pgsync.clock() as read by the INSERT or UPDATE that writes it

CREATE OR REPLACE FUNCTION pgsync.claim_ranges(queue text)
RETURNS TABLE (from_priority smallint, from_position bigint, to_priority smallint, to_position bigint)
LANGUAGE sql STABLE AS $$
    -- From each floor to where the next band begins. What has no floor is inside one of the ranges.
    SELECT b.priority, b.position,
           lead(b.priority, 1, 32767::smallint) OVER bands,
           lead(b.band_start, 1, 9223372036854775807) OVER bands
    FROM (
        SELECT (-32768)::smallint AS priority, -9223372036854775807 AS position,
               -9223372036854775807 AS band_start
        UNION ALL
        SELECT f.priority, f.position, CASE WHEN f.resumed THEN -9223372036854775807 ELSE 0 END
        FROM pgsync.queue_floor AS f WHERE f.queue = claim_ranges.queue
    ) AS b
    WINDOW bands AS (ORDER BY b.priority, b.band_start, b.position)
    ORDER BY b.priority, b.band_start, b.position
$$;

COMMENT ON FUNCTION pgsync.claim_ranges(text) IS
    'Internal: the parts of a queue in which jobs may be, in the order of the claim: from (inclusive) and to (exclusive), as (priority, position). One where no floors are kept.';

CREATE OR REPLACE FUNCTION pgsync.has_ready_jobs(queue text) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM pgsync.claim_ranges(has_ready_jobs.queue) AS f
        CROSS JOIN LATERAL (
            SELECT FROM pgsync.job_ready AS r
            WHERE r.queue = has_ready_jobs.queue
              AND (r.priority, r.position) >= (f.from_priority, f.from_position)
              AND (r.priority, r.position) < (f.to_priority, f.to_position)
            LIMIT 1) AS found)
$$;

COMMENT ON FUNCTION pgsync.has_ready_jobs(text) IS
    'Internal: whether a queue has a job that may be claimed now.';

CREATE OR REPLACE FUNCTION pgsync.ready_queues() RETURNS TABLE (name text)
LANGUAGE sql STABLE AS $$
    -- A loose index scan: one probe a queue, however many jobs it has. It steps over the queues that
    -- have floors, of which many may be empty, and looks at those between their floors.
    WITH RECURSIVE step (name, floored) AS (
        SELECT ''::text, false
        UNION ALL
        SELECT coalesce(n.between_floors, n.with_floor, n.after_floors),
               n.between_floors IS NULL AND n.with_floor IS NOT NULL
        FROM step AS s
        CROSS JOIN LATERAL (
            SELECT f.name AS with_floor,
                   (SELECT r.queue FROM pgsync.job_ready AS r
                    WHERE r.queue > s.name AND r.queue < f.name
                    ORDER BY r.queue LIMIT 1) AS between_floors,
                   (SELECT r.queue FROM pgsync.job_ready AS r
                    WHERE r.queue > s.name AND f.name IS NULL
                    ORDER BY r.queue LIMIT 1) AS after_floors
            FROM (SELECT (SELECT q.queue FROM pgsync.queue_floor AS q WHERE q.queue > s.name
                          ORDER BY q.queue LIMIT 1) AS name OFFSET 0) AS f
            OFFSET 0  -- computed once, not where each of its columns is named
        ) AS n
        WHERE coalesce(n.between_floors, n.with_floor, n.after_floors) IS NOT NULL
    )
    SELECT s.name FROM step AS s
    WHERE s.name <> '' AND (NOT s.floored OR pgsync.has_ready_jobs(s.name))
$$;

COMMENT ON FUNCTION pgsync.ready_queues() IS
    'Internal: the queues that have jobs which may be claimed now.';

CREATE OR REPLACE FUNCTION pgsync.notes_floors() RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM FROM pgsync.floors_kept;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- One transaction at a time: two that note the same queues in another order would deadlock.
    RETURN pg_try_advisory_xact_lock(pgsync.lock_key('pgsync.queue_floor'));
END
$$;

COMMENT ON FUNCTION pgsync.notes_floors() IS
    'Internal: whether this claim is to note in queue_floor what it claims from. False where no floors are kept, or another claim notes just now.';

CREATE OR REPLACE FUNCTION pgsync.due_floor() RETURNS timestamptz
LANGUAGE sql STABLE AS $$
    SELECT coalesce(max(k.due_from), '-infinity') FROM pgsync.floors_kept AS k
$$;

COMMENT ON FUNCTION pgsync.due_floor() IS
    'Internal: no job of job_scheduled is, or will be, due before.';

-- The duty: a probe is begun, and once all who wrote then have ended, the floors are moved.

CREATE OR REPLACE FUNCTION pgsync.job_writers() RETURNS text[]
LANGUAGE sql VOLATILE AS $$
    SELECT coalesce(array_agg(DISTINCT l.virtualtransaction), '{}')
    FROM pg_locks AS l
    WHERE l.locktype = 'relation' AND l.mode = 'RowExclusiveLock' AND l.granted
      AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
      AND l.relation IN ('pgsync.job_ready'::regclass, 'pgsync.job_scheduled'::regclass)
$$;

COMMENT ON FUNCTION pgsync.job_writers() IS
    'Internal: the transactions that may have written claimable or scheduled jobs and go on, prepared ones too.';

CREATE OR REPLACE FUNCTION pgsync.floors_pay(dead_rows bigint) RETURNS boolean
LANGUAGE sql VOLATILE AS $$
    SELECT greatest(pg_stat_get_dead_tuples('pgsync.job_ready'::regclass),
                    pg_stat_get_dead_tuples('pgsync.job_scheduled'::regclass)) > dead_rows
       -- A sequence that deals out its numbers in another order than they are drawn proves nothing.
       AND NOT EXISTS (
           SELECT FROM pg_sequence AS s
           WHERE s.seqrelid IN (to_regclass('pgsync.job_ready_position_seq'),
                                to_regclass('pgsync.job_resumed_position'))
             AND (s.seqcache <> 1 OR s.seqincrement < 1 OR s.seqcycle))
$$;

COMMENT ON FUNCTION pgsync.floors_pay(bigint) IS
    'Internal: whether there are more dead rows among the waiting jobs than that, so that floors are worth keeping.';

CREATE OR REPLACE FUNCTION pgsync.begin_floor_probe() RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    probe jsonb;
BEGIN
    probe := jsonb_build_object(
        'arrivals', coalesce(pg_sequence_last_value('pgsync.job_ready_position_seq'), 0),
        'resumed', coalesce(pg_sequence_last_value(to_regclass('pgsync.job_resumed_position')),
                            -4611686018427387905),
        -- Clocks are set back now and then.
        'due', pgsync.clock() - interval '10 seconds');
    -- Only now: whoever drew a position up to those holds the table's lock, or has ended.
    probe := probe || jsonb_build_object('writers', pgsync.job_writers());
    PERFORM set_config('pgsync.floor_probe', probe::text, false);
END
$$;

COMMENT ON FUNCTION pgsync.begin_floor_probe() IS
    'Internal: keeps, in this session, the last positions drawn and the transactions that go on.';

CREATE OR REPLACE FUNCTION pgsync.floor_probe_ended(probe jsonb) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    going_on text[] := pgsync.job_writers();
BEGIN
    RETURN NOT EXISTS (
        SELECT FROM jsonb_array_elements_text(probe -> 'writers') AS w (writer)
        WHERE w.writer = ANY (going_on));
END
$$;

COMMENT ON FUNCTION pgsync.floor_probe_ended(jsonb) IS
    'Internal: whether all transactions have ended that went on when the probe began.';

CREATE OR REPLACE FUNCTION pgsync.move_queue_floors(arrivals bigint, resumed bigint, gain bigint) RETURNS integer
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off SET enable_bitmapscan = off AS $$
DECLARE
    claim_index oid := 'pgsync.job_ready_claim'::regclass;
    before bigint;
    walked bigint;
    known record;
    lowest bigint;
    moved integer := 0;
BEGIN
    -- Positions that were never drawn: somebody has set a sequence back.
    DELETE FROM pgsync.queue_floor AS f
    WHERE f.position > 1 + CASE WHEN f.resumed THEN move_queue_floors.resumed ELSE arrivals END;
    FOR known IN
        SELECT f.queue, f.priority, f.resumed, f.position, f.moves,
               CASE WHEN f.resumed THEN move_queue_floors.resumed ELSE arrivals END + 1 AS undrawn
        FROM pgsync.queue_floor AS f
    LOOP
        before := pg_stat_get_xact_tuples_returned(claim_index);
        SELECT r.position INTO lowest FROM pgsync.job_ready AS r
        WHERE r.queue = known.queue AND r.priority = known.priority
          AND r.position >= known.position AND r.position < known.undrawn
        ORDER BY r.position LIMIT 1;
        walked := pg_stat_get_xact_tuples_returned(claim_index) - before;
        lowest := coalesce(lowest, known.undrawn);
        -- A move may leave a dead row, which costs the claims as much as a dead job: where each
        -- move must save more than all moves before it left, both grow with the root of the jobs.
        -- Index entries that are marked dead are not counted, but passing twenty costs as much as one.
        IF walked >= gain + known.moves OR lowest - known.position >= 20 * (gain + known.moves) THEN
            UPDATE pgsync.queue_floor AS f SET position = lowest, moves = f.moves + 1
            WHERE f.queue = known.queue AND f.priority = known.priority AND f.resumed = known.resumed
              AND f.position < lowest;
            moved := moved + 1;
        END IF;
    END LOOP;
    RETURN moved;
END
$$;

COMMENT ON FUNCTION pgsync.move_queue_floors(bigint, bigint, bigint) IS
    'Internal: moves the floors of job_ready up to the first job, or past the last positions given, where that saves gain dead rows; says how many. All who drew a position up to those must have ended.';

CREATE OR REPLACE FUNCTION pgsync.move_due_floor(due timestamptz, gain bigint) RETURNS integer
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off SET enable_bitmapscan = off AS $$
DECLARE
    due_index oid := 'pgsync.job_scheduled_due'::regclass;
    before bigint := pg_stat_get_xact_tuples_returned(due_index);
    kept pgsync.floors_kept;
    lowest timestamptz;
BEGIN
    SELECT k.* INTO kept FROM pgsync.floors_kept AS k;
    SELECT s.run_at INTO lowest FROM pgsync.job_scheduled AS s
    WHERE s.run_at >= kept.due_from AND s.run_at < due ORDER BY s.run_at LIMIT 1;
    IF pg_stat_get_xact_tuples_returned(due_index) - before < gain + kept.moves THEN
        RETURN 0;
    END IF;
    UPDATE pgsync.floors_kept AS k SET due_from = coalesce(lowest, due), moves = k.moves + 1
    WHERE k.due_from < coalesce(lowest, due);
    RETURN 1;
END
$$;

COMMENT ON FUNCTION pgsync.move_due_floor(timestamptz, bigint) IS
    'Internal: moves the floor of job_scheduled likewise, at most to due.';

CREATE OR REPLACE FUNCTION pgsync.advance_floors(
    dead_rows bigint DEFAULT 10000, gain bigint DEFAULT 1000
) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    probe jsonb := nullif(current_setting('pgsync.floor_probe', true), '');
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE invalid_transaction_state USING
            MESSAGE = 'floors are advanced in read committed only: each step needs a new snapshot';
    END IF;
    IF NOT pgsync.floors_pay(dead_rows) THEN
        PERFORM set_config('pgsync.floor_probe', '', false);
        PERFORM FROM pgsync.floors_kept;
        IF FOUND THEN
            DELETE FROM pgsync.floors_kept;
            DELETE FROM pgsync.queue_floor;
        END IF;
        RETURN 0;
    END IF;
    PERFORM FROM pgsync.floors_kept;
    IF NOT FOUND THEN
        INSERT INTO pgsync.floors_kept (since) VALUES (pgsync.clock());
    END IF;
    IF probe IS NOT NULL THEN
        IF NOT pgsync.floor_probe_ended(probe) THEN
            RETURN 1 + (SELECT count(*) FROM pgsync.queue_floor);
        END IF;
        -- Each statement from here on sees all that those transactions have committed.
        PERFORM pgsync.move_queue_floors(
            (probe ->> 'arrivals')::bigint, (probe ->> 'resumed')::bigint, gain);
        PERFORM pgsync.move_due_floor((probe ->> 'due')::timestamptz, gain);
    END IF;
    PERFORM pgsync.begin_floor_probe();
    RETURN 1 + (SELECT count(*) FROM pgsync.queue_floor);
END
$$;

COMMENT ON FUNCTION pgsync.advance_floors(bigint, bigint) IS
    'Keeps floors under the claim while there are more than dead_rows dead rows, and removes them otherwise. Moves those by which gain dead rows are saved, and says how many there are (0: none are kept). Called again and again in one session, outside transactions; a call moves them as far as the call before it could look.';

CREATE OR REPLACE FUNCTION pgsync.check_floors() RETURNS integer
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET jit = off SET enable_bitmapscan = off AS $$
DECLARE
    wrong integer;
    lowest timestamptz;
BEGIN
    WITH hidden AS (
        SELECT f.queue, f.priority, f.resumed FROM pgsync.queue_floor AS f
        WHERE EXISTS (
            SELECT FROM pgsync.job_ready AS r
            WHERE r.queue = f.queue AND r.priority = f.priority AND r.position < f.position
              AND r.position >= CASE WHEN f.resumed THEN -9223372036854775807 ELSE 0 END)
    )
    DELETE FROM pgsync.queue_floor AS f USING hidden AS h
    WHERE f.queue = h.queue AND f.priority = h.priority AND f.resumed = h.resumed;
    GET DIAGNOSTICS wrong = ROW_COUNT;
    SELECT s.run_at INTO lowest FROM pgsync.job_scheduled AS s
    WHERE s.run_at < pgsync.due_floor() ORDER BY s.run_at LIMIT 1;
    IF FOUND THEN
        UPDATE pgsync.floors_kept SET due_from = '-infinity', moves = 0;
        wrong := wrong + 1;
    END IF;
    RETURN wrong;
END
$$;

COMMENT ON FUNCTION pgsync.check_floors() IS
    'Removes floors that hide jobs, and says how many: 0, unless the clock was set back, a sequence too, or a writer broke the rules of floors.';
