"""When a schedule is due: crontab lines, intervals and dates, computed by APScheduler's triggers.

Cron triggers (``crontab.py``) are computed on a clock that does not jump; see ``wall_clock.py``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger

from pgsync.durations import to_timedelta
from pgsync.errors import InvalidArgument
from pgsync.schedules.crontab import cron_trigger, has_fixed_hours
from pgsync.schedules.wall_clock import next_by_wall_clock

__all__ = ["Given", "Rhythm", "rhythm_from"]

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
Given: TypeAlias = str | float | timedelta | datetime | BaseTrigger
"""What a schedule may be declared with; see :func:`rhythm_from`."""


@dataclass(frozen=True, slots=True)
class Rhythm:
    """A rhythm as the table of schedules stores it.

    ``kind`` is ``cron`` (a crontab line, or APScheduler's fields as ``hour='2' minute='30'``),
    ``interval`` (seconds, as ``300`` or ``300 from 2026-01-01T00:00:00+00:00``; without a start
    counted from the year 2000, so that every daemon agrees) or ``date`` (one moment, ISO 8601).
    ``timezone`` is where a cron line is meant.
    """

    kind: str
    expression: str
    timezone: str = "UTC"

    def next_after(self, moment: datetime) -> datetime | None:
        """The first due time after ``moment``, in UTC; None where there is none.

        Around a change of clocks a cron line keeps to the wall clock. What falls into a skipped
        hour is due that much later (02:30 at 03:30). In a repeated hour a line with fixed hours
        (``30 2 * * *``) is due at the first passing only, one for every hour or every few
        (``*/30 * * * *``) at both.
        """
        trigger, zone, fixed_hours = _trigger(self)

        def next_due(start: datetime) -> datetime | None:
            due: datetime | None = trigger.get_next_fire_time(None, start)
            return due

        if self.kind != "cron":
            return next_due(moment + datetime.resolution)
        return next_by_wall_clock(next_due, zone, moment, twice=not fixed_hours)

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The due times after ``moment``, in order, in UTC."""
        following = self.next_after(moment)
        while following is not None:
            yield following
            following = self.next_after(following)

    def last_before(self, end: datetime, most: int, start: datetime) -> list[datetime]:
        """The last ``most`` due times from ``start`` on and before ``end``, in order."""
        window = timedelta(minutes=1)
        while True:  # Looks back twice as far each time: what is between may be years.
            begin = max(start, end - window)
            found: deque[datetime] = deque(maxlen=most)
            for moment in self.after(begin - datetime.resolution):
                if moment >= end:
                    break
                found.append(moment)
            if len(found) == most or begin == start:
                return list(found)
            window *= 2


def rhythm_from(given: Given, timezone: str, start: datetime | None = None) -> Rhythm:
    """Understand what a schedule declares; an interval is counted from ``start``.

    Raises:
        InvalidArgument: if it is no crontab line, number of seconds, timedelta, aware datetime or
            APScheduler trigger of these kinds, the time zone is unknown, or a start is given for
            something else than an interval.
    """
    if not isinstance(timezone, str):
        raise InvalidArgument(f"a time zone is a name like Europe/Berlin, not {timezone!r}")
    if start is not None and not isinstance(given, (timedelta, int, float)):
        raise InvalidArgument("only an interval (seconds or a timedelta) has a start")
    match given:
        case str():
            rhythm = Rhythm("cron", " ".join(given.split()), timezone)
        case datetime():
            if given.tzinfo is None:
                raise InvalidArgument(
                    "the schedule's date must have a time zone, as datetime(..., tzinfo=UTC) has"
                )
            rhythm = Rhythm("date", given.astimezone(UTC).isoformat())
        case timedelta() | int() | float():
            rhythm = Rhythm("interval", _interval_text(to_timedelta(given, "interval"), start))
        case IntervalTrigger():
            rhythm = Rhythm("interval", _interval_text(given.interval, None))
        case DateTrigger():
            rhythm = Rhythm("date", given.run_date.astimezone(UTC).isoformat())
        case CronTrigger():
            fields = (field for field in given.fields if not field.is_default)
            expression = " ".join(f"{field.name}='{field}'" for field in fields)
            rhythm = Rhythm("cron", expression, str(given.timezone))
        case _:
            raise InvalidArgument(
                "a schedule is a crontab line, seconds, a timedelta, a datetime, or a cron, "
                f"interval or date trigger of APScheduler, not {type(given).__name__}"
            )
    if rhythm.next_after(datetime.now(UTC)) is None and rhythm.kind == "cron":
        raise InvalidArgument(f"{rhythm.expression!r} is never due")
    return rhythm


def _interval_text(interval: timedelta, start: datetime | None) -> str:
    seconds = interval.total_seconds()
    text = str(int(seconds)) if seconds.is_integer() else f"{seconds:.6f}".rstrip("0")
    if start is None:
        return text
    if start.tzinfo is None:
        raise InvalidArgument(
            "the start of an interval must have a time zone, as datetime(..., tzinfo=UTC) has"
        )
    return f"{text} from {start.astimezone(UTC).isoformat()}"


@lru_cache(maxsize=4096)
def _trigger(rhythm: Rhythm) -> tuple[BaseTrigger, ZoneInfo, bool]:
    zone = _zone(rhythm.timezone)
    if rhythm.kind not in _TRIGGERS:
        raise InvalidArgument(f"a schedule is cron, interval or date, not {rhythm.kind!r}")
    trigger = _TRIGGERS[rhythm.kind](rhythm.expression)
    return trigger, zone, rhythm.kind == "cron" and has_fixed_hours(rhythm.expression)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidArgument(
            f"unknown time zone {name!r}; use a name like Europe/Berlin"
        ) from None


def _interval(expression: str) -> BaseTrigger:
    # Without a fixed start each daemon would count from its own.
    try:
        seconds, _, start_text = expression.partition(" from ")
        start = datetime.fromisoformat(start_text).astimezone(UTC) if start_text else _EPOCH
        return _Interval(to_timedelta(float(seconds), "interval"), start)
    except ValueError as error:
        raise InvalidArgument(f"{expression!r} is no interval in seconds: {error}") from None


def _date(expression: str) -> BaseTrigger:
    try:
        moment = datetime.fromisoformat(expression)
    except ValueError as error:
        raise InvalidArgument(f"{expression!r} is no moment: {error}") from None
    return _Once(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


class _Interval(IntervalTrigger):  # type: ignore[misc]
    """IntervalTrigger reckons in floats; this is exact, as ``pgsync.interval_fire`` is."""

    def __init__(self, interval: timedelta, start: datetime) -> None:
        super().__init__(seconds=1, start_date=start, timezone=UTC)
        self.interval = interval

    def get_next_fire_time(self, _previous: datetime | None, now: datetime) -> datetime:
        steps = -((self.start_date - now) // self.interval)
        due: datetime = self.start_date + max(steps, 0) * self.interval
        return due


class _Once(DateTrigger):  # type: ignore[misc]
    """DateTrigger answers with its date also where that has passed; a schedule must end."""

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime | None:
        return self.run_date if previous is None and self.run_date >= now else None


_TRIGGERS: dict[str, Callable[[str], BaseTrigger]] = {
    "cron": cron_trigger,
    "interval": _interval,
    "date": _date,
}
