-- What an attempt leaves behind besides its end. Runs before the code: the table is new, and release_job
-- takes the arguments of the former version too.

CREATE TABLE pgsync.job_note (
    job bigint NOT NULL,
    number integer NOT NULL,
    attempt smallint NOT NULL,
    event text NOT NULL CHECK (event IN ('released', 'log')),
    at timestamptz NOT NULL,
    worker bigint,
    started_at timestamptz,
    detail jsonb NOT NULL,
    PRIMARY KEY (job, number)
);

CREATE INDEX job_note_at ON pgsync.job_note USING brin (at);

COMMENT ON TABLE pgsync.job_note IS
    'Releases of jobs, and the log lines of attempts: the last 50 of each job, kept as long as the history.';
COMMENT ON COLUMN pgsync.job_note.job IS 'The job.';
COMMENT ON COLUMN pgsync.job_note.number IS 'Counts the notes of a job, from 1.';
COMMENT ON COLUMN pgsync.job_note.attempt IS 'The attempt that left it; one that was released has its number again.';
COMMENT ON COLUMN pgsync.job_note.event IS 'released: the job was put back, its attempt unspent; log: lines that its handler logged.';
COMMENT ON COLUMN pgsync.job_note.at IS 'When it was noted.';
COMMENT ON COLUMN pgsync.job_note.worker IS 'The worker whose attempt it was.';
COMMENT ON COLUMN pgsync.job_note.started_at IS 'When a released attempt had begun.';
COMMENT ON COLUMN pgsync.job_note.detail IS
    'Of a release its delay and reason; of a log its lines, each a time by the worker''s clock and a text, and how many earlier ones were dropped.';
COMMENT ON INDEX pgsync.job_note_at IS 'Finds those that are too old.';

DROP FUNCTION IF EXISTS pgsync.release_job(bigint, bigint, integer, interval);
