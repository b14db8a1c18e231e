-- Jobs that are asked for again after the answer was lost.
-- Runs before the code: the table is new, so the former version goes on.

CREATE TABLE pgsync.job_asked_again (
    id bigint PRIMARY KEY,
    at timestamptz NOT NULL
);

COMMENT ON TABLE pgsync.job_asked_again IS
    'Jobs whose adding was asked for again on another connection: the first request, where it comes late, adds nothing.';
COMMENT ON COLUMN pgsync.job_asked_again.id IS 'The first job of the request.';
COMMENT ON COLUMN pgsync.job_asked_again.at IS 'When, for the clean-up, which is done with the next request of the kind.';
