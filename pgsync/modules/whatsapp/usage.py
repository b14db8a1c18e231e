"""How long an answer of the Graph API asks its callers to wait."""

from __future__ import annotations

import email.utils
import json
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["asked_wait", "retry_after", "usage_wait"]

USAGE_HEADER = "X-Business-Use-Case-Usage"

_LONGEST = 86400.0


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an answer asks to wait, or None where it asks for nothing.

    ``Retry-After`` wins over the usage header, which only knows whole minutes. A day at most.
    """
    wait = retry_after(headers.get("Retry-After"))
    return wait if wait is not None else usage_wait(headers.get(USAGE_HEADER))


def retry_after(value: str | None) -> float | None:
    """Read a ``Retry-After`` header, in seconds or as an HTTP date; None where it is unreadable."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), _LONGEST)
    try:
        due = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(due - time.time(), 0.0), _LONGEST)


def usage_wait(value: str | None) -> float | None:
    """Return the seconds until calls are allowed again by ``X-Business-Use-Case-Usage``.

    The header holds, for each business id, a list of use cases with
    ``estimated_time_to_regain_access`` in MINUTES. The longest counts; None where all are 0.
    """
    if value is None:
        return None
    try:
        usage = json.loads(value)
    except ValueError:
        return None
    minutes = max(_minutes(usage), default=0.0)
    return min(minutes * 60.0, _LONGEST) if minutes > 0 else None


def _minutes(usage: Any) -> Iterator[float]:
    if not isinstance(usage, dict):
        return
    for cases in usage.values():
        for case in cases if isinstance(cases, list) else ():
            minutes = case.get("estimated_time_to_regain_access") if isinstance(case, dict) else 0
            if isinstance(minutes, int | float) and math.isfinite(minutes):
                yield float(minutes)
