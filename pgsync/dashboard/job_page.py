"""One job: its life, its arguments, what it waits for, and how others like it fared."""

from __future__ import annotations

import json
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from pgsync.dashboard.graph import graph_of
from pgsync.dashboard.reading import Read
from pgsync.dashboard.timeline import timeline
from pgsync.dashboard.tree import tree_of
from pgsync.queues import ENDED, WAITING
from pgsync.queues.carried import without_carried
from pgsync.queues.finding import ACTS_ON

__all__ = ["read_job"]

_MOST_DRAWN = 12
_EARLIER = 10
_LOOK = 300


async def read_job(read: Read, request: Request) -> dict[str, Any]:
    """What the page of a job shows.

    Raises:
        HTTPException: if there is no such job.
    """
    given = {"id": request.path_params["id"]}
    job = await read.row(_JOB, given)
    if job is None:
        raise HTTPException(404, f"there is no job {given['id']}, or its history has been pruned")
    live = job["finished_at"] is None
    attempts, notes = await read.rows(_ATTEMPTS, given), await read.rows(_NOTES, given)
    parents = await read.rows(_OTHERS, {"ids": (job["after"] or [])[:_MOST_DRAWN]})
    children = await read.rows(_CHILDREN, given)
    after = await read.rows(_OTHERS, {"ids": [each["child"] for each in children[:_MOST_DRAWN]]})
    return {
        "job": job,
        "can": [action for action, states in ACTS_ON.items() if job["state"] in states],
        "waits": job["state"] in WAITING,
        "moments": timeline(job, attempts, notes),
        "why": await read.row("SELECT w.* FROM pgsync.why_not_running(%(id)s::bigint) AS w", given)
        if live
        else None,
        "lately": await read.rows(_LATELY, job),
        "earlier": await read.rows(_LIKE, {"ids": await _like(read, job)}),
        "args": tree_of(without_carried(job["args"])),
        "result": None if job["result"] is None else tree_of(job["result"]),
        "graph": graph_of(job, parents, after),
        "not_drawn": max(0, len(job["after"] or []) - _MOST_DRAWN)
        + max(0, len(children) - _MOST_DRAWN),
        "batch": await read.row(_BATCH, {"batch": job["batch"]}),
    }


async def _like(read: Read, job: dict[str, Any]) -> list[int]:
    """Earlier ones of the same task that have ended, among the newest of each end."""
    wanted = {"task": job["task"], "states": ENDED}
    found = await read.row(
        "SELECT f.ids"
        " FROM pgsync.find_jobs(%(filter)s::jsonb, %(before)s, %(most)s, %(look)s) AS f",
        {"filter": json.dumps(wanted), "before": job["id"], "most": _EARLIER, "look": _LOOK},
    )
    return found["ids"] if found else []


_JOB = """
SELECT j.*, w.name AS worker_name, w.host AS worker_host,
       coalesce(jsonb_path_query_array(j.tags, '$[*] ? (@.type() == "string")'), '[]') AS words
FROM pgsync.all_jobs AS j LEFT JOIN pgsync.worker AS w ON w.id = j.worker
WHERE j.id = %(id)s::bigint
"""
_ATTEMPTS = """
SELECT a.attempt, a.worker, a.started_at, a.ended_at, a.outcome, a.error, a.traceback
FROM pgsync.job_attempts AS a WHERE a.job = %(id)s::bigint
ORDER BY a.attempt DESC, a.started_at DESC LIMIT 100
"""
_NOTES = """
SELECT n.number, n.at, n.event, n.attempt, n.worker, n.started_at, n.detail
FROM pgsync.job_notes AS n WHERE n.job = %(id)s::bigint ORDER BY n.number
"""
_LATELY = """
SELECT t.outcome, sum(t.jobs)::bigint AS jobs, sum(t.ran) / sum(t.jobs) AS mean_run,
       max(t.longest_run) AS longest_run
FROM pgsync.throughput_minute AS t
WHERE t.minute > pgsync.clock() - interval '1 hour' AND t.queue = %(queue)s AND t.task = %(task)s
GROUP BY t.outcome ORDER BY 1
"""
_LIKE = """
SELECT j.id, j.state, j.attempt, j.finished_at, j.finished_at - j.started_at AS ran,
       coalesce(extract(epoch FROM j.finished_at - j.started_at), 0)::float8 AS seconds
FROM pgsync.all_jobs AS j WHERE j.id = ANY (%(ids)s::bigint[]) ORDER BY j.id DESC
"""
# Also those whose history has been pruned.
_OTHERS = """
SELECT g.id, j.task, j.state
FROM unnest(%(ids)s::bigint[]) WITH ORDINALITY AS g (id, number)
LEFT JOIN LATERAL (
    SELECT o.task, o.state FROM pgsync.all_jobs AS o WHERE o.id = g.id LIMIT 1) AS j ON true
ORDER BY g.number
"""
_CHILDREN = """
SELECT d.child FROM pgsync.job_dependency AS d WHERE d.parent = %(id)s::bigint
ORDER BY d.child LIMIT 100
"""
_BATCH = """
SELECT b.id, b.name, b.state, b.total, b.completed, b.discarded, b.cancelled, b.callbacks
FROM pgsync.job_batch AS b WHERE b.id = %(batch)s
"""
