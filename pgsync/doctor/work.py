"""Is the work done: rights, workers, queues, duties, the history's partitions."""

from __future__ import annotations

from pgsync.doctor.finding import asking

__all__ = ["RIGHTS", "WORK"]

RIGHTS = (
    asking(
        "roles",
        """
        SELECT CASE WHEN r.name IS NULL THEN 'failure' ELSE 'ok' END,
               session_user || coalesce(' works here as ' || r.name,
                                        ' has none of pgsync_reader, pgsync_worker, pgsync_admin'),
               'GRANT pgsync_worker TO ' || quote_ident(session_user)
        FROM (SELECT CASE WHEN pg_has_role(n.nspowner, 'USAGE') THEN 'the owner of the schema' ELSE
                  (SELECT g.rolname FROM pg_roles AS g
                   WHERE g.rolname IN ('pgsync_reader', 'pgsync_worker', 'pgsync_admin')
                     AND pg_has_role(g.oid, 'USAGE')
                   -- The most that it has: in the order of the alphabet, but for one.
                   ORDER BY g.rolname = 'pgsync_admin' DESC, g.rolname DESC LIMIT 1) END
              FROM pg_namespace AS n WHERE n.nspname = 'pgsync') AS r (name)
        WHERE pgsync.roles_in_use()
        UNION ALL
        SELECT 'failure', count(*) || ' rights of ' || string_agg(DISTINCT g.grantee, ', ')
                   || ' are not what they should be, among them that on ' || min(g.object),
               'pgsync migrate --roles, as the owner of the schema'
        FROM pgsync.role_grants AS g
        WHERE g.wanted <> g.granted AND pgsync.roles_in_use()
        HAVING count(*) > 0
        """,
        well="pgsync_reader, pgsync_worker and pgsync_admin are not in use in this database",
    ),
    asking(
        "rights on tables",
        """
        SELECT 'failure', session_user || ' may not read and write '
                   || string_agg(t.name, ', ' ORDER BY t.name),
               'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA pgsync TO '
                   || quote_ident(session_user)
        FROM (SELECT c.oid::regclass::text AS name
              FROM pg_class AS c
              CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS r (need)
              WHERE c.relnamespace = 'pgsync'::regnamespace AND c.relkind IN ('r', 'p')
                AND NOT c.relispartition AND NOT pgsync.roles_in_use()
              GROUP BY c.oid HAVING NOT bool_and(has_table_privilege(c.oid, r.need))) AS t
        HAVING count(*) > 0
        """,
        well="this role may read and write each that its work is with",
    ),
    asking(
        "rights on functions",
        """
        SELECT 'failure', session_user || ' may not call ' || count(*) || ' functions of pgsync',
               'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pgsync TO ' || quote_ident(session_user)
        FROM pg_proc AS p
        WHERE p.pronamespace = 'pgsync'::regnamespace
          AND NOT has_function_privilege(p.oid, 'EXECUTE') AND NOT pgsync.roles_in_use()
          AND NOT p.prosecdef
        HAVING count(*) > 0
        """,
        well="this role may call each that its work needs",
    ),
    asking(
        "rights of a daemon",
        """
        SELECT 'warning', 'a daemon as ' || session_user
                   || ' could make no partitions for the history, which belongs to '
                   || pg_get_userbyid(c.relowner),
               'run the daemon as that role, or GRANT ' || quote_ident(pg_get_userbyid(c.relowner))
                   || ' TO ' || quote_ident(session_user)
        FROM pg_class AS c
        WHERE c.oid = 'pgsync.job_finished'::regclass AND NOT pg_has_role(c.relowner, 'USAGE')
          AND NOT has_function_privilege('pgsync.do_duty(text)', 'EXECUTE')
        UNION ALL
        SELECT 'warning', session_user
                   || ' does not see since when sessions of other roles are busy',
               'GRANT pg_read_all_stats TO ' || quote_ident(session_user)
        WHERE NOT pg_has_role('pg_read_all_stats', 'USAGE')
        """,
        well="this role could do every duty",
    ),
)

WORK = (
    asking(
        "workers",
        """
        SELECT 'warning', 'worker ' || w.id || ' (' || w.name || ', process ' || w.pid || ' on '
                   || w.host || ') was last heard of ' || date_trunc('second', w.silence) || ' ago',
               'look after its machine; a daemon, where one runs, gives its ' || w.running
                   || ' jobs to others'
        FROM pgsync.workers AS w
        WHERE w.silence > interval '60 seconds'
        ORDER BY w.silence DESC
        """,
        well="none is silent",
    ),
    asking(
        "deaf workers",
        """
        SELECT 'warning', 'worker ' || w.id || ' (' || w.name || ' on ' || w.host
                   || ') has heard of no new job for '
                   || date_trunc('second', pgsync.clock() - w.deaf_since)
                   || ', and finds them by polling',
               'see why its session cannot LISTEN: too many connections, a pooler, or a firewall'
        FROM pgsync.worker AS w WHERE w.deaf_since IS NOT NULL ORDER BY w.deaf_since
        """,
        well="notifications reach each",
    ),
    asking(
        "queues without workers",
        """
        WITH RECURSIVE ready AS (
            (SELECT r.queue FROM pgsync.job_ready AS r ORDER BY r.queue LIMIT 1)
            UNION ALL
            SELECT (SELECT r.queue FROM pgsync.job_ready AS r
                    WHERE r.queue > p.queue ORDER BY r.queue LIMIT 1)
            FROM ready AS p WHERE p.queue IS NOT NULL
        )
        SELECT CASE WHEN h.waited > interval '1 minute' THEN 'failure' ELSE 'warning' END,
               'queue ' || quote_literal(q.queue) || ' has jobs that could run, for '
                   || date_trunc('second', h.waited) || ', and no live worker claims from it',
               'pgsync worker --app package.module:coordinator --queue ' || quote_literal(q.queue)
        FROM ready AS q
        CROSS JOIN LATERAL (
            SELECT greatest(pgsync.clock() - r.run_at, '0') AS waited FROM pgsync.job_ready AS r
            WHERE r.queue = q.queue ORDER BY r.priority, r.position LIMIT 1) AS h
        WHERE NOT EXISTS (
            SELECT FROM pgsync.worker AS w
            WHERE (q.queue = ANY (w.queues) OR '*' = ANY (w.queues))
              AND w.seen_at > pgsync.clock() - interval '60 seconds')
        ORDER BY h.waited DESC
        """,
        well="each queue that has jobs has a live worker",
    ),
    asking(
        "paused queues",
        """
        SELECT 'warning', 'queue ' || quote_literal(q.name) || ' is paused since '
                   || date_trunc('second', q.paused_at) || ' by '
                   || coalesce(q.paused_by, 'somebody') || ', and jobs wait in it',
               'pgsync queues resume ' || quote_literal(q.name)
        FROM pgsync.queue AS q
        WHERE q.paused_at < pgsync.clock() - interval '1 hour'
          AND EXISTS (SELECT FROM pgsync.job_ready AS r WHERE r.queue = q.name)
        """,
        well="none has been paused for an hour with jobs in it",
    ),
    asking(
        "failed duties",
        """
        SELECT 'failure', 'the duty ' || quote_literal(m.duty) || ' failed: ' || m.error,
               'mend the reason; then it goes on by itself'
        FROM pgsync.maintenance AS m WHERE m.outcome = 'failed' ORDER BY m.duty
        """,
        well="the last run of none failed",
    ),
    asking(
        "late duties",
        """
        SELECT 'warning', count(*) || ' duties of the maintenance are late, longest ' || (
                   array_agg(quote_literal(l.duty) ORDER BY l.since))[1] || ', since '
                   || date_trunc('second', min(l.since)),
               'let a daemon run: pgsync daemon --app package.module:coordinator'
        FROM (SELECT m.duty, coalesce(m.last_run_at, s.since) AS since
              FROM pgsync.maintenance AS m
              -- What has never run is late from the schema's beginning.
              CROSS JOIN (SELECT min(i.applied_at) AS since FROM pgsync.schema_migration AS i) AS s
              -- Runs that find nothing to do are noted once a minute.
              WHERE coalesce(m.last_run_at, s.since)
                    < pgsync.clock() - 3 * greatest(m.every, interval '1 minute')) AS l
        HAVING count(*) > 0
        """,
        well="each was done when it was due",
    ),
    asking(
        "locks past their deadline",
        """
        SELECT 'failure', 'lock ' || quote_literal(l.name) || ' of '
                   || coalesce(l.owner, 'somebody') || ' should have ended '
                   || date_trunc('second', -l.remaining) || ' ago',
               'let a daemon run, which ends it; or pgsync locks release ' || quote_literal(l.name)
        FROM pgsync.locks AS l WHERE l.remaining < interval '-30 seconds'
        """,
        well="none is held longer than it may be",
    ),
    asking(
        "partitions ahead",
        """
        SELECT 'warning', 'the history has no partition for '
                   || string_agg(d.day::text, ', ' ORDER BY d.day) || '; what ends then goes into '
                   || 'pgsync.job_finished_default, and is deleted row by row',
               'SELECT pgsync.prepare_history(), and let a daemon run'
        FROM (SELECT (pgsync.clock() AT TIME ZONE 'UTC')::date + n AS day
              FROM generate_series(0, 1) AS n) AS d
        WHERE to_regclass('pgsync.job_finished_' || to_char(d.day, 'YYYYMMDD')) IS NULL
        HAVING count(*) > 0
        """,
        well="the history has those of today and tomorrow",
    ),
    asking(
        "partitions past their time",
        """
        SELECT 'warning', count(*) || ' partitions of the history are past their time, the oldest '
                   || min(p.name),
               'SELECT pgsync.prune_history(), again where somebody reads the history for long'
        FROM (SELECT c.relname AS name, to_date(right(c.relname, 8), 'YYYYMMDD') + 2 AS ended
              FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
              WHERE i.inhparent = 'pgsync.job_finished'::regclass
                AND c.relname ~ '^job_finished_[0-9]{8}$') AS p
        WHERE p.ended::timestamp AT TIME ZONE 'UTC' < pgsync.clock()
              - greatest(interval '7 days', (SELECT max(q.retention) FROM pgsync.queue AS q))
        HAVING count(*) > 0
        """,
        well="each is younger than its jobs are kept",
    ),
    asking(
        "history outside its partitions",
        """
        SELECT 'warning', 'pgsync.job_finished_default has rows, since a partition was missing',
               'nothing but time: they are deleted when they are past their time'
        WHERE EXISTS (SELECT FROM pgsync.job_finished_default)
        """,
        well="all of it is in them",
    ),
)
"""Checks of pgsync's own tables, none of which counts a big one."""
