"""Where the limiters of a coordinator ask the database: few connections, few round trips."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar, overload

import psycopg

from pgsync.database.calls import Call, Prepared, Steps
from pgsync.database.combining import AsyncCombiner, Combiner, Party
from pgsync.database.drive import drive, drive_async
from pgsync.database.forks import renew_after_fork
from pgsync.database.kept import AsyncKeptConnection, KeptConnection
from pgsync.database.pool import AsyncDatabase, Database
from pgsync.errors import (
    ConnectionFailed,
    LimitUndecided,
    OutcomeUnknown,
    PgsyncError,
    ServerUnsupported,
    coordinator_closed,
)
from pgsync.limits.calls import Grant, refund, take
from pgsync.limits.declared import LimitSet
from pgsync.limits.denials import Denials
from pgsync.limits.leases import Leases
from pgsync.limits.open_windows import OpenWindows
from pgsync.limits.outage import PATIENCE, Outage, Watch

__all__ = ["AsyncLimitExchange", "LimitExchange", "Question"]

T = TypeVar("T")
C = TypeVar("C")

_CONNECTIONS = 4
_TOGETHER = 1000
_MOST_LINES = 1000

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

    def open_windows(self) -> OpenWindows | None:
        """The windows of a key that has just been taken of, where all its limits are fixed ones."""
        limits = self.limits.limits
        if self.shadow or any(limit.algorithm != "fixed" for limit in limits):
            return None
        return OpenWindows(self.key, limits, self.cost, durable=self.durable)


class _Hit(Party):
    """Somebody's hit, or lease of ``weight`` hits."""

    __slots__ = ("grant",)

    def __init__(self, times: int) -> None:
        super().__init__(times)
        self.grant: Grant | None = None


class _Line(Generic[C]):
    """Those who ask the same, and what is known of their key: its windows, once they are open."""

    __slots__ = ("_question", "_windows", "combiner")

    combiner: C

    def __init__(self, question: Question) -> None:
        self._question = question
        self._windows: OpenWindows | None = None

    def taking(self, times: int) -> Steps[Grant]:
        """Plan: ask so many times; twice only where a window has just ended, or is full."""
        grant = None
        if self._windows is not None:
            grant = yield from self._windows.taking(times)
        if grant is None:
            grant = yield from self._question.of(times)
            self._windows = self._question.open_windows() if grant.times == times else None
        return grant


class _Lines(Generic[C]):
    """The lines of what was asked lately; ``combine`` makes the combiner of one."""

    def __init__(self, combine: Callable[[_Line[C]], C]) -> None:
        self._combine = combine
        self._lines: dict[Question, _Line[C]] = {}

    def of(self, question: Question) -> _Line[C]:
        line = self._lines.get(question)
        if line is None:
            if len(self._lines) >= _MOST_LINES:
                self._lines.clear()  # Who stands in one is served there still.
            line = _Line(question)
            line.combiner = self._combine(line)
            line = self._lines.setdefault(question, line)
        return line


def _share(hits: Sequence[_Hit], grant: Grant) -> None:
    """Share out what was granted to all together: first come, first served."""
    if len(hits) == 1:
        hits[0].grant = grant
        hits[0].answered = True
        return
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
        self._lines: _Lines[Combiner[_Hit]] = _Lines(self._combiner)
        self._places: SimpleQueue[None] = SimpleQueue()  # a semaphore, but quicker
        for _ in range(_CONNECTIONS):
            self._places.put(None)
        self._free: list[KeptConnection] = []
        self._closed = False

    def ask(self, question: Question, times: int) -> Grant:
        """Take permits, together with all who ask the same just now."""
        line = self._lines.of(question)
        if line.combiner.try_lead():
            try:
                return drive(line.taking(times), self.run)
            finally:
                line.combiner.pass_on()
        hit = _Hit(times)
        line.combiner.ask(hit)
        assert hit.grant is not None
        return hit.grant

    def _combiner(self, line: _Line[Combiner[_Hit]]) -> Combiner[_Hit]:
        return Combiner(partial(self._serve, line), _TOGETHER)

    def _serve(self, line: _Line[Combiner[_Hit]], hits: list[_Hit]) -> None:
        _share(hits, drive(line.taking(sum(hit.weight for hit in hits)), self.run))

    @overload
    def run(self, call: Call[T]) -> T: ...
    @overload
    def run(self, call: Prepared[T]) -> T | None: ...
    def run(self, call: Call[T] | Prepared[T]) -> T | None:
        """Run a call, within a bounded time.

        Raises:
            LimitUndecided: if the database is away.
        """
        self.outage.check()
        if self._closed:
            raise coordinator_closed()
        asked_at = time.monotonic()
        try:
            self._places.get(timeout=PATIENCE)
        except Empty:
            raise LimitUndecided("all connections for limits are waiting for the server") from None
        try:
            kept = self._free.pop() if self._free else KeptConnection(self.database)
            try:
                kept.holds()
                self._watch.begin(kept)
                try:
                    answer = kept.run(call)
                finally:
                    self._watch.end(kept)
            finally:
                self._free.append(kept)
        except _AWAY as error:
            raise self.outage.begin(error, asked_at) from error
        finally:
            self._places.put(None)
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
        self._lines: _Lines[AsyncCombiner[_Hit]] = _Lines(self._combiner)
        self._places = asyncio.Semaphore(_CONNECTIONS)
        self._free: list[AsyncKeptConnection] = []
        self._closed = False

    async def ask(self, question: Question, times: int) -> Grant:
        """As :meth:`LimitExchange.ask`."""
        hit = _Hit(times)
        await self._lines.of(question).combiner.ask(hit)
        assert hit.grant is not None
        return hit.grant

    def _combiner(self, line: _Line[AsyncCombiner[_Hit]]) -> AsyncCombiner[_Hit]:
        return AsyncCombiner(partial(self._serve, line), _TOGETHER)

    async def _serve(self, line: _Line[AsyncCombiner[_Hit]], hits: list[_Hit]) -> None:
        try:
            plan = line.taking(sum(hit.weight for hit in hits))
            _share(hits, await drive_async(plan, self.run))
        except Exception as error:  # noqa: BLE001 - each of them is to hear of it
            for hit in hits:
                hit.fail(error)

    @overload
    async def run(self, call: Call[T]) -> T: ...
    @overload
    async def run(self, call: Prepared[T]) -> T | None: ...
    async def run(self, call: Call[T] | Prepared[T]) -> T | None:
        """As :meth:`LimitExchange.run`."""
        self.outage.check()
        if self._closed:
            raise coordinator_closed()
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
