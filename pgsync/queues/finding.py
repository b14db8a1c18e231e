"""How people say which jobs they mean, and what they may do to them: alike on every face."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo

from pgsync.errors import InvalidArgument
from pgsync.queues.job import WAITING

__all__ = ["ACTS_ON", "key_and_value", "moment_or_age"]

ACTS_ON = {
    "retry": ("scheduled", "retryable", "discarded", "cancelled"),
    "cancel": (*WAITING, "running"),
    "discard": WAITING,
}
"""The states of jobs to which each action can be done."""

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGE = re.compile(r"([0-9]{1,5})([smhdw])")


def moment_or_age(text: str, zone: tzinfo | None = None) -> datetime:
    """The moment that ``2026-02-01`` or ``2026-02-01T08:00`` says, or so long ago: ``2h``, ``1w``.

    One without an offset is meant in ``zone``, by default this machine's.

    Raises:
        InvalidArgument: if it is neither.
    """
    if age := _AGE.fullmatch(text):
        return datetime.now(UTC) - timedelta(**{_UNITS[age[2]]: int(age[1])})
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None and zone is not None:
            return moment.replace(tzinfo=zone)
        return moment.astimezone()
    except (ValueError, OverflowError):
        raise InvalidArgument(
            f"{text!r} is neither a moment (2026-02-01T08:00) nor an age (90s, 15m, 2h, 7d, 1w)"
        ) from None


def key_and_value(text: str) -> tuple[str, str]:
    """An argument and its value as text, of ``customer.id=7``; dots lead inside.

    Raises:
        InvalidArgument: if it is not of that form.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InvalidArgument(f"{text!r} is not of the form key=value")
    return key.strip(), value.strip()
