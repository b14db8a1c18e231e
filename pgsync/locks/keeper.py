"""The keeper of a coordinator's locks: the plans by which they are taken and given back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TypeVar

from pgsync.database.calls import Invoke, Steps
from pgsync.database.forks import renew_after_fork
from pgsync.errors import LockHeld, LockLost, OutcomeUnknown, coordinator_closed
from pgsync.locks.calls import Grant, restore_lock
from pgsync.locks.grants import Grants
from pgsync.locks.held import HeldLock, LockRequest
from pgsync.locks.session import LockSession
from pgsync.locks.sessions import Wait
from pgsync.locks.turns import Turn, Turns

__all__ = ["LockKeeper"]

T = TypeVar("T")

# A name that was held when it was asked for is likely to be so again: one round trip less.
_CONTENDED_SECONDS = 1.0
_WAITING_THREADS = 64
_MOST_CONTENDED = 1000


class LockKeeper:
    """Takes, renews and releases the locks of one process, for its threads and its tasks.

    ``prepare`` is called before the first session is opened, to check the server and its schema.
    """

    def __init__(self, dsn: str, prepare: Callable[[], None] | None = None) -> None:
        self._dsn = dsn
        self._prepare = prepare
        self._start()
        renew_after_fork(self, LockKeeper._renew_in_child)

    def _start(self) -> None:
        self._turns = Turns()
        self._doors = Turns()
        self._contended: dict[str, float] = {}
        self._grants = Grants(self._dsn, self._prepare)
        # The asyncio face's requests run here; the blocking face's in the caller's own thread.
        # Those that wait have threads of their own, lest a release stands in line behind them.
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="pgsync-locks")
        self._waiters = ThreadPoolExecutor(_WAITING_THREADS, thread_name_prefix="pgsync-lock-wait")

    def _renew_in_child(self) -> None:
        self._grants.leave_to_parent()
        self._start()

    def acquire(self, request: LockRequest) -> Steps[HeldLock]:
        """Plan: take the lock, waiting at most ``request.wait`` seconds.

        Raises:
            LockHeld: if somebody else has it still.
        """
        until = time.monotonic() + request.wait
        turn = self._enter(request)
        try:
            if not turn.has_come and not (yield from turn.wait(request.wait)):
                raise self._held_here(request)
            answer: HeldLock | Grant | None = None
            if not request.wait or not self._was_contended(request.name):
                [answer] = yield from self._taking([request], [turn])
            if not isinstance(answer, HeldLock) and until > time.monotonic():
                self._note_contended(request.name)
                answer = yield from self._wait(request, turn, until)
            if answer is None:
                [answer] = yield from self._taking([request], [turn])
            if not isinstance(answer, HeldLock):
                raise _lock_held(request, answer)
        except BaseException:
            self._turns.leave(turn)
            raise
        return answer

    def acquire_all(self, requests: Sequence[LockRequest]) -> Steps[list[HeldLock]]:
        """Plan: take all the locks or none, in the order given, waiting at most the first's wait.

        Raises:
            LockHeld: for the one that somebody else has still.
        """
        until = time.monotonic() + requests[0].wait
        held = yield from self._acquire_at_once(requests)
        if held is not None:
            return held
        taken: list[HeldLock] = []
        try:
            for request in requests:
                left = max(0.0, until - time.monotonic())
                taken.append((yield from self.acquire(replace(request, wait=left))))
        except BaseException:
            for lock in reversed(taken):
                yield from self.release(lock)
            raise
        return taken

    def _acquire_at_once(self, requests: Sequence[LockRequest]) -> Steps[list[HeldLock] | None]:
        """Plan: try for all in one round trip; None, and none held, where that does not do."""
        turns = [self._enter(request) for request in requests]
        answers: list[HeldLock | Grant] = []
        if all(turn.has_come for turn in turns):
            try:
                answers = yield from self._taking(requests, turns)
            except BaseException:
                for turn in turns:
                    self._turns.leave(turn)
                raise
        held = [answer for answer in answers if isinstance(answer, HeldLock)]
        if len(held) == len(requests):
            return held
        for lock in held:
            yield from self.release(lock)
        for turn in turns:
            self._turns.leave(turn)
        return None

    def restore(self, request: LockRequest, token: int, *, ahead: bool = False) -> Steps[HeldLock]:
        """Plan: take a lock that was handed over with this token.

        With ``ahead`` it goes before those of this process who wait for the lock.

        Raises:
            LockLost: if the token does not hold the lock: its deadline passed, or it was restored.
        """
        turn = self._enter(request)
        try:
            if not turn.has_come:
                if not ahead:
                    raise self._held_here(request)
                self._turns.leave(turn)
                # A turn in no line: who has the turn there waits at the server, for this one.
                turn = Turn(object(), request.owner, None)
            [answer] = yield from self._cancellable(lambda: [self._restore(request, turn, token)])
            if not isinstance(answer, HeldLock):
                raise LockLost(
                    request.name,
                    f"token {token} has not been handed over, or its deadline has passed",
                )
        except BaseException:
            self._turns.leave(turn)
            raise
        return answer

    def release(self, held: HeldLock) -> Steps[bool]:
        """Plan: give the lock back; False where it was lost already."""
        answer = yield from self._work(lambda: self._grants.release(held))
        return answer

    def renew(self, held: HeldLock, ttl: timedelta | None = None) -> Steps[None]:
        """Plan: move the deadline to ``ttl`` (the lock's own by default) from now.

        Raises:
            LockLost: if it is held no more.
        """
        held.check()
        held.ttl = ttl or held.ttl
        yield from self._work(lambda: self._grants.renew(held))
        held.check()

    def hand_over(self, held: HeldLock) -> Steps[int]:
        """Plan: leave the lock to whoever restores it by the token, which is returned.

        Raises:
            LockLost: if it is held no more.
        """
        held.check()
        if not (yield from self._work(lambda: self._grants.hand_over(held))):
            raise LockLost(held.name, "it was lost before it was handed over")
        return held.token

    def close(self) -> None:
        """Release all locks by ending the sessions that carry them."""
        self._grants.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._waiters.shutdown(wait=False, cancel_futures=True)

    @property
    def closed(self) -> bool:
        """Whether it was closed, and grants no more."""
        return self._grants.sessions.closed

    def _enter(self, request: LockRequest) -> Turn:
        room = None if request.mode == "shared" else request.slots or 1
        return self._turns.enter(request.line, request.owner, room)

    def _work(self, work: Callable[[], T]) -> Invoke[T]:
        async def awaitable() -> T:
            return await asyncio.wrap_future(_submit(self._threads, work))

        return Invoke(work, awaitable)

    def _taking(
        self, requests: Sequence[LockRequest], turns: Sequence[Turn]
    ) -> Invoke[list[HeldLock | Grant]]:
        return self._cancellable(lambda: self._try(requests, turns))

    def _cancellable(
        self,
        take: Callable[[], list[HeldLock | Grant]],
        threads: ThreadPoolExecutor | None = None,
        cancel: Callable[[], None] | None = None,
    ) -> Invoke[list[HeldLock | Grant]]:
        """Take locks, and give back what is granted after the awaiting task was cancelled."""

        async def awaitable() -> list[HeldLock | Grant]:
            taking = _submit(threads or self._threads, take)
            try:
                return await asyncio.wrap_future(taking)
            except asyncio.CancelledError:
                # A thread cannot be stopped, and what it is granted must not stay behind.
                taking.add_done_callback(self._give_back)
                if cancel is not None and not taking.cancel():
                    _submit(self._threads, cancel)
                raise

        return Invoke(take, awaitable)

    def _wait(
        self, request: LockRequest, turn: Turn, until: float
    ) -> Steps[HeldLock | Grant | None]:
        """Plan: wait at the server, one of this process at a time for a name."""
        door = self._doors.enter(request.line, request.owner)
        wait = Wait(request, until)
        try:
            if not door.has_come and not (yield from door.wait(wait.left)):
                return None

            def take() -> list[HeldLock | Grant]:
                sent_at, grant, session = self._grants.sessions.wait(wait)
                return [self._hold(request, turn, sent_at, grant, session)] if grant else []

            taken = yield from self._cancellable(take, self._waiters, wait.cancel)
            return taken[0] if taken else None
        finally:
            self._doors.leave(door)

    def _try(
        self, requests: Sequence[LockRequest], turns: Sequence[Turn]
    ) -> list[HeldLock | Grant]:
        main = self._grants.sessions.main()
        sent_at, grants = main.try_locks(requests)
        return [
            self._hold(request, turn, sent_at, grant, main.session)
            for request, turn, grant in zip(requests, turns, grants, strict=True)
        ]

    def _restore(self, request: LockRequest, turn: Turn, token: int) -> HeldLock | Grant:
        main = self._grants.sessions.main()
        sent_at = time.monotonic()
        try:
            grant = main.session.run(restore_lock(request, token))
        except OutcomeUnknown:
            raise
        except BaseException:
            main.session.abandon(request.name)
            raise
        if grant.token is not None:
            main.adopt(grant.token)
        return self._hold(request, turn, sent_at, grant, main.session)

    def _hold(
        self, request: LockRequest, turn: Turn, sent_at: float, grant: Grant, session: LockSession
    ) -> HeldLock | Grant:
        leave = partial(self._turns.leave, turn)
        return self._grants.hold(request, leave, sent_at, grant, session)

    def _give_back(self, taking: Future[list[HeldLock | Grant]]) -> None:
        if not taking.cancelled() and taking.exception() is None:
            for answer in taking.result():
                if isinstance(answer, HeldLock):
                    self._grants.release(answer)

    def _was_contended(self, name: str) -> bool:
        return self._contended.get(name, 0.0) > time.monotonic()

    def _note_contended(self, name: str) -> None:
        if len(self._contended) >= _MOST_CONTENDED:
            self._contended.clear()
        self._contended[name] = time.monotonic() + _CONTENDED_SECONDS

    def _held_here(self, request: LockRequest) -> LockHeld:
        held = self._grants.in_line(request.line)
        return LockHeld(
            request.name,
            holder=self._turns.owner(request.line),
            acquired_at=held.acquired_at if held else None,
            expires_at=held.expires_at if held else None,
            waited=request.wait,
        )


def _lock_held(request: LockRequest, answer: Grant) -> LockHeld:
    return LockHeld(
        request.name,
        holder=answer.holder,
        acquired_at=answer.acquired_at,
        expires_at=answer.expires_at,
        waited=request.wait,
        obstacle=answer.obstacle,
    )


def _submit(threads: ThreadPoolExecutor, work: Callable[[], T]) -> Future[T]:
    try:
        return threads.submit(work)
    except RuntimeError:
        raise coordinator_closed() from None
