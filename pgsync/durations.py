"""Durations as the public interface takes them: seconds as a number, or a timedelta."""

from __future__ import annotations

from datetime import timedelta

from pgsync.errors import InvalidArgument

Duration = float | timedelta
"""Seconds (int or float) or a ``datetime.timedelta``."""


def to_timedelta(value: Duration, name: str, *, zero: bool = False) -> timedelta:
    """Return ``value`` as a timedelta.

    Raises:
        InvalidArgument: if it is not a number of seconds or a timedelta, is negative, not finite,
            beyond a thousand years, or zero where ``zero`` is False.
    """
    if isinstance(value, timedelta):
        duration = value
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidArgument(
            f"{name} must be seconds (a number) or a timedelta, not {type(value).__name__}"
        )
    elif not abs(value) <= _LONGEST:  # so written, NaN is refused too
        raise InvalidArgument(f"{name} must be a finite number of seconds, not {value!r}")
    else:
        duration = timedelta(seconds=value)
    if duration < timedelta(0) or (duration == timedelta(0) and not zero):
        bound = "zero or more" if zero else "above zero"
        raise InvalidArgument(f"{name} must be {bound}, not {duration.total_seconds():g} seconds")
    return duration


_LONGEST = 1000 * 365.25 * 86400
