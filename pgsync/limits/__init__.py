"""Rate limits that the database decides."""

from pgsync.limits.calls import LimitSetting, LimitState
from pgsync.limits.decision import Decision
from pgsync.limits.declared import Limit, SlidingWindow, TokenBucket
from pgsync.limits.exchange import AsyncLimitExchange, LimitExchange
from pgsync.limits.front import AsyncLimits, Limits
from pgsync.limits.limiter import AsyncLimiter, Limiter
from pgsync.limits.options import LimiterOptions
from pgsync.limits.plans import acquire_plan, hit
from pgsync.limits.reservation import AsyncReservation, Reservation
from pgsync.limits.scope import AsyncPermit, Permit

__all__ = [
    "AsyncLimitExchange",
    "AsyncLimiter",
    "AsyncLimits",
    "AsyncPermit",
    "AsyncReservation",
    "Decision",
    "Limit",
    "LimitExchange",
    "LimitSetting",
    "LimitState",
    "Limiter",
    "LimiterOptions",
    "Limits",
    "Permit",
    "Reservation",
    "SlidingWindow",
    "TokenBucket",
    "acquire_plan",
    "hit",
]
