"""When a schedule is due: crontab lines, intervals and dates, computed by APScheduler's triggers.

Some traps of APScheduler 3.11 are mended here. ``CronTrigger.from_crontab`` counts weekday 0 as
Monday where crontab counts Sunday, and it wants both day fields to match where crontab (POSIX)
wants either, if both are restricted; it refuses steps beyond their range, which cron takes. Cron
triggers are computed on a clock that does not jump; see ``wall_clock.py``.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger

from pgsync.durations import to_timedelta
from pgsync.errors import InvalidArgument
from pgsync.schedules.wall_clock import next_by_wall_clock

__all__ = ["Given", "Rhythm", "rhythm_from", "spelled_out"]

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELD = re.compile(r"(\w+)='([^']*)'")


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


def spelled_out(expression: str) -> str:
    """A cron expression without nicknames: ``0 0 * * *`` for ``@daily``."""
    return _NICKNAMES.get(expression, expression)


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
    return trigger, zone, rhythm.kind == "cron" and _has_fixed_hours(rhythm.expression)


def _has_fixed_hours(expression: str) -> bool:
    if "=" in expression:
        hour = dict(_FIELD.findall(expression)).get("hour", "*")
    else:
        hour = spelled_out(expression).split()[-4]
    return not hour.startswith("*")


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidArgument(
            f"unknown time zone {name!r}; use a name like Europe/Berlin"
        ) from None


def _cron(expression: str) -> BaseTrigger:
    try:
        if "=" in expression:
            if _FIELD.sub("", expression).strip():
                raise ValueError("its fields are like hour='2' minute='30'")
            return CronTrigger(**dict(_FIELD.findall(expression)), timezone=UTC)
        return _crontab(spelled_out(expression))
    except (ValueError, TypeError) as error:
        raise InvalidArgument(f"{expression!r} is no crontab line: {error}") from None


def _crontab(line: str) -> BaseTrigger:
    fields = line.lower().split()
    if len(fields) == 6:
        second, *fields = fields
    else:
        second = "0"
    if len(fields) != 5:
        raise ValueError(
            "it needs five fields (minute hour day month weekday), or six with seconds"
        )
    minute, hour, day, month, weekday = (field.replace("?", "*") for field in fields)
    common: dict[str, Any] = {
        "second": _values("second", second),
        "minute": _values("minute", minute),
        "hour": _values("hour", hour),
        "month": _values("month", month),
        "timezone": UTC,
    }
    days, weekdays = _values("day", day), _weekdays(weekday)
    if day.startswith("*") or weekday.startswith("*"):
        return CronTrigger(day=days, day_of_week=weekdays, **common)
    return OrTrigger([CronTrigger(day=days, **common), CronTrigger(day_of_week=weekdays, **common)])


_BOUNDS = {
    "second": (0, 59),
    "minute": (0, 59),
    "hour": (0, 23),
    "day": (1, 31),
    "month": (1, 12),
    "weekday": (0, 7),
}
_NAMES = {
    "month": ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    "weekday": _WEEKDAYS,
}


def _values(field: str, text: str) -> str:
    """A field for APScheduler, which refuses names of months in lists and steps beyond a range."""
    return "*" if text == "*" else ",".join(map(str, sorted(_expanded(field, text))))


def _weekdays(text: str) -> str:
    """Crontab's weekdays (0 and 7 are Sunday) as the names that APScheduler takes."""
    if text == "*":
        return "*"
    return ",".join(_WEEKDAYS[day] for day in sorted({n % 7 for n in _expanded("weekday", text)}))


def _expanded(field: str, text: str) -> set[int]:
    """The values that crontab(5) reads in a field."""
    low, high = _BOUNDS[field]
    values: set[int] = set()
    for part in text.split(","):
        body, slash, step_text = part.partition("/")
        step = int(step_text) if slash else 1
        if step < 1:
            raise ValueError(f"step of {step} in {field} {part!r}")
        if body == "*":
            first, last = low, 6 if field == "weekday" else high
        else:
            start, dash, end = body.partition("-")
            if dash and not end:
                raise ValueError(f"{field} range {body!r} has no end")
            first = _number(field, start)
            last = _number(field, end) if end else (high if slash else first)
            if field == "weekday":
                last = 7 if last == 0 < first else 6 if slash and not end else last
            if last < first:
                raise ValueError(f"{field} range {body!r} runs backwards")
        values.update(range(first, last + 1, step))
    return values


def _number(field: str, text: str) -> int:
    low, high = _BOUNDS[field]
    names = _NAMES.get(field, ())
    if text.isalpha() and text[:3] in names:
        return names.index(text[:3]) + low
    number = int(text)
    if not low <= number <= high:
        raise ValueError(f"{field} {number} is not from {low} to {high}")
    return number


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
    "cron": _cron,
    "interval": _interval,
    "date": _date,
}
