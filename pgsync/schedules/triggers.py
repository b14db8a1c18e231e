"""When a schedule is due: crontab lines, intervals and dates, computed by APScheduler's triggers.

Two traps of APScheduler 3.11 are mended here. ``CronTrigger.from_crontab`` counts weekday 0 as
Monday where crontab counts Sunday, and it wants both day fields to match where crontab (POSIX)
wants either, if both are restricted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger

from pgsync.durations import to_timedelta
from pgsync.errors import InvalidArgument

__all__ = ["Given", "Rhythm", "rhythm_from"]

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
    ``interval`` (seconds, counted from the year 2000 so that every daemon agrees) or ``date`` (one
    moment, ISO 8601). ``timezone`` is where a cron line is meant.
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
        zone = _zone(self.timezone)
        trigger = _TRIGGERS[self.kind](self.expression, zone)
        while True:
            due = trigger.get_next_fire_time(None, moment + timedelta(microseconds=1))
            if due is None:
                return None
            moment = due.astimezone(UTC)
            repeated = self.kind == "cron" and moment.astimezone(zone).fold
            if not repeated or not _has_fixed_hours(self.expression):
                return moment


def rhythm_from(given: Given, timezone: str) -> Rhythm:
    """Understand what a schedule declares.

    Raises:
        InvalidArgument: if it is no crontab line, number of seconds, timedelta, aware datetime or
            APScheduler trigger of these kinds, or the time zone is unknown.
    """
    match given:
        case str():
            rhythm = Rhythm("cron", " ".join(given.split()), timezone)
        case datetime():
            if given.tzinfo is None:
                raise InvalidArgument("the schedule's date must have a time zone")
            rhythm = Rhythm("date", given.astimezone(UTC).isoformat())
        case timedelta() | int() | float():
            rhythm = Rhythm("interval", _seconds(to_timedelta(given, "interval")))
        case IntervalTrigger():
            rhythm = Rhythm("interval", _seconds(given.interval))
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


def _seconds(interval: timedelta) -> str:
    seconds = interval.total_seconds()
    return str(int(seconds) if seconds.is_integer() else seconds)


def _has_fixed_hours(expression: str) -> bool:
    if "=" in expression:
        hour = dict(_FIELD.findall(expression)).get("hour", "*")
    else:
        hour = _NICKNAMES.get(expression, expression).split()[-4]
    return not hour.startswith("*")


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidArgument(
            f"unknown time zone {name!r}; use a name like Europe/Berlin"
        ) from None


def _cron(expression: str, zone: ZoneInfo) -> BaseTrigger:
    try:
        if "=" in expression:
            if _FIELD.sub("", expression).strip():
                raise ValueError("its fields are like hour='2' minute='30'")
            return CronTrigger(**dict(_FIELD.findall(expression)), timezone=zone)
        return _crontab(_NICKNAMES.get(expression, expression), zone)
    except (ValueError, TypeError) as error:
        raise InvalidArgument(f"{expression!r} is no crontab line: {error}") from None


def _crontab(line: str, zone: ZoneInfo) -> BaseTrigger:
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
        "second": second,
        "minute": minute,
        "hour": hour,
        "month": month,
        "timezone": zone,
    }
    weekdays = _weekdays(weekday)
    if day.startswith("*") or weekday.startswith("*"):
        return CronTrigger(day=day, day_of_week=weekdays, **common)
    return OrTrigger([CronTrigger(day=day, **common), CronTrigger(day_of_week=weekdays, **common)])


def _weekdays(field: str) -> str:
    """Crontab's weekdays (0 and 7 are Sunday) as the names that APScheduler takes."""
    if field == "*":
        return "*"
    days: set[int] = set()
    for part in field.split(","):
        body, _, step_text = part.partition("/")
        step = int(step_text or 1)
        if step < 1:
            raise ValueError(f"step of {step} in weekday {part!r}")
        if body == "*":
            first, last = 0, 6
        else:
            start, dash, end = body.partition("-")
            if dash and not end:
                raise ValueError(f"weekday range {body!r} has no end")
            first = _weekday(start)
            last = _weekday(end) if end else (6 if step_text else first)
            if last == 0 and end:
                last = 7
            if last < first:
                raise ValueError(f"weekday range {body!r} runs backwards")
        days.update(day % 7 for day in range(first, last + 1, step))
    return ",".join(_WEEKDAYS[day] for day in sorted(days))


def _weekday(text: str) -> int:
    if text[:3] in _WEEKDAYS and text.isalpha():
        return _WEEKDAYS.index(text[:3])
    number = int(text)
    if not 0 <= number <= 7:
        raise ValueError(f"weekday {number} is not from 0 to 7")
    return number


def _interval(expression: str, _zone: ZoneInfo) -> BaseTrigger:
    # Without a fixed start each daemon would count from its own.
    return IntervalTrigger(seconds=float(expression), start_date=_EPOCH, timezone=UTC)


def _date(expression: str, _zone: ZoneInfo) -> BaseTrigger:
    return _Once(datetime.fromisoformat(expression))


class _Once(DateTrigger):  # type: ignore[misc]
    """DateTrigger answers with its date also where that has passed; a schedule must end."""

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime | None:
        return self.run_date if previous is None and self.run_date >= now else None


_TRIGGERS: dict[str, Callable[[str, ZoneInfo], BaseTrigger]] = {
    "cron": _cron,
    "interval": _interval,
    "date": _date,
}
