"""Which due times of a schedule are enqueued, and when it is due next."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pgsync.database.calls import Steps
from pgsync.errors import InvalidArgument
from pgsync.schedules.calls import (
    Declared,
    Due,
    Fired,
    declare_schedules,
    fire_schedules,
    next_schedule_at,
    take_due_schedules,
)
from pgsync.schedules.declaration import ScheduleDeclaration, digest_of

__all__ = ["declare_plan", "fire_due_plan", "fires_of"]

_BATCH = 200
_FIRES = 2_000  # of one pass, about: others must not wait behind a long absence


def fires_of(due: Due) -> tuple[list[datetime], datetime | None]:
    """The due times to enqueue now, and the next one after the server's ``now``.

    Those later than the grace are misfires: skipped, replaced by one run, or all run, up to the
    schedule's limit. Those within the grace are bound by that limit too.

    Raises:
        InvalidArgument: if the rhythm cannot be read.
    """
    following = due.rhythm.next_after(due.now)
    if due.due_at is None:
        return [], following
    horizon = max(due.now - due.misfire_grace, due.due_at)
    just_after = due.now + datetime.resolution
    on_time = due.rhythm.last_before(just_after, due.misfire_limit, horizon)
    made_up = {"skip": 0, "once": 1, "all": due.misfire_limit - len(on_time)}[due.misfire]
    late: list[datetime] = []
    if made_up and horizon > due.due_at:
        late = due.rhythm.last_before(horizon, made_up, due.due_at)
    return late + on_time, following


def fire_due_plan() -> Steps[tuple[int, int]]:
    """Plan: fire what is due and nobody else has taken, in the caller's transaction.

    Returns how many schedules that were, and how many jobs it made.
    """
    fired: list[Fired] = []
    room = _FIRES
    for due in (yield from take_due_schedules(_BATCH)):
        try:
            times, following = fires_of(due)
        except InvalidArgument as error:
            fired.append(Fired(due, error=str(error)))
            continue
        fired.append(Fired(due, times, following))
        room -= len(times)
        if room < 0:
            break  # The others are still due, and taken next.
    if not fired:
        return 0, 0
    return len(fired), len((yield from fire_schedules(fired)))


def declare_plan(
    declarations: Sequence[ScheduleDeclaration], app: str | None = None, *, starting: bool = True
) -> Steps[Declared]:
    """Plan: declare an app's schedules, those that a former version of it had being disabled."""
    _, now = yield from next_schedule_at()
    declared = [(each, each.rhythm.next_after(now)) for each in declarations]
    return (yield from declare_schedules(app, digest_of(declarations), declared, starting=starting))
