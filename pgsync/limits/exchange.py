"""Where the limiters of a coordinator ask the database: few connections, few round trips."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import psycopg

from pgsync.database.calls import Call
from pgsync.database.combining import AsyncCombiner, Combiner, Party
from pgsync.database.forks import renew_after_fork
from pgsync.database.kept import AsyncKeptConnection, KeptConnection
from pgsync.database.pool import AsyncDatabase, Database
from pgsync.errors import (
    ConnectionFailed,
    LimitUndecided,
    OutcomeUnknown,
    PgsyncError,
    ServerUnsupported,
)
from pgsync.limits.calls import Grant, refund, take
from pgsync.limits.declared import LimitSet
from pgsync.limits.denials import Denials
from pgsync.limits.leases import Leases
from pgsync.limits.outage import PATIENCE, Outage, Watch

__all__ = ["AsyncLimitExchange", "LimitExchange", "Question"]

T = TypeVar("T")
C = TypeVar("C")

_CONNECTIONS = 4
_TOGETHER = 1000

_AWAY = (ConnectionFailed, OutcomeUnknown, ServerUnsupported)


class Question(NamedTuple):
    """What is asked; hits that ask the same at once are asked together."""

    key: str
    limits: LimitSet
    cost: int
    durable: bool
    shadow: bool

    def of(self, times: int) -> Call[Grant]:
        """The call that asks it so many times."""
        return take(
            self.key, self.limits, self.cost, times, durable=self.durable, shadow=self.shadow
        )


class _Hit(Party):
    """Somebody's hit, or lease of ``weight`` hits."""

    __slots__ = ("grant",)

    def __init__(self, times: int) -> None:
        super().__init__(times)
        self.grant: Grant | None = None


class _Line(Generic[C]):
    """Those who ask the same just now; it goes when the last of them has."""

    __slots__ = ("combiner", "users")

    def __init__(self, combiner: C) -> None:
        self.combiner = combiner
        self.users = 0


def _share(hits: Iterable[_Hit], grant: Grant) -> None:
    """Share out what was granted to all together: first come, first served."""
    left = grant.times
    for hit in hits:
        times = min(hit.weight, left)
        left -= times
        decision = grant.decision
        if times:
            remaining = decision.remaining + left * decision.cost
            retry_after = decision.retry_after if times < hit.weight else 0.0
            decision = decision._replace(remaining=remaining, retry_after=retry_after)
        elif decision.allowed:
            decision = decision._replace(allowed=False, ticket=None)
        hit.grant = grant._replace(times=times, decision=decision)
        hit.answered = True


class _ExchangeFace:
    """What is known in this process without asking."""

    denials: Denials
    leases: Leases

    def forget(self) -> None:
        """Know nothing: the process has forked, or a test has set the server's time."""
        self.denials = Denials()
        self.leases = Leases()


class LimitExchange(_ExchangeFace):
    """For threads: connections of its own, since a limit must not wait for the application's.

    Callers of different keys do not wait for each other.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.outage = Outage()
        self._begin()
        renew_after_fork(self, LimitExchange._begin)

    def _begin(self) -> None:
        # A forked child has its parent's leases in memory, and none of its own.
        self.forget()
        self._watch = Watch()
        self._mutex = threading.Lock()
        self._lines: dict[Question, _Line[Combiner[_Hit]]] = {}
        self._places = threading.Semaphore(_CONNECTIONS)
        self._free: list[KeptConnection] = []
        self._closed = False

    def ask(self, question: Question, times: int) -> Grant:
        """Take permits, together with all who ask the same just now."""
        hit = _Hit(times)
        with self._mutex:
            line = self._lines.get(question)
            if line is None:
                line = _Line(Combiner(partial(self._serve, question), _TOGETHER))
                self._lines[question] = line
            line.users += 1
        try:
            line.combiner.ask(hit)
        finally:
            with self._mutex:
                line.users -= 1
                if not line.users:
                    del self._lines[question]
        assert hit.grant is not None
        return hit.grant

    def _serve(self, question: Question, hits: list[_Hit]) -> None:
        _share(hits, self.run(question.of(sum(hit.weight for hit in hits))))

    def run(self, call: Call[T]) -> T:
        """Run a call, within a bounded time.

        Raises:
            LimitUndecided: if the database is away.
        """
        self.outage.check()
        if self._closed:
            raise PgsyncError("the coordinator has been closed")
        asked_at = time.monotonic()
        if not self._places.acquire(timeout=PATIENCE):
            raise LimitUndecided("all connections for limits are waiting for the server")
        try:
            kept = self._free.pop() if self._free else KeptConnection(self.database)
            try:
                kept.holds()
                with self._watch.over(kept):
                    answer = kept.run(call)
            finally:
                self._free.append(kept)
        except _AWAY as error:
            raise self.outage.begin(error, asked_at) from error
        finally:
            self._places.release()
        self.outage.end()
        return answer

    def close(self) -> None:
        """Give back what is leased, and close the connections."""
        for call in _returns(self.leases):
            try:
                self.run(call)
            except (psycopg.Error, PgsyncError):
                break  # They expire with their windows.
        self._closed = True
        while self._free:
            self._free.pop().close()


class AsyncLimitExchange(_ExchangeFace):
    """As :class:`LimitExchange`, for the tasks of an event loop."""

    def __init__(self, database: AsyncDatabase) -> None:
        self.database = database
        self.outage = Outage()
        self._begin()
        renew_after_fork(self, AsyncLimitExchange._begin)

    def _begin(self) -> None:
        self.forget()
        self._lines: dict[Question, _Line[AsyncCombiner[_Hit]]] = {}
        self._places = asyncio.Semaphore(_CONNECTIONS)
        self._free: list[AsyncKeptConnection] = []
        self._closed = False

    async def ask(self, question: Question, times: int) -> Grant:
        """As :meth:`LimitExchange.ask`."""
        hit = _Hit(times)
        line = self._lines.get(question)
        if line is None:
            line = _Line(AsyncCombiner(partial(self._serve, question), _TOGETHER))
            self._lines[question] = line
        line.users += 1
        try:
            await line.combiner.ask(hit)
        finally:
            line.users -= 1
            if not line.users:
                del self._lines[question]
        assert hit.grant is not None
        return hit.grant

    async def _serve(self, question: Question, hits: list[_Hit]) -> None:
        try:
            _share(hits, await self.run(question.of(sum(hit.weight for hit in hits))))
        except Exception as error:  # noqa: BLE001 - each of them is to hear of it
            for hit in hits:
                hit.fail(error)

    async def run(self, call: Call[T]) -> T:
        """As :meth:`LimitExchange.run`."""
        self.outage.check()
        if self._closed:
            raise PgsyncError("the coordinator has been closed")
        asked_at = time.monotonic()
        try:
            async with self._places:
                kept = self._free.pop() if self._free else AsyncKeptConnection(self.database)
                kept.holds()
                deadline = asyncio.get_running_loop().call_later(PATIENCE, kept.cut)
                try:
                    answer = await kept.run(call)
                finally:
                    deadline.cancel()
                    self._free.append(kept)
        except _AWAY as error:
            raise self.outage.begin(error, asked_at) from error
        self.outage.end()
        return answer

    async def close(self) -> None:
        """As :meth:`LimitExchange.close`."""
        for call in _returns(self.leases):
            try:
                await self.run(call)
            except (psycopg.Error, PgsyncError):
                break
        self._closed = True
        while self._free:
            await self._free.pop().close()


def _returns(leases: Leases) -> Iterable[Call[Any]]:
    for lease in leases.all():
        if left := lease.surrender():
            yield refund(lease.key, lease.limits, *left)
