-- Telling tasks of jobs that were discarded. A worker that fails a job for the last time calls on_discard itself;
-- where it died, before that or before it has called, another one that knows the task does, and so where somebody
-- discarded the job by hand.

CREATE OR REPLACE FUNCTION pgsync.take_discards(
    tasks text[], lease interval DEFAULT '5 minutes', batch integer DEFAULT 100
) RETURNS TABLE (
    id bigint, queue text, task text, args jsonb, priority smallint, attempt smallint, max_attempts smallint,
    created_at timestamptz, run_at timestamptz, key text, in_batch bigint, error text
)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    taken bigint[];
BEGIN
    WITH free AS (
        SELECT u.job FROM pgsync.job_untold_discard AS u
        WHERE u.task = ANY (tasks) AND (u.taken_at IS NULL OR u.taken_at < moment - lease)
        ORDER BY u.job LIMIT take_discards.batch FOR UPDATE SKIP LOCKED
    ), marked AS (
        UPDATE pgsync.job_untold_discard AS u SET taken_at = moment FROM free AS f WHERE u.job = f.job
        RETURNING u.job
    )
    SELECT array_agg(m.job) INTO taken FROM marked AS m;
    RETURN QUERY
        SELECT f.id, f.queue, f.task, f.args, f.priority, f.attempt, f.max_attempts, f.created_at, f.run_at, f.key,
               f.batch, coalesce(f.result ->> 'reason', f.errors -> -1 ->> 'error')
        FROM pgsync.job_finished AS f WHERE f.id = ANY (taken) AND f.state = 'discarded';
END
$$;

COMMENT ON FUNCTION pgsync.take_discards(text[], interval, integer) IS
    'Takes jobs of these tasks that were discarded, and whose worker died before it could tell, each with its last error, or by hand, with the reason, to call on_discard for them. One that is not said to be told within the lease is given to another: told at least once.';

CREATE OR REPLACE FUNCTION pgsync.discards_told(jobs bigint[]) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    told integer;
BEGIN
    DELETE FROM pgsync.job_untold_discard AS u WHERE u.job = ANY (jobs);
    GET DIAGNOSTICS told = ROW_COUNT;
    RETURN told;
END
$$;

COMMENT ON FUNCTION pgsync.discards_told(bigint[]) IS 'Says that on_discard has been called for these jobs.';

CREATE OR REPLACE FUNCTION pgsync.prune_discards(retention interval DEFAULT '7 days') RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    pruned integer;
BEGIN
    DELETE FROM pgsync.job_untold_discard AS u WHERE u.discarded_at < pgsync.clock() - retention;
    GET DIAGNOSTICS pruned = ROW_COUNT;
    RETURN pruned;
END
$$;

COMMENT ON FUNCTION pgsync.prune_discards(interval) IS
    'Forgets discards that no worker asked for, such as those of tasks without on_discard, and says how many.';
