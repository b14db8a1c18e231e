"""Cron expressions as triggers of APScheduler: crontab lines, and its own fields.

Some traps of APScheduler 3.11 are mended here. ``CronTrigger.from_crontab`` counts weekday 0 as
Monday where crontab counts Sunday, and it wants both day fields to match where crontab (POSIX)
wants either, if both are restricted; it refuses steps beyond their range, which cron takes.
"""

from __future__ import annotations

import re
from datetime import UTC
from typing import Any

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger

from pgsync.errors import InvalidArgument

__all__ = ["cron_trigger", "has_fixed_hours", "spelled_out"]

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
_FIELD = re.compile(r"(\w+)='([^']*)'")


def spelled_out(expression: str) -> str:
    """A cron expression without nicknames: ``0 0 * * *`` for ``@daily``."""
    return _NICKNAMES.get(expression, expression)


def has_fixed_hours(expression: str) -> bool:
    """Whether it names hours, rather than all or every few."""
    if "=" in expression:
        hour = dict(_FIELD.findall(expression)).get("hour", "*")
    else:
        hour = spelled_out(expression).split()[-4]
    return not hour.startswith("*")


def cron_trigger(expression: str) -> BaseTrigger:
    """The trigger of a crontab line, or of APScheduler's fields (``hour='2' minute='30'``), in UTC.

    Raises:
        InvalidArgument: if it cannot be read.
    """
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
