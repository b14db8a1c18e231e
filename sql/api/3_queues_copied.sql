-- Copied jobs: thousands at once, by COPY into job_ready. Their ids and times are the columns' defaults.

CREATE OR REPLACE FUNCTION pgsync.before_copy(
    task text, queue text, priority integer, max_attempts integer, count integer, batch bigint DEFAULT NULL
) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pgsync.check_job(task, '{}', queue, priority, max_attempts, NULL);
    IF pgsync.clock() NOT BETWEEN statement_timestamp() AND clock_timestamp() THEN
        RETURN NULL;
    END IF;
    IF batch IS NOT NULL THEN
        PERFORM pgsync.add_to_batch(batch, count);
    END IF;
    RETURN nextval('pgsync.job_id');
END
$$;

COMMENT ON FUNCTION pgsync.before_copy(text, text, integer, integer, integer, bigint) IS
    'Internal: checks and counts jobs that the caller is about to COPY into job_ready. Returns an id before theirs; null where a test has moved pgsync.clock(), which COPY does not go by.';

CREATE OR REPLACE FUNCTION pgsync.after_copy(
    queue text, before bigint, count integer, OUT last bigint, OUT ids bigint[]
)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    last := currval('pgsync.job_id');
    IF last - before <> count THEN
        -- Others drew ids meanwhile. What one COPY adds has one xmin.
        ids := ARRAY(
            SELECT r.id FROM pgsync.job_ready AS r
            WHERE r.id > before AND r.id <= last
              AND r.xmin = (SELECT l.xmin FROM pgsync.job_ready AS l WHERE l.id = last)
            ORDER BY r.id);
    END IF;
    PERFORM pgsync.notify_workers(queue);
END
$$;

COMMENT ON FUNCTION pgsync.after_copy(text, bigint, integer) IS
    'Internal: wakes workers for jobs that the caller has copied since before_copy. Returns their ids, or only the last of them where they follow each other.';

-- What the former version calls, which goes on while another is rolled out.

CREATE OR REPLACE FUNCTION pgsync.number_jobs(
    task text, queue text, priority integer, max_attempts integer, count integer, batch bigint DEFAULT NULL,
    OUT ids bigint[], OUT moment timestamptz
)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pgsync.check_job(task, '{}', queue, priority, max_attempts, NULL);
    IF batch IS NOT NULL THEN
        PERFORM pgsync.add_to_batch(batch, count);
    END IF;
    ids := pgsync.job_numbers(count);
    moment := pgsync.clock();
END
$$;

COMMENT ON FUNCTION pgsync.number_jobs(text, text, integer, integer, integer, bigint) IS
    'Internal: checks and counts jobs that the caller is about to COPY into job_ready, draws their ids, and tells the time. For the former version.';
