"""What a caller may choose about a limiter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

from pgsync.durations import Duration, to_timedelta
from pgsync.errors import InvalidArgument
from pgsync.limits.declared import Limit, LimitSet

__all__ = ["LimiterDeclaration", "LimiterOptions", "OnOutage", "declare_limiter"]

OnOutage = Literal["closed", "open"]


class LimiterOptions(TypedDict, total=False):
    """How a limiter decides.

    ``lease``: take so many permits in one round trip and hand them out in this process, while
    their window lasts; the limit is kept, but what one process has leased no other can use.
    ``durable``: each count has reached the disk before its hit is allowed; else a crash of the
    server may forget those of its last fraction of a second. ``shadow``: refuse nothing, but count
    and tell what would have been refused. ``on_outage``: while the database is away, ``closed``
    (raise :class:`LimitUndecided`) or ``open`` (let pass). ``remember``: for how many seconds at
    most a denied key is not asked for again (1); so late may this process see that it opened early.
    """

    lease: int
    durable: bool
    shadow: bool
    on_outage: OnOutage
    remember: Duration


@dataclass(frozen=True, slots=True)
class LimiterDeclaration:
    """A limiter as it was declared. ``lease`` is 0 where none is taken; ``remember`` in seconds."""

    name: str
    limits: LimitSet
    lease: int
    durable: bool
    shadow: bool
    opens_on_outage: bool
    remember: float


def declare_limiter(
    name: str, limits: Sequence[Limit], options: LimiterOptions
) -> LimiterDeclaration:
    """Check what was declared.

    Raises:
        InvalidArgument: for what no limiter can be.
    """
    if not isinstance(name, str):
        raise InvalidArgument(f"a limiter's name must be text, not {name!r}")
    limit_set = LimitSet(limits, f"limiter {name!r}")
    if unknown := set(options) - set(LimiterOptions.__annotations__):
        raise InvalidArgument(f"limiter {name!r} has no option {', '.join(sorted(unknown))}")
    lease = options.get("lease", 0)
    if isinstance(lease, bool) or not isinstance(lease, int) or lease < 0:
        raise InvalidArgument(f"lease must be a whole number of permits, not {lease!r}")
    if lease and any(limit.algorithm == "bucket" for limit in limit_set.limits):
        raise InvalidArgument(
            "permits of a token bucket cannot be leased: used later, they would be a burst above "
            "its own; lease from a window, or leave lease out"
        )
    shadow = options.get("shadow", False)
    if lease and shadow:
        raise InvalidArgument("a limiter in shadow mode hands out no leases: leave lease out")
    on_outage = options.get("on_outage", "closed")
    if on_outage not in get_args(OnOutage):
        raise InvalidArgument(f"on_outage must be 'closed' or 'open', not {on_outage!r}")
    remember = to_timedelta(options.get("remember", 1.0), "remember", zero=True)
    return LimiterDeclaration(
        name,
        limit_set,
        lease,
        options.get("durable", False),
        shadow,
        on_outage == "open",
        remember.total_seconds(),
    )
