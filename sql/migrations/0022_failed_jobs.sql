-- Finding the jobs that failed among millions that did not. Runs before the code. The index is built
-- on the whole history, which completions wait for: about a second for each two million jobs.

CREATE INDEX job_finished_failed ON pgsync.job_finished (state, id) WHERE state <> 'completed';

COMMENT ON INDEX pgsync.job_finished_failed IS
    'Finds discarded and cancelled jobs, the newest first; those that completed are not in it and do not pay for it.';
