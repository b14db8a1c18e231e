"""What a coordinator offers about schedules, once for each face."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypedDict, Unpack

from pgsync.database.calls import Steps, first
from pgsync.database.pool import AsyncDatabase, Database
from pgsync.errors import InvalidArgument
from pgsync.schedules import calls
from pgsync.schedules.calls import ScheduleState
from pgsync.schedules.declaration import ScheduleDeclaration, ScheduleOptions
from pgsync.schedules.jitter import jitter_of
from pgsync.schedules.triggers import Given, rhythm_from

__all__ = ["AsyncSchedules", "NewScheduleOptions", "NextFire", "Schedules", "upcoming"]


class _JobOfSchedule(TypedDict, total=False):
    args: Mapping[str, Any]
    queue: str
    priority: int
    max_attempts: int


class NewScheduleOptions(ScheduleOptions, _JobOfSchedule, total=False):
    """The options of a schedule, and of the jobs that it enqueues."""


@dataclass(frozen=True, slots=True)
class NextFire:
    """A due time, and when its job runs: up to the schedule's jitter later. Both in UTC."""

    fire_time: datetime
    run_at: datetime


def upcoming(
    rhythm: Given, count: int = 5, *, timezone: str = "UTC", after: datetime | None = None
) -> list[datetime]:
    """The next due times of a rhythm, in UTC, without asking the database.

    Raises:
        InvalidArgument: if the rhythm cannot be understood.
    """
    due = rhythm_from(rhythm, timezone).after(after or datetime.now(UTC))
    return list(islice(due, count))


def _declaration(
    name: str, task: str, rhythm: Given, options: NewScheduleOptions
) -> ScheduleDeclaration:
    job = {key: options[key] for key in _JobOfSchedule.__annotations__ if key in options}  # type: ignore[literal-required]
    return ScheduleDeclaration.of(name, task, rhythm, options, **job)


def next_fires(name: str, count: int) -> Steps[list[NextFire]]:
    """Plan: when a schedule is due next.

    Raises:
        InvalidArgument: if there is none of that name.
    """
    found = yield from calls.find_schedule(name)
    if not found:
        raise InvalidArgument(f"there is no schedule {name!r}; see pgsync schedules list")
    schedule = found[0]
    _, now = yield from calls.next_schedule_at()
    first = schedule.next_fire_at
    if schedule.state in ("disabled", "ended", "broken"):
        return []
    times = [first] if first else []
    times += islice(schedule.rhythm.after(first or now), count - len(times))
    return [NextFire(time, time + jitter_of(name, time, schedule.jitter)) for time in times]


class Schedules:
    """The schedules of a blocking coordinator."""

    database: Database

    def add_schedule(
        self, name: str, task: str, rhythm: Given, **options: Unpack[NewScheduleOptions]
    ) -> bool:
        """Make a schedule that no code declares, or change it; True where it is new.

        ``rhythm`` is as in ``@sync.schedule``. A daemon takes it up within two seconds.

        Raises:
            InvalidArgument: if it could never work, or the code of an app declares that name.
        """
        declaration = _declaration(name, task, rhythm, options)
        return self.database.run(calls.add_schedule(declaration))

    def remove_schedule(self, name: str, by: str | None = None) -> bool:
        """Delete a schedule and its fires; False where there is none."""
        return self.database.run(calls.remove_schedule(name, by))

    def run_schedule(self, name: str) -> int | None:
        """Enqueue a schedule's task now, apart from its rhythm; None where there is none."""
        return self.database.run(calls.run_schedule(name))

    def pause_schedule(self, name: str, by: str | None = None, why: str | None = None) -> bool:
        """Stop a schedule's fires; False where it was paused, or there is none."""
        return self.database.run(calls.pause_schedule(name, by, why))

    def resume_schedule(self, name: str, by: str | None = None) -> bool:
        """End a pause, whose missed fires are misfires; False where there was none."""
        return self.database.run(calls.resume_schedule(name, by))

    def find_schedule(self, name: str) -> ScheduleState | None:
        """A schedule as it stands; None where there is none."""
        return first(self.database.run(calls.find_schedule(name)))

    def next_fires(self, name: str, count: int = 5) -> list[NextFire]:
        """When a schedule is due next, whether it is paused or not.

        Raises:
            InvalidArgument: if there is none of that name.
        """
        return self.database.drive(next_fires(name, count))


class AsyncSchedules:
    """As :class:`Schedules`, awaited."""

    database: AsyncDatabase

    async def add_schedule(
        self, name: str, task: str, rhythm: Given, **options: Unpack[NewScheduleOptions]
    ) -> bool:
        """As :meth:`Schedules.add_schedule`."""
        declaration = _declaration(name, task, rhythm, options)
        return await self.database.run(calls.add_schedule(declaration))

    async def remove_schedule(self, name: str, by: str | None = None) -> bool:
        """As :meth:`Schedules.remove_schedule`."""
        return await self.database.run(calls.remove_schedule(name, by))

    async def run_schedule(self, name: str) -> int | None:
        """As :meth:`Schedules.run_schedule`."""
        return await self.database.run(calls.run_schedule(name))

    async def pause_schedule(
        self, name: str, by: str | None = None, why: str | None = None
    ) -> bool:
        """As :meth:`Schedules.pause_schedule`."""
        return await self.database.run(calls.pause_schedule(name, by, why))

    async def resume_schedule(self, name: str, by: str | None = None) -> bool:
        """As :meth:`Schedules.resume_schedule`."""
        return await self.database.run(calls.resume_schedule(name, by))

    async def find_schedule(self, name: str) -> ScheduleState | None:
        """As :meth:`Schedules.find_schedule`."""
        return first(await self.database.run(calls.find_schedule(name)))

    async def next_fires(self, name: str, count: int = 5) -> list[NextFire]:
        """As :meth:`Schedules.next_fires`."""
        return await self.database.drive(next_fires(name, count))
