"""What one job waits for: the call of ``sql/api/5_queue_explain.sql``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pgsync.database.calls import Call, in_utc

__all__ = ["JobExplanation", "why_not_running"]


@dataclass(frozen=True, slots=True)
class JobExplanation:
    """Why a job does not run, or that it does.

    ``reason`` is ``runs``, ``worker dead``, ``ended``, ``not due``, ``retry not due``, ``queue
    paused``, ``no live worker``, ``lock held``, ``key busy``, ``behind others``, ``next``, or
    ``unknown``, where there is no such job and ``state`` is None. ``ahead`` counts jobs of its
    queue that are claimed first, up to 1000. ``since`` and ``until`` are server time in UTC.
    ``workers`` names the live workers of its queue. ``detail`` is for people.
    """

    id: int
    queue: str | None
    task: str | None
    state: str | None
    reason: str
    detail: str
    since: datetime | None
    until: datetime | None
    ahead: int | None
    workers: list[str] | None


def why_not_running(id: int) -> Call[JobExplanation]:
    """Explain one job, live or ended."""
    return Call(
        "SELECT w.id, w.queue, w.task, w.state, w.reason, w.detail, w.since, w.until, w.ahead,"
        " w.workers FROM pgsync.why_not_running(%(id)s::bigint) AS w",
        {"id": id},
        lambda row: JobExplanation(*in_utc(row)),
    )
