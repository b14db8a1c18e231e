"""The keeper of a coordinator's locks: it grants, renews, releases, and watches deadlines."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TypeVar

from pgsync.database.calls import Invoke, Steps
from pgsync.database.forks import renew_after_fork
from pgsync.errors import LockHeld, LockLost, OutcomeUnknown, PgsyncError
from pgsync.locks.calls import (
    Grant,
    expire_lock,
    hand_over_lock,
    renew_lock,
    requests_to_release,
    restore_lock,
)
from pgsync.locks.held import HeldLock, LockRequest, ReleaseRequest
from pgsync.locks.session import LockSession
from pgsync.locks.sessions import Sessions, Wait
from pgsync.locks.turns import Turn, Turns
from pgsync.locks.watchdog import Watchdog

__all__ = ["LockKeeper"]

T = TypeVar("T")

logger = logging.getLogger("pgsync.locks")

# A name that was held when it was asked for is likely to be so again: one round trip less.
_CONTENDED_SECONDS = 1.0
_WAITING_THREADS = 64
_MOST_CONTENDED = 1000


class LockKeeper:
    """Grants, renews, releases and watches the locks of one process.

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
        self._sessions = Sessions(self._dsn, self._session_ended, self._prepare)
        self._watchdog = Watchdog(self._renew, self._drop, self._look)
        # The asyncio face's requests run here; the blocking face's in the caller's own thread.
        # Those that wait have threads of their own, lest a release stands in line behind them.
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="pgsync-locks")
        self._waiters = ThreadPoolExecutor(_WAITING_THREADS, thread_name_prefix="pgsync-lock-wait")

    def _renew_in_child(self) -> None:
        """In a forked child: the locks, and the sessions that carry them, are the parent's."""
        self._sessions.leave_to_parent()
        for held in self._watchdog.inherited():
            held.leave_to_parent()
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
        answer = yield from self._work(lambda: self._release(held))
        return answer

    def renew(self, held: HeldLock, ttl: timedelta | None = None) -> Steps[None]:
        """Plan: move the deadline to ``ttl`` (the lock's own by default) from now.

        Raises:
            LockLost: if it is held no more.
        """
        held.check()
        held.ttl = ttl or held.ttl
        yield from self._work(lambda: self._renew(held))
        held.check()

    def hand_over(self, held: HeldLock) -> Steps[int]:
        """Plan: leave the lock to whoever restores it by the token, which is returned.

        Raises:
            LockLost: if it is held no more.
        """
        held.check()
        if not (yield from self._work(lambda: self._hand_over(held))):
            raise LockLost(held.name, "it was lost before it was handed over")
        return held.token

    def close(self) -> None:
        """Release all locks by ending the sessions that carry them."""
        held = self._watchdog.close()
        self._sessions.close()
        for lock in held:
            lock.end()
            lock.leave()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._waiters.shutdown(wait=False, cancel_futures=True)

    @property
    def closed(self) -> bool:
        """Whether it was closed, and grants no more."""
        return self._sessions.closed

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
                sent_at, grant, session = self._sessions.wait(wait)
                return [self._hold(request, turn, sent_at, grant, session)] if grant else []

            taken = yield from self._cancellable(take, self._waiters, wait.cancel)
            return taken[0] if taken else None
        finally:
            self._doors.leave(door)

    def _try(
        self, requests: Sequence[LockRequest], turns: Sequence[Turn]
    ) -> list[HeldLock | Grant]:
        main = self._sessions.main()
        sent_at, grants = main.try_locks(requests)
        return [
            self._hold(request, turn, sent_at, grant, main.session)
            for request, turn, grant in zip(requests, turns, grants, strict=True)
        ]

    def _restore(self, request: LockRequest, turn: Turn, token: int) -> HeldLock | Grant:
        main = self._sessions.main()
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
        if not grant.acquired or grant.token is None or grant.expires_at is None:
            return grant
        # Reckoned from before the request was sent: early rather than late.
        leave = partial(self._turns.leave, turn)
        deadline = sent_at + (grant.waited + request.ttl).total_seconds()
        held = HeldLock(
            request, grant.token, grant.acquired_at, grant.expires_at, deadline, session, leave
        )
        if not self._watchdog.watch(held):
            self._release(held)
            raise LockLost(held.name, "the coordinator was closed meanwhile")
        return held

    def _give_back(self, taking: Future[list[HeldLock | Grant]]) -> None:
        if not taking.cancelled() and taking.exception() is None:
            for answer in taking.result():
                if isinstance(answer, HeldLock):
                    self._release(answer)

    def _release(self, held: HeldLock) -> bool:
        if not held.end():
            return False
        self._watchdog.forget(held)
        try:
            return self._release_at_server(held)
        except OutcomeUnknown:
            return False
        except BaseException:
            # An interrupted release (Ctrl-C) may not have happened.
            held.session.abandon(held.name)
            raise
        finally:
            self._sessions.give_back(held.session)
            held.leave()

    def _release_at_server(self, held: HeldLock, expired: bool = False) -> bool:
        exchange = self._sessions.exchange_of(held.session)
        if expired:
            released = held.session.run(expire_lock(held.token))
            if exchange is not None:
                exchange.forget(held.token)
            return released
        if exchange is not None:
            return exchange.release(held.token)
        return held.session.release(held.token)

    def _hand_over(self, held: HeldLock) -> bool:
        try:
            if held.session.run(hand_over_lock(held.token)) is None:
                self._lose(held, "its deadline had passed when it was handed over")
                return False
        except OutcomeUnknown:
            return False
        exchange = self._sessions.exchange_of(held.session)
        if exchange is not None:
            exchange.forget(held.token)
        if held.end():
            self._watchdog.forget(held)
            self._sessions.give_back(held.session)
            held.leave()
        return True

    def _renew(self, held: HeldLock) -> None:
        sent_at = time.monotonic()
        try:
            expires_at = held.session.run(renew_lock(held.name, held.token, held.ttl))
        except OutcomeUnknown:
            return  # The session's end has been told to every lock on it.
        if expires_at is None:
            self._lose(held, "its deadline had passed when it was renewed")
            return
        held.renewed(sent_at, expires_at)
        self._watchdog.note(held)

    def _lose(self, held: HeldLock, reason: str) -> None:
        if held.end(lost_because=reason):
            self._drop(held)

    def _drop(self, held: HeldLock) -> None:
        """Forget a lost lock, here and at the server."""
        reason = held.lost_because
        logger.warning(
            "lock %r (token %s) was lost: %s",
            held.name,
            held.token,
            reason,
            extra={"lock": held.name},
        )
        self._watchdog.forget(held)
        try:
            if held.session.alive:
                self._release_at_server(held, expired=reason == held.overdue)
        except PgsyncError as error:
            logger.warning("lock %r: the server could not be told: %s", held.name, error)
        finally:
            self._sessions.give_back(held.session)

    def _look(self, locks: list[HeldLock]) -> None:
        """Ask whether somebody asks the holders to finish, for those who want to know."""
        listening = {
            held.token: held
            for held in locks
            if held.request.on_request is not None and held.request_to_release is None
        }
        if listening and (main := self._sessions.main()).session.alive:
            for token, asked_by, why in main.session.run(requests_to_release(list(listening))):
                held = listening[token]
                held.asked_to_release(ReleaseRequest(held.name, asked_by, why))

    def _session_ended(self, session: LockSession, reason: str) -> None:
        for held in self._watchdog.locks():
            if held.session is session:
                self._lose(held, reason)

    def _was_contended(self, name: str) -> bool:
        return self._contended.get(name, 0.0) > time.monotonic()

    def _note_contended(self, name: str) -> None:
        if len(self._contended) >= _MOST_CONTENDED:
            self._contended.clear()
        self._contended[name] = time.monotonic() + _CONTENDED_SECONDS

    def _held_here(self, request: LockRequest) -> LockHeld:
        held = next((h for h in self._watchdog.locks() if h.request.line == request.line), None)
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
        raise PgsyncError("the coordinator has been closed; make another one") from None
