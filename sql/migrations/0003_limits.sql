-- Rate limits: one counter a key and window length.

CREATE TABLE pgsync.rate_limit_counter (
    key text NOT NULL,
    per interval NOT NULL,
    hits bigint NOT NULL,
    max_hits bigint NOT NULL,
    window_started_at timestamptz NOT NULL,
    resets_at timestamptz NOT NULL,
    PRIMARY KEY (key, per)
) WITH (
    -- Room on each page keeps an update of hits, which no index holds, on its page (HOT).
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.02
);

CREATE INDEX rate_limit_counter_resets_at ON pgsync.rate_limit_counter (resets_at);

COMMENT ON TABLE pgsync.rate_limit_counter IS 'Hits in the current window of each limited key.';
COMMENT ON COLUMN pgsync.rate_limit_counter.key IS 'What is limited, for example graph:connection:7.';
COMMENT ON COLUMN pgsync.rate_limit_counter.per IS 'Length of the window.';
COMMENT ON COLUMN pgsync.rate_limit_counter.hits IS 'Permits taken in this window.';
COMMENT ON COLUMN pgsync.rate_limit_counter.max_hits IS 'The limit as the last allowed hit stated it.';
COMMENT ON COLUMN pgsync.rate_limit_counter.window_started_at IS 'The hit that opened the window.';
COMMENT ON COLUMN pgsync.rate_limit_counter.resets_at IS 'When the window ends.';
COMMENT ON INDEX pgsync.rate_limit_counter_resets_at IS 'Finds ended windows for the clean-up.';

CREATE TABLE pgsync.rate_limit_penalty (
    key text PRIMARY KEY,
    until timestamptz NOT NULL,
    reason text NOT NULL
);

COMMENT ON TABLE pgsync.rate_limit_penalty IS 'Keys that admit nothing until a moment, for example an API''s Retry-After.';
COMMENT ON COLUMN pgsync.rate_limit_penalty.key IS 'What is limited.';
COMMENT ON COLUMN pgsync.rate_limit_penalty.until IS 'From then on its limits decide again.';
COMMENT ON COLUMN pgsync.rate_limit_penalty.reason IS 'Why, for people.';
