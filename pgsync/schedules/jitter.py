"""Jitter that is the same whoever reckons it."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

__all__ = ["jitter_of"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def jitter_of(name: str, fire_time: datetime, jitter: timedelta) -> timedelta:
    """How long after its due time a schedule's job runs; as ``pgsync.schedule_jitter`` in SQL.

    A hash of the schedule's name and the time makes a fraction in [0, 1) of ``jitter``.
    """
    moment = (fire_time - _EPOCH) // _MICROSECOND
    digest = hashlib.sha256(f"{name}@{moment}".encode()).digest()
    fraction = (int.from_bytes(digest[:8], "big") >> 11) / 2**53
    return int(fraction * (jitter // _MICROSECOND)) * _MICROSECOND
