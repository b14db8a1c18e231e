"""How long an answer of the Graph API asks its callers to wait."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from pgsync.limits.retry_after import LONGEST_PAUSE, retry_after

__all__ = ["asked_wait", "usage_wait"]

USAGE_HEADER = "X-Business-Use-Case-Usage"


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an answer asks to wait, or None where it asks for nothing.

    ``Retry-After`` wins over the usage header, which only knows whole minutes. A day at most.
    """
    wait = retry_after(headers.get("Retry-After"))
    return wait if wait is not None else usage_wait(headers.get(USAGE_HEADER))


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
    return min(minutes * 60.0, LONGEST_PAUSE) if minutes > 0 else None


def _minutes(usage: Any) -> Iterator[float]:
    if not isinstance(usage, dict):
        return
    for cases in usage.values():
        for case in cases if isinstance(cases, list) else ():
            minutes = case.get("estimated_time_to_regain_access") if isinstance(case, dict) else 0
            if isinstance(minutes, int | float) and math.isfinite(minutes):
                yield float(minutes)
