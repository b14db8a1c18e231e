-- A history of who waited for which lock. Runs before the code: the table is new.

CREATE TABLE pgsync.lock_contention_hour (
    hour timestamptz NOT NULL,
    name text NOT NULL,
    waited interval NOT NULL,
    most_waiting integer NOT NULL,
    last_seen_at timestamptz NOT NULL,
    holder text,
    waiter text,
    PRIMARY KEY (hour, name)
) WITH (fillfactor = 50);

COMMENT ON TABLE pgsync.lock_contention_hour IS
    'Locks that somebody was seen to wait for, by the hour. Samples of a duty: taking a lock writes nothing here.';
COMMENT ON COLUMN pgsync.lock_contention_hour.hour IS 'The hour.';
COMMENT ON COLUMN pgsync.lock_contention_hour.name IS 'The lock.';
COMMENT ON COLUMN pgsync.lock_contention_hour.waited IS 'How long all waiters together have waited, as far as samples tell.';
COMMENT ON COLUMN pgsync.lock_contention_hour.most_waiting IS 'How many waited at once at most.';
COMMENT ON COLUMN pgsync.lock_contention_hour.last_seen_at IS 'When somebody was last seen to wait.';
COMMENT ON COLUMN pgsync.lock_contention_hour.holder IS 'Who held it then.';
COMMENT ON COLUMN pgsync.lock_contention_hour.waiter IS 'Who had waited the longest then.';
