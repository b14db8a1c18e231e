"""The limiter: a name and its limits, with a blocking and an asyncio face."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, Generic, TypeVar

from pgsync.counts import count
from pgsync.database.calls import Invoke, Steps
from pgsync.database.drive import drive, drive_async
from pgsync.durations import Duration, to_timedelta
from pgsync.errors import InvalidArgument, LimitUndecided, RateLimited
from pgsync.limits import calls
from pgsync.limits.calls import Grant, LimitState, check_cost
from pgsync.limits.decision import Decision, http_headers
from pgsync.limits.declared import Limit
from pgsync.limits.exchange import AsyncLimitExchange, LimitExchange, Question
from pgsync.limits.options import LimiterDeclaration
from pgsync.limits.outage import Outage
from pgsync.limits.plans import raise_unless_allowed, wait_plan
from pgsync.limits.reservation import AsyncReservation, Reservation
from pgsync.limits.scope import AsyncPermit, Permit

__all__ = ["AsyncLimiter", "Limiter"]

logger = logging.getLogger("pgsync.limits")

R = TypeVar("R")
E = TypeVar("E", LimitExchange, AsyncLimitExchange)


class _LimiterFace(Generic[E]):
    """What both faces share. ``_turn`` makes the lock of a lease."""

    _turn: Callable[[], Any]

    def __init__(self, exchange: E, declaration: LimiterDeclaration) -> None:
        self._exchange: E = exchange
        self._declared = declaration
        self._limits = declaration.limits
        self._prefix = f"{declaration.name}:"
        self._outcomes = {
            outcome: (("limiter", declaration.name), ("outcome", outcome))
            for outcome in ("allowed", "denied", "shadowed", "undecided")
        }

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self._limits}>"

    @property
    def name(self) -> str:
        """What its keys begin with in the database."""
        return self._declared.name

    @property
    def limits(self) -> tuple[Limit, ...]:
        """What it was declared with."""
        return self._limits.limits

    @property
    def outage(self) -> Outage:
        """Whether the database is away, and what was not decided meanwhile."""
        return self._exchange.outage

    def key(self, key: str) -> str:
        """The key as the database knows it: the limiter's name before it."""
        return f"{self._prefix}{key}"

    def headers(self, decision: Decision) -> dict[str, str]:
        """The header fields of an HTTP answer: RateLimit-Policy, RateLimit, and Retry-After.

        By draft-ietf-httpapi-ratelimit-headers-10; Retry-After only of a denial.
        """
        return http_headers(self.name, self._limits, decision)

    def _known(self, key: str, cost: int) -> Decision | None:
        """What can be said without a round trip: a leased permit, or a denial that holds still."""
        if self._declared.lease:
            lease = self._exchange.leases.of(key, self._limits, self._turn)
            leased = lease.take(cost)
            if leased is not None:
                return leased
        if self._declared.shadow:
            return None
        return self._exchange.denials.find(key, self._limits, cost)

    def _hit_plan(self, key: str, cost: int) -> Steps[Decision]:
        try:
            if self._declared.lease:
                return (yield from self._lease_plan(key, cost))
            asked_at = time.monotonic()
            grant: Grant = yield self._asking(key, cost, 1)
        except LimitUndecided:
            return self._undecided(key, cost)
        return self._noted(grant, asked_at)

    def _lease_plan(self, key: str, cost: int) -> Steps[Decision]:
        lease = self._exchange.leases.of(key, self._limits, self._turn)
        yield from Invoke(lease.turn.acquire, lease.turn.acquire)
        try:
            known = self._known(key, cost)
            if known is not None:
                return known
            if len(self.limits) > 1 and (left := lease.surrender()):
                # One window has ended; in the longer ones these were not used.
                yield from calls.refund(key, self._limits, *left)
            asked_at = time.monotonic()
            grant: Grant = yield self._asking(key, cost, max(1, self._declared.lease // cost))
            if grant.times:
                lease.fill(grant, asked_at)
        finally:
            lease.turn.release()
        decision = self._noted(grant, asked_at)
        leased = max(0, grant.times - 1) * cost
        return decision._replace(remaining=decision.remaining + leased)

    def _asking(self, key: str, cost: int, times: int) -> Invoke[Any]:
        declared = self._declared
        question = Question(key, self._limits, cost, declared.durable, declared.shadow)
        ask: Callable[[], Any] = partial(self._exchange.ask, question, times)
        return Invoke(ask, ask)

    def _noted(self, grant: Grant, asked_at: float) -> Decision:
        decision = grant.decision
        if decision.allowed:
            return decision
        if self._declared.shadow:
            logger.info(
                "shadow: %r would be refused for %.1f s", decision.key, decision.retry_after
            )
            return decision._replace(allowed=True, shadowed=True)
        self._exchange.denials.add(self._limits, decision, asked_at, self._declared.remember)
        return decision

    def _undecided(self, key: str, cost: int) -> Decision:
        """In the handler of the error: what an outage means for a hit."""
        if not self._declared.opens_on_outage:
            self.outage.refused += 1
            raise
        self.outage.let_pass += 1
        return Decision(True, 0, 0.0, datetime.now(UTC), key=key, cost=cost, undecided=True)

    def _counted(self, decision: Decision) -> Decision:
        """For the metrics, what came of a hit."""
        if decision.shadowed or decision.undecided:
            outcome = "shadowed" if decision.shadowed else "undecided"
        else:
            outcome = "allowed" if decision.allowed else "denied"
        count("pgsync_limit_decisions_total", self._outcomes[outcome])
        return decision

    def _acquire_plan(self, key: str, cost: int, timeout: Duration) -> Steps[Decision]:
        try:
            return self._counted((yield from self._wait_plan(key, cost, timeout)))
        except RateLimited:
            count("pgsync_limit_decisions_total", self._outcomes["denied"])
            raise

    def _wait_plan(self, key: str, cost: int, timeout: Duration) -> Steps[Decision]:
        seconds = to_timedelta(timeout, "timeout", zero=True).total_seconds()
        known = self._known(key, cost)
        if known is not None:
            if known.allowed or known.retry_after > seconds:
                return raise_unless_allowed(known)
        elif self._declared.lease or self._declared.shadow:
            decision = yield from self._hit_plan(key, cost)
            if decision.allowed:
                return decision
        try:
            return (
                yield from wait_plan(
                    key, self._limits, cost, seconds, durable=self._declared.durable
                )
            )
        except LimitUndecided:
            return self._undecided(key, cost)

    def _reserve_plan(self, key: str, cost: int, ttl: Duration) -> Steps[Grant]:
        seconds = to_timedelta(ttl, "ttl")
        grant = yield from calls.reserve(
            key, self._limits, cost, seconds, durable=self._declared.durable
        )
        raise_unless_allowed(grant.decision)
        return grant

    def _refund_plan(self, decision: Decision, cost: int | None) -> Steps[bool]:
        if not isinstance(decision, Decision):
            raise InvalidArgument(f"refund takes what hit() returned, not {decision!r}")
        cost = decision.cost if cost is None else cost
        if isinstance(cost, bool) or not isinstance(cost, int) or not 1 <= cost <= decision.cost:
            raise InvalidArgument(
                f"of a hit of {decision.cost}, from 1 to {decision.cost} can be given back,"
                f" not {cost!r}"
            )
        if not decision.key.startswith(self._prefix):
            raise InvalidArgument(f"this decision on {decision.key!r} is not of this limiter")
        if decision.ticket is None:
            return False
        returned = yield from calls.refund(decision.key, self._limits, cost, decision.ticket)
        self._exchange.denials.forget(decision.key)
        return returned

    def _penalize_plan(self, key: str, until: Duration | datetime, reason: str) -> Steps[datetime]:
        if not isinstance(until, datetime):
            until = to_timedelta(until, "until")
        elif until.tzinfo is None:
            raise InvalidArgument("until must be an aware datetime: say in which zone it is")
        closed_until = yield from calls.penalize(key, until, reason)
        self._exchange.leases.forget(key)
        return closed_until

    def _clear_plan(self, key: str) -> Steps[None]:
        yield from calls.clear(key)
        self._exchange.denials.forget(key)
        self._exchange.leases.forget(key)


class Limiter(_LimiterFace[LimitExchange]):
    """Limits that all processes on this database share. Made by ``Coordinator.limiter``."""

    _turn = threading.Lock

    def hit(self, key: str, cost: int = 1) -> Decision:
        """Take ``cost`` permits if every limit has them; never waits, never raises for a denial.

        Raises:
            LimitUndecided: if the database is away, unless the limiter lets pass then.
        """
        key = self.key(key)
        cost = check_cost(cost, self._limits)
        known = self._known(key, cost)
        return self._counted(self._drive(self._hit_plan(key, cost)) if known is None else known)

    def attempt(self, key: str, function: Callable[[], R], cost: int = 1) -> R:
        """Call the function if it is within the limit, and return what it returns.

        Raises:
            RateLimited: if it is not; the function was not called.
        """
        raise_unless_allowed(self.hit(key, cost))
        return function()

    def peek(self, key: str, cost: int = 1) -> Decision:
        """What :meth:`hit` would answer now; takes nothing.

        What is leased to processes counts as taken.
        """
        cost = check_cost(cost, self._limits)
        return self._exchange.run(calls.peek(self.key(key), self._limits, cost))

    def too_many_attempts(self, key: str) -> bool:
        """Whether a hit would be refused now."""
        return not self.peek(key).allowed

    def remaining(self, key: str) -> int:
        """How many permits are left of the limit that binds."""
        return self.peek(key).remaining

    def available_in(self, key: str) -> float:
        """In how many seconds a hit would be allowed; 0 if it would be now."""
        return self.peek(key).retry_after

    def acquire(self, key: str, cost: int = 1, *, timeout: Duration = 0) -> Decision:
        """Take permits, waiting at most ``timeout`` seconds for them, first come first served.

        Raises:
            RateLimited: with ``retry_after``, as soon as it is known that the wait is too long.
            LimitUndecided: if the database is away, unless the limiter lets pass then.
        """
        cost = check_cost(cost, self._limits)
        return self._drive(self._acquire_plan(self.key(key), cost, timeout))

    def permit(self, key: str, cost: int = 1, *, timeout: Duration = 0) -> Permit:
        """For ``with`` or as a decorator: what :meth:`acquire` takes, at the beginning.

        As a decorator the key may have places for the arguments: ``connection:{connection_id}``.
        """
        return Permit(self, key, cost, timeout)

    def reserve(self, key: str, cost: int, *, ttl: Duration = 60) -> Reservation:
        """Take permits for a cost that is known only afterwards; ``with`` settles them.

        One that is not settled in ``ttl`` seconds stands as it was taken.

        Raises:
            RateLimited: if they are not there.
        """
        cost = check_cost(cost, self._limits)
        grant = self._drive(self._reserve_plan(self.key(key), cost, ttl))
        return Reservation(grant, self._exchange.denials, self._exchange.run)

    def refund(self, decision: Decision, cost: int | None = None) -> bool:
        """Give back what a hit took, or a part; False where its windows have ended already."""
        return self._drive(self._refund_plan(decision, cost))

    def penalize(self, key: str, until: Duration | datetime, reason: str = "") -> datetime:
        """Close the key for all processes for so many seconds, or until a moment (aware datetime).

        Never shortens a penalty; returns until when it is closed. Who holds a lease sees it when
        that is used up.
        """
        return self._drive(self._penalize_plan(self.key(key), until, reason))

    def clear(self, key: str) -> None:
        """Forget the hits, the promises to waiters and the penalty of the key."""
        self._drive(self._clear_plan(self.key(key)))

    def explain(self, key: str) -> list[LimitState]:
        """Each limit of the key as it stands: first what binds, and until when; who waits."""
        return self._exchange.database.run(calls.states_of(self.key(key)))

    def _drive(self, steps: Steps[R]) -> R:
        return drive(steps, self._exchange.run)


class AsyncLimiter(_LimiterFace[AsyncLimitExchange]):
    """Limits that all processes on this database share. Made by ``AsyncCoordinator.limiter``."""

    _turn = asyncio.Lock

    async def hit(self, key: str, cost: int = 1) -> Decision:
        """As :meth:`Limiter.hit`."""
        key = self.key(key)
        cost = check_cost(cost, self._limits)
        known = self._known(key, cost)
        decision = await self._drive(self._hit_plan(key, cost)) if known is None else known
        return self._counted(decision)

    async def attempt(self, key: str, function: Callable[[], Awaitable[R]], cost: int = 1) -> R:
        """As :meth:`Limiter.attempt`, for what is awaited."""
        raise_unless_allowed(await self.hit(key, cost))
        return await function()

    async def peek(self, key: str, cost: int = 1) -> Decision:
        """As :meth:`Limiter.peek`."""
        cost = check_cost(cost, self._limits)
        return await self._exchange.run(calls.peek(self.key(key), self._limits, cost))

    async def too_many_attempts(self, key: str) -> bool:
        """As :meth:`Limiter.too_many_attempts`."""
        return not (await self.peek(key)).allowed

    async def remaining(self, key: str) -> int:
        """As :meth:`Limiter.remaining`."""
        return (await self.peek(key)).remaining

    async def available_in(self, key: str) -> float:
        """As :meth:`Limiter.available_in`."""
        return (await self.peek(key)).retry_after

    async def acquire(self, key: str, cost: int = 1, *, timeout: Duration = 0) -> Decision:
        """As :meth:`Limiter.acquire`. A cancelled task gives its place back."""
        cost = check_cost(cost, self._limits)
        return await self._drive(self._acquire_plan(self.key(key), cost, timeout))

    def permit(self, key: str, cost: int = 1, *, timeout: Duration = 0) -> AsyncPermit:
        """As :meth:`Limiter.permit`, for ``async with`` and coroutines."""
        return AsyncPermit(self, key, cost, timeout)

    async def reserve(self, key: str, cost: int, *, ttl: Duration = 60) -> AsyncReservation:
        """As :meth:`Limiter.reserve`, for ``async with await limiter.reserve(...)``."""
        cost = check_cost(cost, self._limits)
        grant = await self._drive(self._reserve_plan(self.key(key), cost, ttl))
        return AsyncReservation(grant, self._exchange.denials, self._exchange.run)

    async def refund(self, decision: Decision, cost: int | None = None) -> bool:
        """As :meth:`Limiter.refund`."""
        return await self._drive(self._refund_plan(decision, cost))

    async def penalize(self, key: str, until: Duration | datetime, reason: str = "") -> datetime:
        """As :meth:`Limiter.penalize`."""
        return await self._drive(self._penalize_plan(self.key(key), until, reason))

    async def clear(self, key: str) -> None:
        """As :meth:`Limiter.clear`."""
        await self._drive(self._clear_plan(self.key(key)))

    async def explain(self, key: str) -> list[LimitState]:
        """As :meth:`Limiter.explain`."""
        return await self._exchange.database.run(calls.states_of(self.key(key)))

    async def _drive(self, steps: Steps[R]) -> R:
        return await drive_async(steps, self._exchange.run)
