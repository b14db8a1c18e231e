"""Values as people read them, and as JSON has them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from pgsync.dashboard.exact import write_exact
from pgsync.masking import masked_text, masked_value
from pgsync.queues.carried import without_carried

__all__ = ["FILTERS", "json_value"]

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def duration(value: timedelta | None) -> str:
    """A length of time in its two largest units."""
    if value is None:
        return ""
    seconds = value.total_seconds()
    sign = "-" if seconds < 0 else ""
    seconds = abs(seconds)
    if seconds < 1:
        return f"{sign}{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{sign}{seconds:.1f} s".replace(".0", "")
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{sign}{whole} s"
    for unit, name, smaller, small_name in (
        (_DAY, "d", _HOUR, "h"),
        (_HOUR, "h", _MINUTE, "min"),
        (_MINUTE, "min", 1, "s"),
    ):
        if whole >= unit:
            rest = whole % unit // smaller
            return f"{sign}{whole // unit} {name}" + (f" {rest} {small_name}" if rest else "")
    raise AssertionError(whole)


def seconds(value: float | None) -> str:
    """A length of time in seconds, as :func:`duration` has it."""
    return "" if value is None else duration(timedelta(seconds=value))


def moment(value: datetime | None) -> str:
    """A moment, in UTC."""
    return "" if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def ago(value: datetime | None) -> str:
    """How long a moment is away, by the clock of this process."""
    if value is None:
        return ""
    away = datetime.now(UTC) - value
    if abs(away) < timedelta(seconds=1):
        return "now"
    return f"{duration(away)} ago" if away > timedelta() else f"in {duration(-away)}"


def number(value: int | None, most: int | None = None) -> str:
    """A count with thousands apart, and a plus where the counting ended at ``most``."""
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:,}" + ("+" if most is not None and value >= most else "")


def pretty(value: Any) -> str:
    """JSON over several lines, with what is secret in it hidden."""
    return write_exact(masked_value(value), indent=2)


def compact(value: Any, most: int = 120) -> str:
    """JSON on one line, cut, with what is secret in it hidden."""
    text = write_exact(masked_value(value))
    return text if len(text) <= most else f"{text[:most]}…"


def spark(values: Sequence[float]) -> str:
    """The points of a line over the values, two units apart and 20 high, for an SVG polyline."""
    top = max(values, default=0) or 1
    return " ".join(f"{2 * n},{19 - 18 * value / top:.1f}" for n, value in enumerate(values))


def json_value(value: Any) -> Any:
    """A value as JSON has it: times in ISO 8601, durations in seconds, secrets hidden."""
    match value:
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case Decimal():
            return float(value)
        case dict():
            return masked_value(value)
        case str():
            return masked_text(value)
        case Sequence():
            return [json_value(each) for each in value]
    return value


def milliseconds(value: timedelta) -> int:
    """A length of time for a sparkline."""
    return round(value.total_seconds() * 1000)


FILTERS = {
    "ago": ago,
    "alone": without_carried,
    "compact": compact,
    "duration": duration,
    "masked": masked_text,
    "milliseconds": milliseconds,
    "moment": moment,
    "number": number,
    "pretty": pretty,
    "seconds": seconds,
    "spark": spark,
}
