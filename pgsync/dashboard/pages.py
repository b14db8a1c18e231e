"""What each page shows: a template, and how to read what it needs."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from pgsync.dashboard.filters import JobFilter
from pgsync.dashboard.given import id_in_query
from pgsync.dashboard.job_forms import read_edit_job, read_new_job
from pgsync.dashboard.job_page import read_job
from pgsync.dashboard.overview_page import read_overview
from pgsync.dashboard.panels import PANELS, read_panel
from pgsync.dashboard.queue_page import read_queue, read_queue_names
from pgsync.dashboard.reading import MOST_COUNTED, Read
from pgsync.dashboard.schedule_forms import read_edit_schedule
from pgsync.dashboard.schedule_page import read_schedule
from pgsync.queues import STATES
from pgsync.queues.finding import ACTS_ON

__all__ = ["PAGES", "Page"]

Reader = Callable[[Read, Request], Awaitable[dict[str, Any]]]

_MOST_IDS = 1000
_A_PAGE = 50
_MOST_FOUND = 500
_LOOK = 10_000  # so many jobs of each state a search looks at, the newest
_LIST_JOBS = """
SELECT j.id, j.queue, j.task, j.state, j.args, j.attempt, j.max_attempts, j.created_at, j.run_at,
       j.started_at, j.finished_at, j.errors -> -1 ->> 'error' AS error,
       coalesce(jsonb_path_query_array(j.tags, '$[*] ? (@.type() == "string")'), '[]') AS tags
FROM pgsync.all_jobs AS j WHERE j.id = ANY (%(ids)s::bigint[]) ORDER BY j.id DESC
"""


@dataclass(frozen=True, slots=True)
class Page:
    """A page; ``key`` is the letter that leads there after g. A form is not ``live``: it waits."""

    name: str
    path: str
    title: str
    read: Reader
    key: str = ""
    live: bool = True


async def _jobs(read: Read, request: Request) -> dict[str, Any]:
    wanted = JobFilter.of(request.query_params)
    before = id_in_query(request, "before")
    given = wanted.as_json()
    # All that there are, or the states alone, are no finding worth a count.
    most = _MOST_FOUND if given.keys() - {"states"} else _A_PAGE
    found = await _find(read, given, most, before)
    shown = found["ids"][:_A_PAGE]
    more = len(found["ids"]) > _A_PAGE
    return {
        "filter": wanted,
        "states": STATES,
        "jobs": await read.rows(_LIST_JOBS, {"ids": shown}),
        "found": len(found["ids"]),
        "most_found": _MOST_FOUND,
        "before": before,
        "more": more or len(shown) == _A_PAGE,
        "next_before": shown[-1] if more else found["next_before"],
        "look": _LOOK,
        "looked_at_all": found["looked_at_all"],
        "queue_names": await read_queue_names(read),
    }


async def _confirm(read: Read, request: Request) -> dict[str, Any]:
    action = request.query_params.get("action", "")
    if action not in ACTS_ON:
        raise HTTPException(404, "no such action")
    wanted = JobFilter.of(request.query_params)
    states = [state for state in ACTS_ON[action] if not wanted.states or state in wanted.states]
    if action == "retry" and not wanted.states:
        states.remove("scheduled")
    found = None
    if states:
        found = await _find(read, {**wanted.as_json(), "states": states}, _MOST_IDS)
    ids = found["ids"] if found else []
    return {
        "action": action,
        "filter": wanted,
        "states": states,
        "count": len(ids),
        "most": _MOST_IDS,
        "look": _LOOK,
        "looked_at_all": found is None or found["looked_at_all"],
        "jobs": await read.rows(_LIST_JOBS, {"ids": ids[:10]}),
    }


async def _find(
    read: Read, wanted: dict[str, Any], most: int, before: int | None = None
) -> dict[str, Any]:
    found = await read.row(
        "SELECT f.ids, f.next_before, f.looked_at_all"
        " FROM pgsync.find_jobs(%(filter)s::jsonb, %(before)s, %(most)s, %(look)s) AS f",
        {"filter": json.dumps(wanted), "before": before, "most": most, "look": _LOOK},
    )
    assert found is not None
    return found


async def _operation(read: Read, request: Request) -> dict[str, Any]:
    given = {"id": request.path_params["id"]}
    run = await read.row(
        "SELECT o.* FROM pgsync.operations AS o WHERE o.id = %(id)s::bigint", given
    )
    if run is None:
        raise HTTPException(404, f"there is no run {given['id']} of an operation")
    return {
        "run": run,
        "events": await read.rows(
            "SELECT e.at, e.event, e.detail FROM pgsync.operation_events AS e"
            " WHERE e.run_id = %(id)s::bigint ORDER BY e.id DESC LIMIT 100",
            given,
        ),
        "others": await read.rows(
            "SELECT o.id, o.state, o.actor, o.requested_at, o.duration, o.blocked_by"
            " FROM pgsync.operations AS o WHERE o.id = ANY (ARRAY("
            "  SELECT r.id FROM pgsync.operation_run AS r"
            "  WHERE r.operation = %(operation)s AND r.key = %(key)s AND r.id <> %(id)s::bigint"
            "  ORDER BY r.id DESC LIMIT 20)) ORDER BY o.id DESC",
            {**given, "operation": run["operation"], "key": run["key"]},
        ),
    }


def _listing(name: str, **more: Any) -> Reader:
    async def read_rows(read: Read, request: Request) -> dict[str, Any]:
        before = id_in_query(request, "before")
        return {"rows": await read_panel(read, name, before), "before": before, **more}

    return read_rows


async def _locks(read: Read, request: Request) -> dict[str, Any]:
    return {
        **await _listing("locks")(read, request),
        "contention": await read_panel(read, "contention"),
    }


async def _limits(read: Read, request: Request) -> dict[str, Any]:
    return {
        **await _listing("limits")(read, request),
        "overrides": await read.rows(
            "SELECT o.key, o.per, o.max, o.burst, o.set_at, o.set_by, o.reason"
            " FROM pgsync.limit_overrides AS o ORDER BY o.set_at DESC, o.key, o.per LIMIT 100"
        ),
    }


def _list_page(name: str, key: str, **more: Any) -> Page:
    return Page(name, f"/{name}", PANELS[name].title, _listing(name, **more), key)


PAGES = (
    Page("overview", "/", "Overview", read_overview, "o"),
    _list_page("queues", "q", most=MOST_COUNTED),
    Page("jobs", "/jobs", "Jobs", _jobs, "j"),
    _list_page("operations", "p"),
    Page("locks", "/locks", PANELS["locks"].title, _locks, "l"),
    Page("limits", "/limits", PANELS["limits"].title, _limits, "r"),
    _list_page("schedules", "s"),
    _list_page("workers", "w"),
    _list_page("maintenance", "m"),
    _list_page("audit", "a"),
    Page("confirm", "/jobs/confirm", "Confirm", _confirm, live=False),
    Page("queue", "/queues/one", "Queue", read_queue),
    Page("schedule", "/schedules/one", "Schedule", read_schedule),
    Page("edit_schedule", "/schedules/edit", "Change schedule", read_edit_schedule, live=False),
    Page("new_job", "/jobs/new", "New job", read_new_job, live=False),
    Page("edit_job", "/jobs/{id:int}/edit", "Edit job", read_edit_job, live=False),
    Page("job", "/jobs/{id:int}", "Job", read_job),
    Page("operation", "/operations/{id:int}", "Operation", _operation),
)
