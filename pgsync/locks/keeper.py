"""The keeper of a coordinator's locks: it grants, renews, releases, and watches deadlines."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import TypeVar

from pgsync.database.calls import Invoke, Steps
from pgsync.errors import LockHeld, LockLost, OutcomeUnknown, PgsyncError
from pgsync.locks.calls import Grant, renew_lock, try_lock, unlock
from pgsync.locks.held import HeldLock, LockRequest
from pgsync.locks.session import WAITING_SESSIONS, LockSession, Sessions, abandon, ask
from pgsync.locks.turns import Turn, Turns
from pgsync.locks.watchdog import Watchdog

__all__ = ["LockKeeper"]

T = TypeVar("T")

logger = logging.getLogger("pgsync.locks")


class LockKeeper:
    """Grants, renews, releases and watches the locks of one process.

    ``prepare`` is called before the first session is opened, to check the server and its schema.
    """

    def __init__(self, dsn: str, prepare: Callable[[], None] | None = None) -> None:
        self._turns = Turns()
        self._sessions = Sessions(dsn, self._session_ended, prepare)
        self._watchdog = Watchdog(self._renew, self._drop)
        # The asyncio face's requests run here; the blocking face's in the caller's own thread.
        # Those that wait have threads of their own, lest a release stands in line behind them.
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="pgsync-locks")
        self._waiters = ThreadPoolExecutor(WAITING_SESSIONS, thread_name_prefix="pgsync-lock-wait")

    def acquire(self, request: LockRequest) -> Steps[HeldLock]:
        """Plan: take the lock, waiting at most ``request.wait`` seconds.

        Raises:
            LockHeld: if somebody else has it still.
        """
        until = time.monotonic() + request.wait
        turn = self._turns.enter(request.name, request.owner)
        try:
            if not turn.has_come and not (yield from turn.wait(request.wait)):
                raise self._held_here(request)
            answer = yield from self._taking(self._threads, lambda: self._try(request, turn))
            if isinstance(answer, Grant) and until > time.monotonic():
                refusal = answer
                answer = yield from self._taking(
                    self._waiters, lambda: self._wait(request, turn, until, refusal)
                )
            if isinstance(answer, Grant):
                raise LockHeld(
                    request.name,
                    holder=answer.holder,
                    acquired_at=answer.acquired_at,
                    expires_at=answer.expires_at,
                    waited=request.wait,
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

    def close(self) -> None:
        """Release all locks by ending the sessions that carry them."""
        held = self._watchdog.close()
        self._sessions.close()
        for lock in held:
            lock.end()
            lock.leave()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._waiters.shutdown(wait=False, cancel_futures=True)

    def _work(self, work: Callable[[], T]) -> Invoke[T]:
        async def awaitable() -> T:
            return await asyncio.wrap_future(_submit(self._threads, work))

        return Invoke(work, awaitable)

    def _taking(
        self, threads: ThreadPoolExecutor, take: Callable[[], HeldLock | Grant]
    ) -> Invoke[HeldLock | Grant]:
        async def awaitable() -> HeldLock | Grant:
            taking = _submit(threads, take)
            try:
                return await asyncio.shield(asyncio.wrap_future(taking))
            except asyncio.CancelledError:
                # The thread cannot be stopped; what it is granted must not stay behind.
                taking.add_done_callback(self._give_back)
                raise

        return Invoke(take, awaitable)

    def _try(self, request: LockRequest, turn: Turn) -> HeldLock | Grant:
        session = self._sessions.main()
        sent_at = time.monotonic()
        grant = ask(session, try_lock(request.name, request.ttl, request.owner), request.name)
        return self._hold(request, turn, sent_at, grant, session)

    def _wait(
        self, request: LockRequest, turn: Turn, until: float, refusal: Grant
    ) -> HeldLock | Grant:
        return self._hold(request, turn, *self._sessions.wait(request, until, refusal))

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

    def _give_back(self, taking: Future[HeldLock | Grant]) -> None:
        if not taking.cancelled() and taking.exception() is None:
            answer = taking.result()
            if isinstance(answer, HeldLock):
                self._release(answer)

    def _release(self, held: HeldLock) -> bool:
        if not held.end():
            return False
        self._watchdog.forget(held)
        try:
            return held.session.run(unlock(held.name, held.token))
        except OutcomeUnknown:
            return False
        except BaseException:
            # An interrupted release (Ctrl-C) may not have happened.
            abandon(held.session, held.name)
            raise
        finally:
            self._sessions.give_back(held.session)
            held.leave()

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

    def _lose(self, held: HeldLock, reason: str) -> None:
        if held.end(lost_because=reason):
            self._drop(held)

    def _drop(self, held: HeldLock) -> None:
        """Forget a lost lock, here and at the server."""
        reason = held.lost_because
        logger.warning("lock %r (token %s) was lost: %s", held.name, held.token, reason)
        self._watchdog.forget(held)
        try:
            if held.session.alive:
                held.session.run(unlock(held.name, held.token))
        except PgsyncError as error:
            logger.warning("lock %r: the server could not be told: %s", held.name, error)
        finally:
            self._sessions.give_back(held.session)

    def _session_ended(self, session: LockSession, reason: str) -> None:
        for held in self._watchdog.locks():
            if held.session is session:
                self._lose(held, reason)

    def _held_here(self, request: LockRequest) -> LockHeld:
        held = next((h for h in self._watchdog.locks() if h.name == request.name), None)
        return LockHeld(
            request.name,
            holder=self._turns.owner(request.name),
            acquired_at=held.acquired_at if held else None,
            expires_at=held.expires_at if held else None,
            waited=request.wait,
        )


def _submit(threads: ThreadPoolExecutor, work: Callable[[], T]) -> Future[T]:
    try:
        return threads.submit(work)
    except RuntimeError:
        raise PgsyncError("the coordinator has been closed") from None
