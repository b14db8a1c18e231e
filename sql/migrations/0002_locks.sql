-- Locks. The advisory lock is the truth; these rows are for people, deadlines and fencing.

-- Logged, unlike the holders: a token must not come back after a crash.
CREATE SEQUENCE pgsync.lock_token AS bigint;

COMMENT ON SEQUENCE pgsync.lock_token IS 'Fencing tokens: each grant of any lock has a higher one than those before.';

-- Unlogged: a crash of the server drops the advisory locks, and must drop their holders with them.
CREATE UNLOGGED TABLE pgsync.lock_holder (
    token bigint PRIMARY KEY,
    key bigint NOT NULL UNIQUE,
    name text NOT NULL,
    mode text NOT NULL CHECK (mode IN ('exclusive')),
    owner text NOT NULL,
    pid integer NOT NULL,
    backend_start timestamptz NOT NULL,
    acquired_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000
);

COMMENT ON TABLE pgsync.lock_holder IS
    'Who holds which lock. A row whose backend no longer has the advisory lock is a leftover of a dead session; the view pgsync.locks leaves those out.';
COMMENT ON COLUMN pgsync.lock_holder.token IS 'Fencing token of this grant.';
COMMENT ON COLUMN pgsync.lock_holder.key IS 'pgsync.lock_key(name): the advisory lock.';
COMMENT ON COLUMN pgsync.lock_holder.name IS 'The lock''s name as it was asked for.';
COMMENT ON COLUMN pgsync.lock_holder.mode IS 'exclusive.';
COMMENT ON COLUMN pgsync.lock_holder.owner IS 'Who says to hold it: free text for people.';
COMMENT ON COLUMN pgsync.lock_holder.pid IS 'The server process whose session holds the advisory lock.';
COMMENT ON COLUMN pgsync.lock_holder.backend_start IS 'When that server process began, since pids are used again.';
COMMENT ON COLUMN pgsync.lock_holder.acquired_at IS 'When it was granted.';
COMMENT ON COLUMN pgsync.lock_holder.expires_at IS 'From then on a contender may end the holder''s session.';
