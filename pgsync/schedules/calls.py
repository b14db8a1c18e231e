"""The calls of schedules: each is one SQL function of ``sql/api/6_schedules*``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pgsync.database.calls import Call, Listing, Row, in_utc, scalar
from pgsync.database.json import to_json
from pgsync.schedules.declaration import ScheduleDeclaration
from pgsync.schedules.triggers import Rhythm

__all__ = [
    "Declared",
    "Due",
    "Fired",
    "ScheduleState",
    "add_schedule",
    "declare_schedules",
    "find_schedule",
    "fire_schedules",
    "next_schedule_at",
    "pause_schedule",
    "remove_schedule",
    "resume_schedule",
    "run_schedule",
    "take_due_schedules",
]


@dataclass(frozen=True, slots=True)
class Due:
    """A schedule that is due; ``now`` is the server's time. Without ``due_at``: it is yet to be
    computed when it is due."""

    name: str
    rhythm: Rhythm
    misfire: str
    misfire_grace: timedelta
    misfire_limit: int
    due_at: datetime | None
    now: datetime


@dataclass(frozen=True, slots=True)
class Fired:
    """What becomes of a due schedule: the due times to enqueue, the next one, or what is wrong."""

    due: Due
    times: Sequence[datetime] = ()
    next_fire_at: datetime | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Declared:
    """What declaring a set of schedules did.

    ``holds`` is False where a newer version of the app lives, whose set holds. ``refused`` are
    names that belong to another living app.
    """

    holds: bool
    changed: list[str]
    disabled: list[str]
    refused: list[str]


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """A schedule as it stands; times are in UTC. See the view ``pgsync.schedules``."""

    name: str
    task: str
    rhythm: Rhythm
    state: str
    next_fire_at: datetime | None
    last_fire_at: datetime | None
    last_job_id: int | None
    last_job_state: str | None
    jitter: timedelta
    app: str | None
    paused_by: str | None
    paused_why: str | None
    error: str | None


def declare_schedules(
    app: str | None,
    digest: str,
    declared: Sequence[tuple[ScheduleDeclaration, datetime | None]],
    *,
    starting: bool,
) -> Call[Declared]:
    """Declare an app's set of schedules, each with its next due time."""
    facts = [
        each.facts() | {"next_fire_at": next_fire_at and next_fire_at.isoformat()}
        for each, next_fire_at in declared
    ]
    return Call(
        "SELECT d.holds, d.changed, d.disabled, d.refused FROM pgsync.declare_schedules("
        "%(app)s, %(digest)s, %(declared)s::jsonb, %(starting)s) AS d",
        {
            "app": app,
            "digest": digest,
            "declared": to_json(facts, "the schedules"),
            "starting": starting,
        },
        lambda row: Declared(*row),
    )


def take_due_schedules(batch: int) -> Listing[Due]:
    """Due schedules that no other daemon has taken, oldest first, locked for this transaction."""
    return Listing(
        "SELECT d.name, d.kind, d.expression, d.timezone, d.misfire, d.misfire_grace,"
        " d.misfire_limit, d.due_at, d.now FROM pgsync.take_due_schedules(%(batch)s) AS d",
        {"batch": batch},
        lambda row: Due(row[0], Rhythm(*row[1:4]), *in_utc(row[4:])),
    )


def fire_schedules(fired: Sequence[Fired]) -> Call[list[int]]:
    """Enqueue fires and move their schedules on; returns the jobs."""
    fires = [(each.due.name, time) for each in fired for time in each.times]
    return Call(
        "SELECT pgsync.fire_schedules(%(names)s::text[], %(due_at)s::timestamptz[],"
        " %(next_fire_at)s::timestamptz[], %(errors)s::text[], %(fire_names)s::text[],"
        " %(fire_times)s::timestamptz[])",
        {
            "names": [each.due.name for each in fired],
            "due_at": [each.due.due_at for each in fired],
            "next_fire_at": [each.next_fire_at for each in fired],
            "errors": [each.error for each in fired],
            "fire_names": [name for name, _ in fires],
            "fire_times": [time for _, time in fires],
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


def find_schedule(name: str) -> Listing[ScheduleState]:
    """The schedule of that name, or none."""
    return Listing(
        "SELECT s.name, s.task, s.kind, s.expression, s.timezone, s.state, s.next_fire_at,"
        " s.last_fire_at, s.last_job_id, s.last_job_state, s.jitter, s.app, s.paused_by,"
        " s.paused_why, s.error FROM pgsync.schedules AS s WHERE s.name = %(name)s",
        {"name": name},
        _state,
    )


def _state(row: Row) -> ScheduleState:
    return ScheduleState(row[0], row[1], Rhythm(*row[2:5]), *in_utc(row[5:]))


def add_schedule(schedule: ScheduleDeclaration) -> Call[bool]:
    """Make a schedule that no code declares, or change it; True where it is new."""
    facts: dict[str, Any] = schedule.facts()
    return Call(
        "SELECT pgsync.add_schedule(%(name)s, %(task)s, %(expression)s, %(kind)s, %(timezone)s,"
        " %(args)s::jsonb, %(queue)s, %(priority)s, %(max_attempts)s, %(misfire)s,"
        " %(misfire_grace)s::interval, %(misfire_limit)s, %(jitter)s::interval)",
        facts | {"args": to_json(facts["args"], f"the arguments of schedule {schedule.name}")},
        scalar,
    )


def remove_schedule(name: str, by: str | None) -> Call[bool]:
    """Delete a schedule; False where there is none."""
    return Call("SELECT pgsync.remove_schedule(%(name)s, %(by)s)", {"name": name, "by": by}, scalar)


def run_schedule(name: str) -> Call[int | None]:
    """Enqueue the schedule's task now; None where there is no such schedule."""
    return Call("SELECT pgsync.run_schedule(%(name)s)", {"name": name}, scalar)


def pause_schedule(name: str, by: str | None, why: str | None) -> Call[bool]:
    """Stop the schedule's fires; False where it was not running."""
    return Call(
        "SELECT pgsync.pause_schedule(%(name)s, %(by)s, %(why)s)",
        {"name": name, "by": by, "why": why},
        scalar,
    )


def resume_schedule(name: str, by: str | None) -> Call[bool]:
    """End a pause; False where there was none."""
    return Call("SELECT pgsync.resume_schedule(%(name)s, %(by)s)", {"name": name, "by": by}, scalar)
