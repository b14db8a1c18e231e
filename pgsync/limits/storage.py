"""The calls of the storage for the library ``limits``: each is a function of
``sql/api/2_limits_storage.sql``.

Times until something are in seconds from now, by the server's clock; so no client's clock matters.
"""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

from pgsync.database.calls import Call, Row, nothing, scalar
from pgsync.durations import to_timedelta

__all__ = [
    "FixedWindow",
    "MovingWindow",
    "SlidingWindow",
    "acquire_entry",
    "acquire_sliding",
    "clear",
    "get",
    "get_moving",
    "get_sliding",
    "incr",
    "ping",
    "reset",
]


class FixedWindow(NamedTuple):
    """How many hits, and for how many seconds they still count."""

    hits: int
    expires_in: float


class SlidingWindow(NamedTuple):
    """The hits of the window before and of the current one, each with the seconds it weighs."""

    previous_hits: int
    previous_expires_in: float
    hits: int
    expires_in: float


class MovingWindow(NamedTuple):
    """How many permits, and how many seconds ago the oldest of them was taken."""

    hits: int
    oldest: float


def incr(key: str, expiry: float, amount: int) -> Call[int]:
    """Count a hit of a fixed window of ``expiry`` seconds."""
    return Call(
        "SELECT i.hits FROM set_config('synchronous_commit', 'off', true) AS s,"
        " pgsync.limits_storage_incr(%(key)s, %(expiry)s, %(amount)s::bigint) AS i (hits)",
        {"key": key, "expiry": to_timedelta(expiry, "expiry"), "amount": amount},
        scalar,
    )


def get(key: str) -> Call[FixedWindow]:
    """The fixed window of a key."""
    return Call(
        "SELECT g.hits, g.expires_in FROM pgsync.limits_storage_get(%(key)s) AS g",
        {"key": key},
        lambda row: FixedWindow(*_in_seconds(row)),
    )


def acquire_sliding(key: str, limit: int, expiry: float, amount: int) -> Call[bool]:
    """Take permits of a sliding window counter, if it has them."""
    return Call(
        "SELECT a.acquired FROM set_config('synchronous_commit', 'off', true) AS s,"
        " pgsync.limits_storage_acquire_sliding("
        "%(key)s, %(max)s::bigint, %(expiry)s, %(amount)s::bigint) AS a (acquired)",
        _acquisition(key, limit, expiry, amount),
        scalar,
    )


def get_sliding(key: str, expiry: float) -> Call[SlidingWindow]:
    """The sliding window counters of a key."""
    return Call(
        "SELECT g.previous_hits, g.previous_expires_in, g.hits, g.expires_in"
        " FROM pgsync.limits_storage_get_sliding(%(key)s, %(expiry)s) AS g",
        {"key": key, "expiry": to_timedelta(expiry, "expiry")},
        lambda row: SlidingWindow(*_in_seconds(row)),
    )


def acquire_entry(key: str, limit: int, expiry: float, amount: int) -> Call[bool]:
    """Take permits of a moving window, if it has them."""
    return Call(
        "SELECT a.acquired FROM set_config('synchronous_commit', 'off', true) AS s,"
        " pgsync.limits_storage_acquire_entry("
        "%(key)s, %(max)s::bigint, %(expiry)s, %(amount)s::bigint) AS a (acquired)",
        _acquisition(key, limit, expiry, amount),
        scalar,
    )


def get_moving(key: str, expiry: float) -> Call[MovingWindow]:
    """The moving window of a key."""
    return Call(
        "SELECT g.hits, g.oldest FROM pgsync.limits_storage_get_moving(%(key)s, %(expiry)s) AS g",
        {"key": key, "expiry": to_timedelta(expiry, "expiry")},
        lambda row: MovingWindow(*_in_seconds(row)),
    )


def clear(key: str) -> Call[None]:
    """Forget a key."""
    return Call("SELECT pgsync.limits_storage_clear(%(key)s)", {"key": key}, nothing)


def reset(prefix: str) -> Call[int]:
    """Forget all keys that begin with the prefix; how many of them were in use."""
    return Call("SELECT pgsync.limits_storage_reset(%(prefix)s)", {"prefix": prefix}, scalar)


def ping() -> Call[None]:
    """Nothing: is the database there?"""
    return Call("SELECT 1", {}, nothing)


def _acquisition(key: str, limit: int, expiry: float, amount: int) -> dict[str, object]:
    return {
        "key": key,
        "max": limit,
        "expiry": to_timedelta(expiry, "expiry"),
        "amount": amount,
    }


def _in_seconds(row: Row) -> Row:
    return tuple(value.total_seconds() if isinstance(value, timedelta) else value for value in row)
