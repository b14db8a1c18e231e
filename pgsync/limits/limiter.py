"""The limiter: a name and its limits, with a blocking and an asyncio face."""

from __future__ import annotations

import random
import time

from pgsync.database.calls import Sleep, Steps
from pgsync.database.pool import AsyncDatabase, Database
from pgsync.durations import Duration, to_timedelta
from pgsync.errors import InvalidArgument, RateLimited
from pgsync.limits.calls import Decision, Limit, clear, hit, peek, penalize

__all__ = ["AsyncLimiter", "Limiter", "acquire_plan"]


def acquire_plan(key: str, limits: tuple[Limit, ...], cost: int, timeout: float) -> Steps[Decision]:
    """Plan: take permits, sleeping until they are there, for at most ``timeout`` seconds.

    Raises:
        RateLimited: at once where the wait would outlast the timeout.
    """
    until = time.monotonic() + timeout
    while True:
        decision = yield from hit(key, limits, cost)
        if decision.allowed:
            return decision
        if time.monotonic() + decision.retry_after > until:
            raise RateLimited(key, retry_after=decision.retry_after, resets_at=decision.resets_at)
        # Spread out what would else wake all at once when the window opens.
        yield from Sleep(decision.retry_after + random.uniform(0.001, 0.05))  # noqa: S311


class _LimiterFace:
    def __init__(self, name: str, limits: tuple[Limit, ...]) -> None:
        if not limits:
            raise InvalidArgument(
                f"limiter {name!r} needs at least one limit, like Limit(10, per=60)"
            )
        if len({limit.per for limit in limits}) < len(limits):
            raise InvalidArgument(f"limiter {name!r} has two limits with the same window")
        self.name = name
        self.limits = limits

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {', '.join(map(str, self.limits))}>"

    def key(self, key: str) -> str:
        """The key as the database knows it: the limiter's name before it."""
        return f"{self.name}:{key}"


class Limiter(_LimiterFace):
    """Limits that all processes on this database share. Made by ``Coordinator.limiter``."""

    def __init__(self, database: Database, name: str, limits: tuple[Limit, ...]) -> None:
        super().__init__(name, limits)
        self._database = database

    def hit(self, key: str, cost: int = 1) -> Decision:
        """Take ``cost`` permits if every limit has them; never waits, never raises for a denial."""
        return self._database.run(hit(self.key(key), self.limits, cost))

    def peek(self, key: str, cost: int = 1) -> Decision:
        """What :meth:`hit` would answer now; takes nothing."""
        return self._database.run(peek(self.key(key), self.limits, cost))

    def acquire(self, key: str, cost: int = 1, *, timeout: Duration = 0) -> Decision:
        """Take permits, waiting at most ``timeout`` seconds for them.

        Raises:
            RateLimited: with ``retry_after``, as soon as it is known that the wait is too long.
        """
        seconds = to_timedelta(timeout, "timeout", zero=True).total_seconds()
        return self._database.drive(acquire_plan(self.key(key), self.limits, cost, seconds))

    def penalize(self, key: str, pause: Duration, reason: str = "") -> None:
        """Close the key for all processes for ``pause`` seconds (an API's Retry-After)."""
        self._database.run(penalize(self.key(key), to_timedelta(pause, "pause"), reason))

    def clear(self, key: str) -> None:
        """Forget the hits and the penalty of the key."""
        self._database.run(clear(self.key(key)))


class AsyncLimiter(_LimiterFace):
    """Limits that all processes on this database share. Made by ``AsyncCoordinator.limiter``."""

    def __init__(self, database: AsyncDatabase, name: str, limits: tuple[Limit, ...]) -> None:
        super().__init__(name, limits)
        self._database = database

    async def hit(self, key: str, cost: int = 1) -> Decision:
        """As :meth:`Limiter.hit`."""
        return await self._database.run(hit(self.key(key), self.limits, cost))

    async def peek(self, key: str, cost: int = 1) -> Decision:
        """As :meth:`Limiter.peek`."""
        return await self._database.run(peek(self.key(key), self.limits, cost))

    async def acquire(self, key: str, cost: int = 1, *, timeout: Duration = 0) -> Decision:
        """As :meth:`Limiter.acquire`."""
        seconds = to_timedelta(timeout, "timeout", zero=True).total_seconds()
        return await self._database.drive(acquire_plan(self.key(key), self.limits, cost, seconds))

    async def penalize(self, key: str, pause: Duration, reason: str = "") -> None:
        """As :meth:`Limiter.penalize`."""
        await self._database.run(penalize(self.key(key), to_timedelta(pause, "pause"), reason))

    async def clear(self, key: str) -> None:
        """As :meth:`Limiter.clear`."""
        await self._database.run(clear(self.key(key)))
