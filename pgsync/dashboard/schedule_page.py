"""One schedule: its rhythm, when it is due next, and what became of its last fires."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import islice
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from pgsync.dashboard.reading import Read
from pgsync.schedules import Rhythm
from pgsync.schedules.jitter import jitter_of

__all__ = ["find_schedule", "is_by_code", "read_schedule"]

_NEXT = 5


async def read_schedule(read: Read, request: Request) -> dict[str, Any]:
    """What the page of a schedule shows; it is named in the query string.

    Raises:
        HTTPException: if there is no such schedule.
    """
    schedule = await find_schedule(read, request.query_params.get("name", ""))
    return {
        "schedule": schedule,
        "by_code": is_by_code(schedule),
        "next": _next_fires(schedule),
        "fires": await read.rows(_FIRES, {"name": schedule["name"]}),
        "trail": await read.rows(_TRAIL, {"name": schedule["name"]}),
    }


async def find_schedule(read: Read, name: str) -> dict[str, Any]:
    """The schedule as its view shows it.

    Raises:
        HTTPException: if there is none of that name.
    """
    schedule = await read.row(
        "SELECT s.* FROM pgsync.schedules AS s WHERE s.name = %(name)s", {"name": name}
    )
    if schedule is None:
        raise HTTPException(404, "there is no schedule of that name")
    return schedule


def is_by_code(schedule: Mapping[str, Any]) -> bool:
    """Whether the code of an app declares it, so that it can be changed there only."""
    return schedule["app"] is not None and schedule["disabled_at"] is None


def _next_fires(schedule: Mapping[str, Any]) -> list[dict[str, datetime]]:
    first = schedule["next_fire_at"]
    if first is None or schedule["state"] in ("disabled", "broken"):
        return []
    rhythm = Rhythm(schedule["kind"], schedule["expression"], schedule["timezone"])
    times = [first, *islice(rhythm.after(first), _NEXT - 1)]
    jitter = schedule["jitter"]
    return [
        {"fire_time": time, "run_at": time + jitter_of(schedule["name"], time, jitter)}
        for time in times
    ]


_FIRES = """
SELECT f.fire_time, f.fired_at, f.lag, f.by_hand, f.job_id, f.job_state
FROM pgsync.schedule_fires AS f WHERE f.schedule = %(name)s ORDER BY f.fire_time DESC LIMIT 30
"""
# The newest entries of the trail alone: it has no index by subject.
_TRAIL = """
SELECT a.at, a.actor, a.action, a.detail
FROM (SELECT e.* FROM pgsync.audit AS e ORDER BY e.id DESC LIMIT 500) AS a
WHERE a.subject = %(name)s AND a.action LIKE 'schedule.%%' ORDER BY a.id DESC LIMIT 10
"""
