"""The calls of rate limits: each is one SQL function of ``sql/api/2_limits.sql``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pgsync.database.calls import Call, Row, in_utc, moment, nothing
from pgsync.durations import Duration, to_timedelta
from pgsync.errors import InvalidArgument

__all__ = ["Decision", "Limit", "clear", "hit", "peek", "penalize"]


@dataclass(frozen=True, slots=True, init=False)
class Limit:
    """At most ``max`` permits in a window of ``per`` seconds (or a timedelta).

    The window is fixed: the first hit opens it, and it ends ``per`` later by the server's clock.
    """

    max: int
    per: timedelta

    def __init__(self, max: int, per: Duration) -> None:
        if isinstance(max, bool) or not isinstance(max, int) or not 1 <= max <= 2**31 - 1:
            raise InvalidArgument(f"max must be a whole number from 1 to 2147483647, not {max!r}")
        object.__setattr__(self, "max", max)
        object.__setattr__(self, "per", to_timedelta(per, "per"))

    def __str__(self) -> str:
        return f"{self.max} per {self.per.total_seconds():g} s"


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to a hit. ``retry_after`` is in seconds, ``resets_at`` is server time (UTC).

    Of several limits it speaks of the one that binds. A decision is true where it allows.
    """

    allowed: bool
    remaining: int
    retry_after: float
    resets_at: datetime

    def __bool__(self) -> bool:
        return self.allowed


def hit(key: str, limits: Sequence[Limit], cost: int) -> Call[Decision]:
    """Take ``cost`` permits from every limit of the key, all or nothing.

    The count commits without waiting for the disk: a crash of the server may forget the hits of
    its last fraction of a second.
    """
    return Call(
        "SELECT h.allowed, h.remaining, h.retry_after, h.resets_at"
        " FROM set_config('synchronous_commit', 'off', true) AS s,"
        " pgsync.rate_limit_hit(%(key)s, %(max)s::integer[], %(per)s::interval[],"
        " %(cost)s::integer) AS h",
        _parameters(key, limits, cost),
        _decision,
    )


def peek(key: str, limits: Sequence[Limit], cost: int) -> Call[Decision]:
    """What :func:`hit` would answer now; takes nothing."""
    return Call(
        "SELECT p.allowed, p.remaining, p.retry_after, p.resets_at"
        " FROM pgsync.rate_limit_peek(%(key)s, %(max)s::integer[], %(per)s::interval[],"
        " %(cost)s::integer) AS p",
        _parameters(key, limits, cost),
        _decision,
    )


def penalize(key: str, pause: timedelta, reason: str) -> Call[datetime]:
    """Close the key for everybody for ``pause``; never shortens a penalty."""
    return Call(
        "SELECT pgsync.rate_limit_penalize(%(key)s, %(pause)s, %(reason)s)",
        {"key": key, "pause": pause, "reason": reason},
        moment,
    )


def clear(key: str) -> Call[None]:
    """Forget the hits and the penalty of the key."""
    return Call("SELECT pgsync.rate_limit_clear(%(key)s)", {"key": key}, nothing)


def _parameters(key: str, limits: Sequence[Limit], cost: int) -> dict[str, object]:
    if isinstance(cost, bool) or not isinstance(cost, int):
        raise InvalidArgument(f"cost must be a whole number, not {cost!r}")
    return {
        "key": key,
        "max": [limit.max for limit in limits],
        "per": [limit.per for limit in limits],
        "cost": cost,
    }


def _decision(row: Row) -> Decision:
    allowed, remaining, retry_after, resets_at = in_utc(row)
    return Decision(allowed, remaining, retry_after.total_seconds(), resets_at)
