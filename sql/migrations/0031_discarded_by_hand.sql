-- Jobs that were discarded by hand are told of too: many at once, and of tasks that nobody asks for. Runs before the code.

CREATE INDEX job_untold_discard_task ON pgsync.job_untold_discard (task, job);

COMMENT ON TABLE pgsync.job_untold_discard IS
    'Jobs that were discarded by hand or with the death of their last attempt''s worker, and of which on_discard of their task has not been told.';
COMMENT ON INDEX pgsync.job_untold_discard_task IS 'Finds those of the tasks that a worker knows.';
