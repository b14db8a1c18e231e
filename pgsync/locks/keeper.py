"""The keeper of a coordinator's locks: it grants, renews, releases, and watches deadlines."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import TypeVar

from pgsync.database.calls import Invoke, Steps
from pgsync.errors import LockHeld, LockLost, OutcomeUnknown, PgsyncError
from pgsync.locks.calls import renew_lock, try_lock, unlock
from pgsync.locks.held import HeldLock, LockRequest
from pgsync.locks.session import WAITING_SESSIONS, LockSession, Sessions, ask
from pgsync.locks.turns import Turn, Turns

__all__ = ["LockKeeper"]

T = TypeVar("T")

logger = logging.getLogger("pgsync.locks")

_CHECK_SECONDS = 1.0


class LockKeeper:
    """Grants, renews, releases and watches the locks of one process.

    ``prepare`` is called before the first session is opened, to check the server and its schema.
    """

    def __init__(self, dsn: str, prepare: Callable[[], None] | None = None) -> None:
        self._turns = Turns()
        self._sessions = Sessions(dsn, self._session_ended, prepare)
        self._held: dict[int, HeldLock] = {}
        self._changed = threading.Condition()
        self._watchdog: threading.Thread | None = None
        self._closed = False
        # The asyncio face's requests run here; the blocking face's in the caller's own thread.
        self._threads = ThreadPoolExecutor(WAITING_SESSIONS + 2, thread_name_prefix="pgsync-locks")

    def acquire(self, request: LockRequest) -> Steps[HeldLock]:
        """Plan: take the lock, waiting at most ``request.wait`` seconds.

        Raises:
            LockHeld: if somebody else has it still.
        """
        until = time.monotonic() + request.wait
        turn = self._turns.enter(request.name)
        try:
            if not turn.has_come and not (yield from turn.wait(request.wait)):
                raise self._held_here(request)
            held = yield from Invoke(
                lambda: self._take(request, turn, until),
                lambda: self._take_async(request, turn, until),
            )
        except BaseException:
            self._turns.leave(turn)
            raise
        return held

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
        with self._changed:
            self._closed = True
            held = list(self._held.values())
            self._held.clear()
            self._changed.notify_all()
        for lock in held:
            lock.end()
            self._turns.leave(lock.turn)
        self._sessions.close()
        if self._watchdog not in (None, threading.current_thread()):
            self._watchdog.join(timeout=5)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _work(self, work: Callable[[], T]) -> Invoke[T]:
        async def awaitable() -> T:
            return await asyncio.wrap_future(self._threads.submit(work))

        return Invoke(work, awaitable)

    def _take(self, request: LockRequest, turn: Turn, until: float) -> HeldLock:
        session = self._sessions.main()
        call = try_lock(request.name, request.ttl, request.owner)
        sent_at = time.monotonic()
        grant = ask(session, call, request.name)
        if not grant.acquired and until > time.monotonic():
            sent_at, grant, session = self._sessions.wait(request, until, grant)
        if not grant.acquired or grant.token is None or grant.expires_at is None:
            raise LockHeld(
                request.name,
                holder=grant.holder,
                acquired_at=grant.acquired_at,
                expires_at=grant.expires_at,
                waited=request.wait,
            )
        # Reckoned from before the request was sent: early rather than late.
        deadline = sent_at + (grant.waited + request.ttl).total_seconds()
        held = HeldLock(request, grant.token, grant.expires_at, deadline, session, turn)
        self._watch(held)
        return held

    async def _take_async(self, request: LockRequest, turn: Turn, until: float) -> HeldLock:
        taking = self._threads.submit(self._take, request, turn, until)
        try:
            return await asyncio.shield(asyncio.wrap_future(taking))
        except asyncio.CancelledError:
            # The thread cannot be stopped; what it is granted must not stay behind.
            taking.add_done_callback(self._give_back)
            raise

    def _give_back(self, taking: Future[HeldLock]) -> None:
        if not taking.cancelled() and taking.exception() is None:
            self._release(taking.result())

    def _release(self, held: HeldLock) -> bool:
        if not held.end():
            return False
        self._forget(held)
        try:
            return held.session.run(unlock(held.name, held.token))
        except OutcomeUnknown:
            return False
        finally:
            self._sessions.give_back(held.session)
            self._turns.leave(held.turn)

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
        with self._changed:
            self._changed.notify_all()

    def _lose(self, held: HeldLock, reason: str) -> None:
        if not held.end(lost_because=reason):
            return
        logger.warning("lock %r (token %s) was lost: %s", held.name, held.token, reason)
        self._forget(held)
        try:
            if held.session.alive:
                held.session.run(unlock(held.name, held.token))
        except PgsyncError as error:
            logger.warning("lock %r: the server could not be told: %s", held.name, error)
        finally:
            self._sessions.give_back(held.session)
            self._turns.leave(held.turn)

    def _session_ended(self, session: LockSession, reason: str) -> None:
        with self._changed:
            lost = [held for held in self._held.values() if held.session is session]
        for held in lost:
            self._lose(held, reason)

    def _held_here(self, request: LockRequest) -> LockHeld:
        with self._changed:
            held = next((h for h in self._held.values() if h.name == request.name), None)
        return LockHeld(
            request.name,
            holder=held.request.owner if held else None,
            expires_at=held.expires_at if held else None,
            waited=request.wait,
        )

    # --- the watchdog ------------------------------------------------------------------------

    def _watch(self, held: HeldLock) -> None:
        with self._changed:
            if not self._closed:
                self._held[held.token] = held
                if self._watchdog is None:
                    self._watchdog = threading.Thread(
                        target=self._guard_deadlines, name="pgsync-lock-watchdog", daemon=True
                    )
                    self._watchdog.start()
                self._changed.notify_all()
                return
        self._release(held)
        raise LockLost(held.name, "the coordinator was closed meanwhile")

    def _forget(self, held: HeldLock) -> None:
        with self._changed:
            self._held.pop(held.token, None)

    def _guard_deadlines(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                now = time.monotonic()
                moments = [held.next_moment for held in self._held.values()]
                if not moments or min(moments) > now:
                    # Once a second, lest a session that the server ended goes unnoticed.
                    due_in = min([*(moment - now for moment in moments), _CHECK_SECONDS])
                    self._changed.wait(due_in if moments else None)
                    now = time.monotonic()
                held_now = list(self._held.values())
            for session in {held.session for held in held_now}:
                session.check()
            for held in held_now:
                self._keep(held, now)

    def _keep(self, held: HeldLock, now: float) -> None:
        try:
            if now >= held.deadline:
                self._lose(held, f"its ttl of {held.ttl.total_seconds():g} s passed")
            elif now >= held.next_moment:
                self._renew(held)
        except Exception:
            # A callback of the holder's must not end the watch over the other locks.
            logger.exception("lock %r: the watchdog met an error", held.name)
