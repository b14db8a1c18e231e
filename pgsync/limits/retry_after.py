"""How long an HTTP answer asks its callers to wait: RFC 9110, section 10.2.3."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping

__all__ = ["LONGEST_PAUSE", "asked_pause", "retry_after"]

LONGEST_PAUSE = 86400.0
"""Seconds that are believed at most: a mistaken header must not close a key for a year."""

_THROTTLED = frozenset({429, 503})


def asked_pause(status: int, headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an answer of 429 or 503 asks to wait; None where it asks nothing."""
    pause = retry_after(headers.get("Retry-After")) if status in _THROTTLED else None
    return pause or None


def retry_after(value: str | None) -> float | None:
    """Read a ``Retry-After`` header, in seconds or as an HTTP date; None where it is unreadable."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), LONGEST_PAUSE)
    try:
        due = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(due - time.time(), 0.0), LONGEST_PAUSE)
