-- Jobs that are copied get their ids and times from defaults, which costs less than reading them in each row.
-- Runs before the code: whoever gives these columns values goes on as before.

ALTER TABLE pgsync.job_ready
    ALTER COLUMN id SET DEFAULT nextval('pgsync.job_id'),
    -- COPY writes row by row where a default is volatile, as pgsync.clock() is.
    ALTER COLUMN created_at SET DEFAULT statement_timestamp(),
    ALTER COLUMN run_at SET DEFAULT statement_timestamp();
