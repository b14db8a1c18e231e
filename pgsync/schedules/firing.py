"""Which due times of a schedule are enqueued, and when it is due next."""

from __future__ import annotations

from datetime import datetime

from pgsync.database.calls import Steps
from pgsync.schedules.calls import (
    Due,
    ScheduleDeclaration,
    declare_schedule,
    due_schedules,
    fire_schedule,
    next_schedule_at,
)

__all__ = ["MOST_FIRES", "declare_plan", "fire_due_plan", "fires_of"]

MOST_FIRES = 1_000
"""How many missed fires one pass makes up for; older ones are left out."""


def fires_of(due: Due) -> tuple[list[datetime], datetime | None]:
    """The due times to enqueue now, and the next one after the server's ``now``.

    Those later than the grace are misfires: skipped, replaced by one run, or all run.
    """
    times: list[datetime] = []
    moment: datetime | None = due.due_at
    while moment is not None and moment <= due.now:
        times.append(moment)
        if len(times) % MOST_FIRES == 0:
            # The latest fires lie in about as long a time as these do: pass over what is between.
            moment = max(moment, due.now - (moment - times[-MOST_FIRES]))
        moment = due.rhythm.next_after(moment)
    times = times[-MOST_FIRES:]
    on_time = [time for time in times if due.now - time <= due.misfire_grace]
    late = times[: len(times) - len(on_time)]
    match due.misfire:
        case "skip":
            late = []
        case "once":
            late = late[-1:]
    return late + on_time, moment


def fire_due_plan() -> Steps[int]:
    """Plan: enqueue all that is due, and return how many jobs that made."""
    enqueued = 0
    for due in (yield from due_schedules()):
        times, next_fire_at = fires_of(due)
        jobs = yield from fire_schedule(due, times, next_fire_at)
        enqueued += len(jobs or ())
    return enqueued


def declare_plan(declaration: ScheduleDeclaration) -> Steps[bool]:
    """Plan: create a schedule or bring it up to date; True where that changed it."""
    _, now = yield from next_schedule_at()
    changed, _ = yield from declare_schedule(declaration, declaration.rhythm.next_after(now))
    return changed
