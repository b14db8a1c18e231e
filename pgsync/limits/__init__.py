"""Rate limits that the database decides."""

from pgsync.limits.calls import Decision, Limit, hit
from pgsync.limits.limiter import AsyncLimiter, Limiter, acquire_plan

__all__ = ["AsyncLimiter", "Decision", "Limit", "Limiter", "acquire_plan", "hit"]
