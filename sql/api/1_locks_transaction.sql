-- Locks that end with the caller's transaction: right behind a transaction pooler too.
--
-- They exclude, and are excluded by, locks of the same name that sessions hold. They have no
-- holder's row: nobody could see it before the transaction ends.

CREATE OR REPLACE FUNCTION pgsync.lock_transaction(
    name text,
    patience interval DEFAULT '0',
    mode text DEFAULT 'exclusive',
    OUT acquired boolean,
    OUT holder text,
    OUT acquired_at timestamptz,
    OUT expires_at timestamptz
)
LANGUAGE plpgsql VOLATILE SET lock_timeout = '1s' SET enable_seqscan = off SET jit = off AS $$
DECLARE
    key bigint := pgsync.lock_key(name);
    shared boolean := mode = 'shared';
    until timestamptz := clock_timestamp() + patience;
    held pgsync.lock_holder;
BEGIN
    PERFORM pgsync.check_name(name, 'lock name');
    IF mode IS NULL OR mode NOT IN ('exclusive', 'shared') THEN
        RAISE invalid_parameter_value USING MESSAGE = format('unknown lock mode %L', mode),
            HINT = 'A transaction''s lock is exclusive or shared.';
    END IF;
    LOOP
        -- What is taken in this block is given back where it raises.
        BEGIN
            acquired := CASE WHEN shared THEN pg_try_advisory_xact_lock_shared(key)
                             ELSE pg_try_advisory_xact_lock(key) END;
            IF NOT acquired AND (patience > interval '0' OR (pgsync.end_expired_holders(ARRAY[key])).ended) THEN
                PERFORM set_config('lock_timeout',
                    greatest(10, ceil(extract(epoch FROM until - clock_timestamp()) * 1000))::text, true);
                IF shared THEN
                    PERFORM pg_advisory_xact_lock_shared(key);
                ELSE
                    PERFORM pg_advisory_xact_lock(key);
                END IF;
                acquired := true;
            END IF;
            IF acquired THEN
                held := pgsync.former_in_the_way(key, mode, greatest(until - clock_timestamp(), '0'));
                IF held.token IS NOT NULL THEN
                    RAISE lock_not_available;
                END IF;
                RETURN;
            END IF;
        EXCEPTION WHEN lock_not_available THEN
            acquired := false;
        END;
        EXIT WHEN clock_timestamp() >= until;
        PERFORM pgsync.end_expired_holders(ARRAY[key]);
        PERFORM pg_sleep_for(least(until - clock_timestamp(), interval '20 milliseconds'));
    END LOOP;
    held := pgsync.holder_of(ARRAY[key]);
    holder := held.owner;
    acquired_at := held.acquired_at;
    expires_at := held.expires_at;
END
$$;

COMMENT ON FUNCTION pgsync.lock_transaction(text, interval, text) IS
    'Takes the lock until the caller''s transaction ends, waiting for at most patience, or says who holds it. mode is exclusive or shared. Nothing releases it early but the end of the transaction.';
