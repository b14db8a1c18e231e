-- Who waited for which lock, sampled: taking a lock has nothing to do for it.

CREATE OR REPLACE FUNCTION pgsync.note_lock_contention(
    since_last interval DEFAULT '5 seconds', retention interval DEFAULT '7 days'
) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    noted integer;
BEGIN
    DELETE FROM pgsync.lock_contention_hour AS c WHERE c.hour < moment - retention;
    -- The hundred with the most waiters at most, so that no storm of names fills the table.
    INSERT INTO pgsync.lock_contention_hour AS c (hour, name, waited, most_waiting, last_seen_at, holder, waiter)
    SELECT date_trunc('hour', moment, 'UTC'), l.name, max(l.waiting) * since_last, max(l.waiting), moment,
           min(l.owner), (array_agg(l.waiters[1]))[1]
    FROM pgsync.locks AS l WHERE l.waiting > 0
    GROUP BY l.name ORDER BY max(l.waiting) DESC, l.name LIMIT 100
    ON CONFLICT ON CONSTRAINT lock_contention_hour_pkey DO UPDATE
    SET waited = c.waited + excluded.waited, most_waiting = greatest(c.most_waiting, excluded.most_waiting),
        last_seen_at = excluded.last_seen_at, holder = excluded.holder, waiter = excluded.waiter;
    GET DIAGNOSTICS noted = ROW_COUNT;
    RETURN noted;
END
$$;

COMMENT ON FUNCTION pgsync.note_lock_contention(interval, interval) IS
    'Notes which locks are waited for now, each waiter for as long as the last sample is past, and forgets what is older than retention; says of how many locks.';

CREATE OR REPLACE VIEW pgsync.lock_contention AS
SELECT c.hour, c.name, c.waited, c.most_waiting, c.last_seen_at, c.holder, c.waiter
FROM pgsync.lock_contention_hour AS c;

COMMENT ON VIEW pgsync.lock_contention IS
    'Locks that somebody waited for in each hour of the past week: how long all waiters together, how many at once at most, and who held it and who waited when that was last seen. Sampled every five seconds, so that short waits are seen by chance.';
