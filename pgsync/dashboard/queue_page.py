"""One queue: how it goes, who serves it, what it lets through."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from pgsync.dashboard.panels import read_panel
from pgsync.dashboard.past_hour import read_minutes
from pgsync.dashboard.reading import MOST_COUNTED, Read

__all__ = ["read_queue", "read_queue_names"]


async def read_queue(read: Read, request: Request) -> dict[str, Any]:
    """What the page of a queue shows; the queue is named in the query string.

    Raises:
        HTTPException: if there is no such queue.
    """
    given = {"queue": request.query_params.get("name", "")}
    found = await read_panel(read, "queues", queue=given["queue"])
    if not found:
        raise HTTPException(404, "no queue of that name has jobs, workers or a past")
    return {
        "queue": found[0],
        "most": MOST_COUNTED,
        "full": await read.row("SELECT f.* FROM pgsync.queue_fullness(%(queue)s) AS f", given),
        "minutes": await read_minutes(read, given["queue"]),
        "depths": await read.rows(_DEPTHS, given),
        "workers": await read.rows(_WORKERS, given),
        "tasks": await read.rows(_TASKS, given),
        "running": await read.rows(_RUNNING, given),
    }


async def read_queue_names(read: Read) -> list[dict[str, Any]]:
    """The names to propose where one is asked for."""
    return await read.rows(
        "SELECT q.name FROM pgsync.queue AS q UNION SELECT d.queue FROM pgsync.queue_depth AS d"
        " WHERE d.at = (SELECT max(l.at) FROM pgsync.queue_depth AS l) ORDER BY 1 LIMIT 200"
    )


# Five minutes a point, over six hours.
_DEPTHS = """
SELECT max(d.available) AS available, extract(epoch FROM max(d.oldest_ready))::float8 AS oldest
FROM generate_series(0, 71) AS n
CROSS JOIN LATERAL (SELECT pgsync.clock() - (71 - n) * interval '5 minutes' AS until) AS u
LEFT JOIN pgsync.queue_depth AS d
    ON d.queue = %(queue)s AND d.at > u.until - interval '5 minutes' AND d.at <= u.until
GROUP BY n ORDER BY n
"""
_WORKERS = """
SELECT w.id, w.name, w.host, w.pid, w.state, w.concurrency, w.running, w.stopping_at, w.silence,
       w.silence > interval '60 seconds' AS silent,
       (SELECT count(*) FROM pgsync.job_running AS r
        WHERE r.worker = w.id AND r.queue = %(queue)s) AS running_here
FROM pgsync.workers AS w
WHERE 'worker' = ANY (w.kinds) AND (%(queue)s = ANY (w.queues) OR '*' = ANY (w.queues))
ORDER BY w.id LIMIT 100
"""
_TASKS = """
SELECT t.task, sum(t.jobs)::bigint AS jobs,
       coalesce(sum(t.jobs) FILTER (WHERE t.outcome = 'discarded'), 0)::bigint AS discarded,
       sum(t.waited) / sum(t.jobs) AS mean_wait, max(t.longest_wait) AS longest_wait,
       sum(t.ran) / sum(t.jobs) AS mean_run, max(t.longest_run) AS longest_run
FROM pgsync.throughput_minute AS t
WHERE t.minute > (SELECT m.counted_until FROM pgsync.throughput_mark AS m) - interval '1 hour'
  AND t.queue = %(queue)s
GROUP BY t.task ORDER BY jobs DESC, t.task LIMIT 20
"""
_RUNNING = """
SELECT r.id, r.task, r.attempt, r.started_at, pgsync.clock() - r.started_at AS runs, r.progress
FROM pgsync.job_running AS r WHERE r.queue = %(queue)s ORDER BY r.started_at, r.id LIMIT 20
"""
