"""What is set for a queue: its limits, which all claims share, and how long its jobs are kept."""

from __future__ import annotations

from datetime import timedelta
from typing import TypedDict

from pgsync.database.calls import Call, nothing
from pgsync.durations import Duration, to_timedelta
from pgsync.errors import InvalidArgument
from pgsync.limits import Limit

__all__ = ["QueueLimits", "limit_queue", "retain_queue", "weigh_tenant"]


class QueueLimits(TypedDict, total=False):
    """What a queue lets through.

    ``max_running``: how many of its jobs run at once; ``max_running_per_key``: how many of one
    concurrency key. ``max_starts`` and ``max_starts_per_key`` are each a :class:`Limit`: how many
    may start in a time. The counters are those of rate limits, under the keys ``queue:NAME`` and
    ``queue:NAME:key:KEY``, so that a penalty there holds the queue back.
    """

    max_running: int | None
    max_running_per_key: int | None
    max_starts: Limit | None
    max_starts_per_key: Limit | None


def limit_queue(queue: str, limits: QueueLimits, by: str | None = None) -> Call[None]:
    """Set the limits of a queue; those not named are removed."""
    for name in ("max_running", "max_running_per_key"):
        most = limits.get(name)
        if most is not None and (not isinstance(most, int) or most < 1):
            raise InvalidArgument(f"{name} must be 1 or more, not {most!r}; to stop it, pause it")
    starts, per_key = limits.get("max_starts"), limits.get("max_starts_per_key")
    if any(limit is not None and limit.algorithm != "fixed" for limit in (starts, per_key)):
        raise InvalidArgument("starts are limited by a fixed window: use Limit(max, per=seconds)")
    return Call(
        "SELECT pgsync.limit_queue(%(queue)s, %(max_running)s::integer,"
        " %(max_running_per_key)s::integer, %(max_starts)s::integer, %(starts_per)s::interval,"
        " %(max_starts_per_key)s::integer, %(starts_per_key)s::interval, %(by)s)",
        {
            "queue": queue,
            "max_running": limits.get("max_running"),
            "max_running_per_key": limits.get("max_running_per_key"),
            "max_starts": starts and starts.max,
            "starts_per": _window(starts),
            "max_starts_per_key": per_key and per_key.max,
            "starts_per_key": _window(per_key),
            "by": by,
        },
        nothing,
    )


def _window(limit: Limit | None) -> timedelta | None:
    return None if limit is None else limit.per


def weigh_tenant(queue: str, tenant: str, weight: int | None) -> Call[None]:
    """Set how many jobs a tenant has each turn."""
    return Call(
        "SELECT pgsync.weigh_tenant(%(queue)s::text, %(tenant)s::text, %(weight)s::integer)",
        {"queue": queue, "tenant": tenant, "weight": weight},
        nothing,
    )


def retain_queue(queue: str, retention: Duration | None) -> Call[None]:
    """Set how long a queue's ended jobs are kept."""
    keep = None if retention is None else to_timedelta(retention, "retention")
    return Call(
        "SELECT pgsync.retain_queue(%(queue)s, %(retention)s)",
        {"queue": queue, "retention": keep},
        nothing,
    )
