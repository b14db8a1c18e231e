-- What the Python library limits keeps where pgsync is its storage: a row a key, for each strategy.
-- Runs before the code that needs it.

CREATE TABLE pgsync.limits_storage_counter (
    key text PRIMARY KEY,
    hits bigint NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (
    -- Room on each page keeps an update of hits, which no index holds, on its page (HOT).
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.02
);

CREATE INDEX limits_storage_counter_expires_at ON pgsync.limits_storage_counter (expires_at);

COMMENT ON TABLE pgsync.limits_storage_counter IS 'Fixed windows of the library limits: hits since the first one.';
COMMENT ON COLUMN pgsync.limits_storage_counter.key IS 'The library''s key, with its prefix.';
COMMENT ON COLUMN pgsync.limits_storage_counter.hits IS 'Hits of the window, refused ones too.';
COMMENT ON COLUMN pgsync.limits_storage_counter.expires_at IS 'When the window ends.';
COMMENT ON INDEX pgsync.limits_storage_counter_expires_at IS 'Finds ended windows for the clean-up.';

CREATE TABLE pgsync.limits_storage_sliding (
    key text PRIMARY KEY,
    previous_hits bigint NOT NULL,
    hits bigint NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

CREATE INDEX limits_storage_sliding_expires_at ON pgsync.limits_storage_sliding (expires_at);

COMMENT ON TABLE pgsync.limits_storage_sliding IS 'Sliding window counters of the library limits: a window and the one before it.';
COMMENT ON COLUMN pgsync.limits_storage_sliding.key IS 'The library''s key, with its prefix.';
COMMENT ON COLUMN pgsync.limits_storage_sliding.previous_hits IS 'Hits of the window before, which weigh less and less.';
COMMENT ON COLUMN pgsync.limits_storage_sliding.hits IS 'Hits of the current window.';
COMMENT ON COLUMN pgsync.limits_storage_sliding.expires_at IS 'When the hits of the current window weigh nothing any more: two lengths after it began.';
COMMENT ON INDEX pgsync.limits_storage_sliding_expires_at IS 'Finds windows for the clean-up.';

CREATE TABLE pgsync.limits_storage_moving (
    key text PRIMARY KEY,
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    taken bigint NOT NULL,
    gone bigint NOT NULL,
    latest_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

CREATE INDEX limits_storage_moving_expires_at ON pgsync.limits_storage_moving (expires_at);

COMMENT ON TABLE pgsync.limits_storage_moving IS 'Moving windows of the library limits: in the window is what was taken and is not gone.';
COMMENT ON COLUMN pgsync.limits_storage_moving.key IS 'The library''s key, with its prefix.';
COMMENT ON COLUMN pgsync.limits_storage_moving.id IS 'What the entries call it.';
COMMENT ON COLUMN pgsync.limits_storage_moving.taken IS 'Permits taken since the row was made.';
COMMENT ON COLUMN pgsync.limits_storage_moving.gone IS 'Of these, how many are known to have left the window.';
COMMENT ON COLUMN pgsync.limits_storage_moving.latest_at IS 'The latest entry.';
COMMENT ON COLUMN pgsync.limits_storage_moving.expires_at IS 'From then on all have left; written once a window, so at least a length after the latest entry.';
COMMENT ON INDEX pgsync.limits_storage_moving_expires_at IS 'Finds windows for the clean-up.';

CREATE TABLE pgsync.limits_storage_entry (
    moving_id bigint NOT NULL,
    at timestamptz NOT NULL,
    through bigint NOT NULL,
    cost bigint NOT NULL,
    PRIMARY KEY (moving_id, at, through)
) WITH (autovacuum_vacuum_scale_factor = 0.02);

COMMENT ON TABLE pgsync.limits_storage_entry IS 'The entries of moving windows; of a window''s entries, a later one has a higher through.';
COMMENT ON COLUMN pgsync.limits_storage_entry.moving_id IS 'Its row of limits_storage_moving.';
COMMENT ON COLUMN pgsync.limits_storage_entry.at IS 'When the permits were taken.';
COMMENT ON COLUMN pgsync.limits_storage_entry.through IS 'What its window had taken, this entry included.';
COMMENT ON COLUMN pgsync.limits_storage_entry.cost IS 'How many permits it took.';
