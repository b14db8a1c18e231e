"""What an operator looks at first: how it goes, what runs, and what needs a person."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from pgsync.dashboard.panels import read_panel
from pgsync.dashboard.past_hour import read_minutes
from pgsync.dashboard.reading import MOST_COUNTED, Read

__all__ = ["read_overview"]

_MOST_QUEUES = 12


async def read_overview(read: Read, _request: Request) -> dict[str, Any]:
    """What the overview shows."""
    queues = await read_panel(read, "queues")
    # Those with work first: of hundreds nobody looks at the end.
    shown = sorted(queues, key=_work, reverse=True)[:_MOST_QUEUES]
    names = [each["name"] for each in shown]
    minutes = await read_minutes(read)
    moments = [each["minute"] for each in minutes]
    past = await read.rows(_PAST_HOUR, {"names": names, "minutes": moments})
    attention = await read.rows(_ATTENTION)
    modules = await read.row(_MODULES)
    if modules and modules["readable"]:
        attention += await read.rows(_UNKNOWN)
    return {
        "figures": await read.row("SELECT f.* FROM pgsync.figures AS f"),
        "minutes": minutes,
        "queues": sorted(shown, key=lambda each: str(each["name"])),
        "all_queues": len(queues),
        "past": {each["queue"]: each for each in past},
        "most": MOST_COUNTED,
        "running": await read.rows(_OPERATIONS),
        "attention": attention,
    }


def _work(queue: dict[str, Any]) -> tuple[int, int]:
    waiting = queue["available"] + queue["running"] + queue["waiting"]
    return waiting + queue["jobs_past_hour"], waiting


_PAST_HOUR = """
WITH counted AS (
    SELECT t.queue, t.minute, sum(t.jobs) AS jobs,
           sum(t.jobs) FILTER (WHERE t.outcome = 'discarded') AS discarded,
           sum(t.waited) / sum(t.jobs) AS mean_wait
    FROM pgsync.throughput_minute AS t
    WHERE t.minute = ANY (%(minutes)s::timestamptz[]) AND t.queue = ANY (%(names)s)
    GROUP BY t.queue, t.minute
)
SELECT n.queue, array_agg(coalesce(c.jobs, 0)::bigint ORDER BY p.minute) AS jobs,
       array_agg(coalesce(c.discarded, 0)::bigint ORDER BY p.minute) AS discarded,
       array_agg(coalesce(extract(epoch FROM c.mean_wait), 0)::float8 ORDER BY p.minute) AS waits
FROM unnest(%(names)s::text[]) AS n (queue)
CROSS JOIN unnest(%(minutes)s::timestamptz[]) AS p (minute)
LEFT JOIN counted AS c ON c.queue = n.queue AND c.minute = p.minute
GROUP BY n.queue
"""
_OPERATIONS = """
SELECT o.id, o.operation, o.key, o.state, o.actor, o.duration, o.done, o.total
FROM pgsync.operations AS o WHERE o.state = 'running' ORDER BY o.id DESC LIMIT 20
"""
# What needs a person: a word, what it is about, since when or for how long, the page to look at and
# its query string. Only what was counted is read, never jobs.
_ATTENTION = """
SELECT * FROM (
    SELECT 'expired lock' AS what, l.name || ', held by ' || l.owner AS about,
           -l.remaining AS since, 'locks' AS page, '' AS query
    FROM pgsync.locks AS l WHERE l.expired
    UNION ALL
    SELECT 'silent worker', w.name || ' on ' || w.host, pgsync.clock() - w.seen_at, 'workers', ''
    FROM pgsync.worker AS w WHERE w.seen_at < pgsync.clock() - interval '60 seconds'
    UNION ALL
    SELECT 'deaf worker', w.name || ' on ' || w.host || ' hears of no new jobs, and polls',
           pgsync.clock() - w.deaf_since, 'workers', ''
    FROM pgsync.worker AS w WHERE w.deaf_since IS NOT NULL
    UNION ALL
    SELECT 'paused queue', q.name || ', by ' || q.paused_by, pgsync.clock() - q.paused_at,
           'queues', ''
    FROM pgsync.queue AS q WHERE q.paused_at IS NOT NULL
    UNION ALL
    (SELECT 'discarded', format('%s of %s on %s, past hour', sum(t.jobs), t.task, t.queue),
            pgsync.clock() - min(t.minute), 'jobs', '?state=discarded&since=1h'
     FROM pgsync.throughput_minute AS t
     WHERE t.minute > pgsync.clock() - interval '1 hour' AND t.outcome = 'discarded'
     GROUP BY t.queue, t.task ORDER BY sum(t.jobs) DESC, t.task LIMIT 5)
    UNION ALL
    SELECT 'no worker', d.queue || ' has jobs that nobody claims', d.oldest_ready, 'queues', ''
    FROM pgsync.queue_depth AS d
    WHERE d.at = (SELECT max(l.at) FROM pgsync.queue_depth AS l)
      AND d.at > pgsync.clock() - interval '5 minutes' AND d.available > 0
      AND NOT EXISTS (SELECT FROM pgsync.worker AS w
                      WHERE NOT w.given_up AND (d.queue = ANY (w.queues) OR '*' = ANY (w.queues)))
    UNION ALL
    SELECT 'broken schedule', s.name || ': ' || s.error, NULL, 'schedules', ''
    FROM pgsync.schedule AS s WHERE s.error IS NOT NULL AND s.disabled_at IS NULL
    UNION ALL
    SELECT 'failing duty', m.duty || ': ' || m.error, pgsync.clock() - m.failed_at, 'maintenance',
           ''
    FROM pgsync.maintenance AS m WHERE m.outcome = 'failed'
    UNION ALL
    (SELECT 'vacuum held back', concat_ws(' ', o.kind, o.name, 'pid ' || o.pid), o.age,
            'maintenance', ''
     FROM pgsync.oldest_snapshot AS o WHERE o.age > interval '10 minutes' LIMIT 3)
) AS a ORDER BY a.what, a.since DESC NULLS LAST LIMIT 40
"""
# The modules are an extra, in a schema of their own.
_MODULES = """
SELECT bool_and(has_table_privilege(to_regclass(t.name), 'SELECT')) IS TRUE AS readable
FROM (VALUES ('pgsync_modules.campaign'), ('pgsync_modules.campaign_recipient')) AS t (name)
WHERE to_regclass(t.name) IS NOT NULL
"""
# Whom a crash left between the call and its answer: not written to again before somebody looks.
_UNKNOWN = """
SELECT 'unknown recipients' AS what,
       format('%s%s of campaign %s, %s', u.recipients,
              CASE WHEN u.recipients = 1000 THEN ' or more' ELSE '' END, c.id, c.name) AS about,
       pgsync.clock() - c.started_at AS since, 'operations' AS page, '' AS query
FROM pgsync_modules.campaign AS c
CROSS JOIN LATERAL (
    SELECT count(*) AS recipients FROM (
        SELECT FROM pgsync_modules.campaign_recipient AS r
        WHERE r.campaign_id = c.id AND r.state = 'unknown' LIMIT 1000) AS few) AS u
WHERE c.id = ANY (ARRAY(
    SELECT DISTINCT r.campaign_id FROM pgsync_modules.campaign_recipient AS r
    WHERE r.state = 'unknown' LIMIT 20))
ORDER BY c.id
"""
