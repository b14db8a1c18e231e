-- What one job waits for. It reads indexes only, and may be asked under load.

CREATE OR REPLACE FUNCTION pgsync.say_time(moment timestamptz) RETURNS text
LANGUAGE sql STABLE
RETURN to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"');

COMMENT ON FUNCTION pgsync.say_time(timestamptz) IS 'Internal: a moment for people, in UTC.';

CREATE OR REPLACE FUNCTION pgsync.live_workers(queue text DEFAULT NULL)
RETURNS TABLE (id bigint, name text, host text, pid integer, running integer, concurrency integer, silence interval)
LANGUAGE sql STABLE AS $$
    SELECT w.id, w.name, w.host, w.pid,
           (SELECT count(*)::integer FROM pgsync.job_running AS j WHERE j.worker = w.id),
           w.concurrency, pgsync.clock() - w.seen_at
    FROM pgsync.worker AS w
    WHERE (live_workers.queue IS NULL OR live_workers.queue = ANY (w.queues) OR '*' = ANY (w.queues))
      AND EXISTS (
        SELECT FROM pgsync.advisory_locks AS l
        WHERE l.granted AND NOT l.shared AND l.key = pgsync.worker_key(w.id))
    ORDER BY w.id
$$;

COMMENT ON FUNCTION pgsync.live_workers(text) IS
    'The workers whose session lives, of one queue or of all, with how many jobs each runs.';

CREATE OR REPLACE FUNCTION pgsync.queue_fullness(queue text, OUT detail text, OUT until timestamptz)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    config pgsync.queue;
    taken integer;
BEGIN
    SELECT q.* INTO config FROM pgsync.queue AS q WHERE q.name = queue_fullness.queue;
    SELECT s.taken INTO taken FROM pgsync.queue_slots AS s WHERE s.queue = queue_fullness.queue;
    IF taken >= config.max_running THEN
        detail := format('%s jobs of queue %s run, as many as may', taken, queue);
        RETURN;
    END IF;
    SELECT greatest(c.resets_at, p.until) INTO until
    FROM (SELECT 'queue:' || queue_fullness.queue AS key) AS k
    LEFT JOIN pgsync.rate_limit_counter AS c
      ON c.key = k.key AND c.per = config.starts_per AND c.algorithm = 'fixed' AND c.resets_at > moment
     AND (c.hits >= config.max_starts OR c.window_started_at > moment)
    LEFT JOIN pgsync.rate_limit_penalty AS p ON p.key = k.key AND p.until > moment AND config.max_starts IS NOT NULL;
    IF until IS NOT NULL THEN
        detail := format('as many jobs of queue %s have started as may start in %s; more may at %s', queue,
            config.starts_per, pgsync.say_time(until));
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.queue_fullness(text) IS
    'Internal: why a limited queue lets nothing start just now, in words, and until when; nulls where it does.';

CREATE OR REPLACE FUNCTION pgsync.why_ended(job pgsync.job_finished) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT format('%s at %s, after %s of %s attempts', job.state, pgsync.say_time(job.finished_at), job.attempt,
                  job.max_attempts)
        || coalesce(': ' || CASE job.state WHEN 'discarded' THEN job.errors -> -1 ->> 'error'
                                           WHEN 'cancelled' THEN job.result ->> 'reason' END, '')
$$;

COMMENT ON FUNCTION pgsync.why_ended(pgsync.job_finished) IS
    'Internal: how a job ended, for why_not_running.';

CREATE OR REPLACE FUNCTION pgsync.why_running(job pgsync.job_running, OUT reason text, OUT detail text)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    SELECT 'runs', format('attempt %s of %s runs on %s on %s (pid %s) since %s', job.attempt, job.max_attempts, w.name,
               w.host, w.pid, pgsync.say_time(job.started_at))
           || coalesce('; asked to stop at ' || pgsync.say_time(job.cancel_requested_at), '')
    INTO reason, detail FROM pgsync.live_workers() AS w WHERE w.id = job.worker;
    IF NOT FOUND THEN
        reason := 'worker dead';
        detail := format('worker %s, which claimed it at %s, is gone; the maintenance of any other worker or daemon will make it available again',
            job.worker, pgsync.say_time(job.started_at));
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.why_running(pgsync.job_running) IS
    'Internal: where a job runs, or that its worker is dead, for why_not_running.';

CREATE OR REPLACE FUNCTION pgsync.why_key_waits(
    job pgsync.job_waiting, OUT reason text, OUT detail text, OUT until timestamptz, OUT ahead integer
)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    line pgsync.job_key;
    holders text;
BEGIN
    SELECT k.* INTO line FROM pgsync.job_key AS k WHERE k.key = job.key;
    SELECT count(*) INTO ahead FROM (
        SELECT FROM pgsync.job_waiting AS w
        WHERE w.waits_for = 'key' AND w.key = job.key AND (w.priority, w.id) < (job.priority, job.id)
        LIMIT 1000) AS others;
    IF line.permits_at > pgsync.clock() THEN
        reason := 'key rate limited';
        until := line.permits_at;
        detail := format('as many jobs of key %s have started as may start in a time; more may at %s', job.key,
            pgsync.say_time(until));
    ELSE
        reason := 'key busy';
        SELECT string_agg(format('job %s%s', h.id, coalesce(' on ' || w.name, '')), ', ' ORDER BY h.id) INTO holders
        FROM (SELECT j.id, j.worker FROM pgsync.job_running AS j WHERE j.key = job.key AND j.key_slot
              UNION ALL SELECT j.id, NULL FROM pgsync.job_ready AS j WHERE j.key = job.key AND j.key_slot
              UNION ALL SELECT j.id, NULL FROM pgsync.job_scheduled AS j WHERE j.key = job.key AND j.key_slot
              UNION ALL SELECT j.id, NULL FROM pgsync.job_waiting AS j WHERE j.key = job.key AND j.key_slot
              LIMIT 10) AS h
        LEFT JOIN pgsync.worker AS w ON w.id = h.worker;
        detail := format('all %s slots of key %s are taken, by %s', line.taken, job.key,
            coalesce(holders, 'nobody any more: it is resumed in a moment'));
    END IF;
    detail := detail || CASE ahead WHEN 0 THEN '; next of its key'
                                   ELSE format('; %s others of its key come before it', ahead) END;
END
$$;

COMMENT ON FUNCTION pgsync.why_key_waits(pgsync.job_waiting) IS
    'Internal: what a job waits for that waits for a slot or a permit of its key, for why_not_running.';

CREATE OR REPLACE FUNCTION pgsync.why_lock_waits(
    job pgsync.job_waiting, OUT detail text, OUT until timestamptz, OUT ahead integer
)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    held record;
BEGIN
    SELECT count(*) INTO ahead FROM (
        SELECT FROM pgsync.job_waiting AS w
        WHERE w.waits_for = 'lock' AND w.lock_name = job.lock_name AND (w.priority, w.id) < (job.priority, job.id)
        LIMIT 1000) AS others;
    SELECT l.* INTO held FROM pgsync.explain_lock(job.lock_name) AS l;
    until := held.expires_at;
    detail := format('lock %s is ', job.lock_name) || CASE held.state
        WHEN 'free' THEN 'free: it is resumed in a moment'
        ELSE format('held by %s', held.holder)
            || coalesce(' since ' || pgsync.say_time(held.acquired_at), '')
            || coalesce(', until ' || pgsync.say_time(until) || ' at the latest', '') END
        || CASE ahead WHEN 0 THEN '; next to have it' ELSE format('; %s others wait for it before it', ahead) END;
END
$$;

COMMENT ON FUNCTION pgsync.why_lock_waits(pgsync.job_waiting) IS
    'Internal: what a job waits for that waits for its lock, for why_not_running.';

CREATE OR REPLACE FUNCTION pgsync.why_ready(
    queue text, ahead integer, serving text, OUT reason text, OUT detail text, OUT until timestamptz
)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    fullness record;
BEGIN
    SELECT f.* INTO fullness FROM pgsync.queue_fullness(queue) AS f;
    IF serving IS NULL THEN
        reason := 'no live worker';
        SELECT format('no living worker claims from queue %s; those that live claim from: %s', queue,
            coalesce(string_agg(DISTINCT q.name, ', '), 'nothing, as there is none'))
        INTO detail FROM pgsync.live_workers() AS l JOIN pgsync.worker AS w ON w.id = l.id
        CROSS JOIN unnest(w.queues) AS q (name);
    ELSIF fullness.detail IS NOT NULL THEN
        reason := 'queue limited';
        until := fullness.until;
        detail := fullness.detail || CASE ahead WHEN 0 THEN '; next of its queue' ELSE format('; behind %s others', ahead) END;
    ELSE
        reason := CASE ahead WHEN 0 THEN 'next' ELSE 'behind others' END;
        detail := CASE ahead WHEN 0 THEN 'next of its queue'
                             WHEN 1000 THEN 'behind 1000 others or more'
                             WHEN 1 THEN 'behind 1 other'
                             ELSE format('behind %s others', ahead) END
            || format(', waiting for %s', serving);
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.why_ready(text, integer, text) IS
    'Internal: what a job waits for that could be claimed, behind so many others, where its queue is served by these workers (in words; null: by none), for why_not_running.';

CREATE OR REPLACE FUNCTION pgsync.why_not_running(
    job_id bigint,
    OUT id bigint,
    OUT queue text,
    OUT task text,
    OUT state text,
    OUT reason text,
    OUT detail text,
    OUT since timestamptz,
    OUT until timestamptz,
    OUT ahead integer,
    OUT workers text[]
)
-- STABLE, as all that it calls: all of it reads one snapshot, in which the job is in one table.
-- No bitmap of a whole queue, which the planner would make without fresh statistics.
LANGUAGE plpgsql STABLE SET enable_bitmapscan = off SET enable_seqscan = off SET jit = off AS $$
DECLARE
    moment timestamptz := pgsync.clock();
    ready pgsync.job_ready;
    waiting pgsync.job_scheduled;
    aside pgsync.job_waiting;
    awaited text;
    started pgsync.job_running;
    finished pgsync.job_finished;
    pause pgsync.queue;
    serving text;
    paused text;
    then_paused text;
BEGIN
    id := job_id;
    SELECT r.* INTO ready FROM pgsync.job_ready AS r WHERE r.id = job_id;
    SELECT s.* INTO waiting FROM pgsync.job_scheduled AS s WHERE s.id = job_id;
    SELECT w.* INTO aside FROM pgsync.job_waiting AS w WHERE w.id = job_id;
    SELECT r.* INTO started FROM pgsync.job_running AS r WHERE r.id = job_id;
    IF ready.id IS NULL AND waiting.id IS NULL AND aside.id IS NULL AND started.id IS NULL THEN
        SELECT f.* INTO finished FROM pgsync.job_finished AS f WHERE f.id = job_id
        ORDER BY f.finished_at DESC LIMIT 1;
        IF finished.id IS NULL THEN
            reason := 'unknown';
            detail := format('there is no job %s: it was never committed, or its history was pruned', job_id);
            RETURN;
        END IF;
    END IF;
    queue := coalesce(ready.queue, waiting.queue, aside.queue, started.queue, finished.queue);
    task := coalesce(ready.task, waiting.task, aside.task, started.task, finished.task);

    IF finished.id IS NOT NULL THEN
        state := finished.state;
        reason := 'ended';
        since := finished.finished_at;
        detail := pgsync.why_ended(finished);
        RETURN;
    END IF;

    SELECT array_agg(w.name ORDER BY w.id),
           string_agg(format('%s on %s (%s of %s busy%s)', w.name, w.host, w.running, w.concurrency,
               CASE WHEN w.silence > interval '15 seconds'
                    THEN format(', silent for %s s', extract(epoch FROM w.silence)::integer) ELSE '' END),
               ', ' ORDER BY w.id)
    INTO workers, serving FROM pgsync.live_workers(why_not_running.queue) AS w;
    workers := coalesce(workers, '{}');

    IF started.id IS NOT NULL THEN
        state := 'running';
        since := started.started_at;
        SELECT w.reason, w.detail INTO reason, detail FROM pgsync.why_running(started) AS w;
        RETURN;
    END IF;

    SELECT q.* INTO pause FROM pgsync.queue AS q WHERE q.name = why_not_running.queue AND q.paused_at IS NOT NULL;
    IF FOUND THEN
        paused := format('queue %s was paused by %s at %s', queue, coalesce(pause.paused_by, 'somebody'),
            pgsync.say_time(pause.paused_at));
    END IF;
    then_paused := coalesce('; then, ' || paused, '');

    awaited := pgsync.awaited_jobs(coalesce(aside.after, ready.after));
    IF aside.waits_for = 'jobs' OR awaited IS NOT NULL AND ready.attempt = 0 THEN
        state := CASE WHEN aside.id IS NULL THEN 'available' ELSE 'waiting' END;
        reason := 'waits for jobs';
        since := coalesce(aside.since, ready.run_at);
        detail := coalesce('it runs after ' || awaited, 'all jobs that it waited for have ended: it is resumed in a moment')
            || then_paused;
        RETURN;
    END IF;

    IF aside.waits_for = 'key' THEN
        state := 'waiting';
        since := aside.since;
        SELECT w.reason, w.detail || then_paused, w.until, w.ahead INTO reason, detail, until, ahead
        FROM pgsync.why_key_waits(aside) AS w;
        RETURN;
    END IF;

    IF aside.waits_for = 'lock' THEN
        state := 'waiting';
        reason := 'lock held';
        since := aside.since;
        SELECT w.detail || then_paused, w.until, w.ahead INTO detail, until, ahead FROM pgsync.why_lock_waits(aside) AS w;
        RETURN;
    END IF;

    IF waiting.run_at > moment THEN
        state := waiting.state;
        since := waiting.created_at;
        until := waiting.run_at;
        reason := CASE state WHEN 'retryable' THEN 'retry not due' ELSE 'not due' END;
        detail := format('due at %s, in %s', pgsync.say_time(until), date_trunc('second', until - moment))
            || CASE WHEN state = 'retryable' THEN format('; attempt %s of %s failed', waiting.attempt, waiting.max_attempts)
                || coalesce(': ' || (waiting.errors -> -1 ->> 'error'), '') ELSE '' END
            || then_paused;
        RETURN;
    END IF;

    -- A due job that nobody has promoted yet goes behind those of its priority.
    state := coalesce(waiting.state, 'available');
    since := coalesce(pause.paused_at, ready.run_at, waiting.run_at);
    SELECT count(*) INTO ahead FROM (
        SELECT FROM pgsync.job_ready AS r
        WHERE r.queue = why_not_running.queue AND (r.priority, r.position)
            < (coalesce(ready.priority, waiting.priority), coalesce(ready.position, 9223372036854775807))
        LIMIT 1000) AS others;
    IF pause.name IS NOT NULL THEN
        reason := 'queue paused';
        detail := paused || format('; pgsync.resume_queue(%L) ends that', queue);
    ELSE
        SELECT w.reason, w.detail, w.until INTO reason, detail, until FROM pgsync.why_ready(queue, ahead, serving) AS w;
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.why_not_running(bigint) IS
    'What a job waits for. One row: its state; reason (runs, worker dead, ended, not due, retry not due, waits for jobs, lock held, key busy, key rate limited, queue paused, no live worker, queue limited, behind others, next, unknown); detail for people; since when; until when, where that is known; how many of its queue are ahead (1000: or more); the live workers of its queue.';

CREATE OR REPLACE FUNCTION pgsync.wake_queues() RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    woken integer;
BEGIN
    SELECT count(pgsync.notify_workers(q.name)) INTO woken
    FROM pgsync.queue AS q
    WHERE q.max_starts IS NOT NULL AND q.paused_at IS NULL
      AND EXISTS (SELECT FROM pgsync.job_ready AS r WHERE r.queue = q.name)
      AND EXISTS (SELECT FROM pgsync.worker AS w WHERE w.idle AND (q.name = ANY (w.queues) OR '*' = ANY (w.queues)))
      AND (SELECT f.detail IS NULL FROM pgsync.queue_fullness(q.name) AS f);
    RETURN woken;
END
$$;

COMMENT ON FUNCTION pgsync.wake_queues() IS
    'Wakes sleeping workers of queues whose limit of starts has room again, and says how many queues.';
