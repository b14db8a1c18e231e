-- Workers tell when word of new jobs does not reach them. Runs before the code: the column may be null.

ALTER TABLE pgsync.worker ADD COLUMN deaf_since timestamptz;

COMMENT ON COLUMN pgsync.worker.deaf_since IS
    'Since when it has told that notifications do not reach it, so that it finds jobs by polling only.';
