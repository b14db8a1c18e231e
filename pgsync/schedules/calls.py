"""The calls of schedules: each is one SQL function of ``sql/api/6_schedules.sql``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypedDict

from pgsync.database.calls import Call, Listing, in_utc, scalar
from pgsync.database.json import to_json
from pgsync.durations import Duration, to_timedelta
from pgsync.errors import InvalidArgument
from pgsync.schedules.triggers import Given, Rhythm, rhythm_from

__all__ = [
    "Due",
    "ScheduleDeclaration",
    "ScheduleOptions",
    "declare_schedule",
    "due_schedules",
    "fire_schedule",
    "next_schedule_at",
    "pause_schedule",
    "resume_schedule",
    "run_schedule",
]


@dataclass(frozen=True, slots=True)
class ScheduleDeclaration:
    """What to enqueue, and when. ``misfire`` is ``skip``, ``once`` or ``all``.

    A fire that is enqueued later than ``misfire_grace`` after its time is a misfire: no daemon ran
    when it was due.
    """

    name: str
    task: str
    rhythm: Rhythm
    args: dict[str, Any]
    queue: str = "default"
    priority: int = 0
    max_attempts: int = 5
    misfire: str = "once"
    misfire_grace: timedelta = timedelta(minutes=1)

    def __post_init__(self) -> None:
        if self.misfire not in ("skip", "once", "all"):
            raise InvalidArgument(f"misfire must be skip, once or all, not {self.misfire!r}")

    @classmethod
    def of(
        cls, name: str, given: Given, options: ScheduleOptions, **job: Any
    ) -> ScheduleDeclaration:
        """The declaration of a schedule named as its task; ``job`` is queue, priority, attempts."""
        return cls(
            name=name,
            task=name,
            rhythm=rhythm_from(given, options.get("timezone", "UTC")),
            args={},
            misfire=options.get("misfire", "once"),
            misfire_grace=to_timedelta(options.get("misfire_grace", 60), "misfire_grace"),
            **job,
        )


class ScheduleOptions(TypedDict, total=False):
    """How fires are computed and made up for; see :class:`ScheduleDeclaration`.

    ``timezone`` is where a crontab line is meant; ``misfire_grace`` is in seconds.
    """

    timezone: str
    misfire: str
    misfire_grace: Duration


@dataclass(frozen=True, slots=True)
class Due:
    """A schedule that is due; ``now`` is the server's time."""

    name: str
    rhythm: Rhythm
    misfire: str
    misfire_grace: timedelta
    due_at: datetime
    now: datetime


def declare_schedule(
    declaration: ScheduleDeclaration, next_fire_at: datetime | None
) -> Call[tuple[bool, datetime | None]]:
    """Create a schedule or bring it up to its declaration: whether it changed, when it is due."""
    return Call(
        "SELECT d.changed, d.due_at FROM pgsync.declare_schedule(%(name)s, %(task)s,"
        " %(args)s::jsonb, %(queue)s, %(priority)s, %(max_attempts)s, %(kind)s, %(expression)s,"
        " %(timezone)s, %(misfire)s, %(misfire_grace)s, %(next_fire_at)s) AS d",
        {
            "name": declaration.name,
            "task": declaration.task,
            "args": to_json(declaration.args, f"the arguments of schedule {declaration.name}"),
            "queue": declaration.queue,
            "priority": declaration.priority,
            "max_attempts": declaration.max_attempts,
            "kind": declaration.rhythm.kind,
            "expression": declaration.rhythm.expression,
            "timezone": declaration.rhythm.timezone,
            "misfire": declaration.misfire,
            "misfire_grace": declaration.misfire_grace,
            "next_fire_at": next_fire_at,
        },
        lambda row: (row[0], in_utc(row)[1]),
    )


def due_schedules() -> Listing[Due]:
    """The schedules that are due, oldest first."""
    return Listing(
        "SELECT d.name, d.kind, d.expression, d.timezone, d.misfire, d.misfire_grace,"
        " d.next_fire_at, d.now FROM pgsync.due_schedules() AS d",
        {},
        lambda row: Due(row[0], Rhythm(*row[1:4]), *in_utc(row[4:])),
    )


def fire_schedule(
    due: Due, fire_times: Sequence[datetime], next_fire_at: datetime | None
) -> Call[list[int] | None]:
    """Enqueue these fires and move the schedule on; None where another daemon has done it."""
    return Call(
        "SELECT pgsync.fire_schedule(%(name)s, %(due_at)s, %(fire_times)s::timestamptz[],"
        " %(next_fire_at)s)",
        {
            "name": due.name,
            "due_at": due.due_at,
            "fire_times": list(fire_times),
            "next_fire_at": next_fire_at,
        },
        scalar,
    )


def next_schedule_at() -> Call[tuple[datetime | None, datetime]]:
    """When the next schedule is due, and the server's time."""
    return Call(
        "SELECT pgsync.next_schedule_at(), pgsync.clock()",
        {},
        lambda row: in_utc(row)[:2],
    )


def run_schedule(name: str) -> Call[int | None]:
    """Enqueue the schedule's task now; None where there is no such schedule."""
    return Call("SELECT pgsync.run_schedule(%(name)s)", {"name": name}, scalar)


def pause_schedule(name: str, by: str | None) -> Call[bool]:
    """Stop the schedule's fires; False where it was not running."""
    return Call("SELECT pgsync.pause_schedule(%(name)s, %(by)s)", {"name": name, "by": by}, scalar)


def resume_schedule(name: str) -> Call[bool]:
    """End a pause; False where there was none."""
    return Call("SELECT pgsync.resume_schedule(%(name)s)", {"name": name}, scalar)
