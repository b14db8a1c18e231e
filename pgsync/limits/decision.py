"""The answer to a hit, and what it is in the header fields of HTTP."""

from __future__ import annotations

import math
from datetime import datetime
from typing import NamedTuple

from pgsync.limits.declared import Limit, LimitSet

__all__ = ["Decision", "Ticket", "http_headers"]


class Ticket(NamedTuple):
    """What is needed to give permits back: when they were taken, and the counts after that."""

    taken_at: datetime
    marks: tuple[int, ...]


class Decision(NamedTuple):
    """The answer to a hit. ``retry_after`` is in seconds, ``resets_at`` is server time (UTC).

    Of several limits it speaks of the one that binds, ``limit``, which is None where a penalty
    does. ``resets_at`` is when all of it is free again if nobody takes more, ``resets_after`` how
    many seconds that is from now. ``quota`` is its max, also where it is set for the key. A
    decision is true where it allows.

    ``shadowed``: a limiter in shadow mode let pass what it would have refused. ``undecided``: the
    database was away, and the limiter lets pass then.
    """

    allowed: bool
    remaining: int
    retry_after: float
    resets_at: datetime
    limit: Limit | None = None
    resets_after: float = 0.0
    quota: int = 0
    key: str = ""
    cost: int = 1
    ticket: Ticket | None = None
    shadowed: bool = False
    undecided: bool = False

    def __bool__(self) -> bool:
        return self.allowed


def http_headers(name: str, limits: LimitSet, decision: Decision) -> dict[str, str]:
    """The fields ``RateLimit-Policy`` and ``RateLimit``, and of a denial ``Retry-After``.

    By draft-ietf-httpapi-ratelimit-headers-10. Of several limits each is a policy of its own, whose
    name ends with its seconds.
    """
    several = len(limits.limits) > 1
    policies = []
    binding = _item(name)
    for limit in limits.limits:
        seconds = limit.per.total_seconds()
        policy = _item(f"{name}-{seconds:g}" if several else name)
        quota = limit.max
        if limit is decision.limit:
            binding = policy
            quota = decision.quota or quota
        policies.append(f"{policy};q={quota};w={max(1, math.ceil(seconds))}")
    headers = {"RateLimit-Policy": ", ".join(policies)}
    if not decision.undecided:
        seconds = max(0, math.ceil(decision.resets_after))
        headers["RateLimit"] = f"{binding};r={decision.remaining};t={seconds}"
    if not decision.allowed:
        headers["Retry-After"] = str(max(1, math.ceil(decision.retry_after)))
    return headers


def _item(name: str) -> str:
    """A string of structured fields (RFC 9651), which has ASCII only."""
    plain = name.encode("ascii", "replace").decode()
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'
