"""What was granted to this process: each lock from its grant to its release, handover or loss."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from pgsync.errors import LockLost, OutcomeUnknown, PgsyncError
from pgsync.locks.calls import Grant, expire_lock, hand_over_lock, renew_lock, requests_to_release
from pgsync.locks.held import HeldLock, LockRequest, ReleaseRequest
from pgsync.locks.session import LockSession
from pgsync.locks.sessions import Sessions
from pgsync.locks.watchdog import Watchdog

__all__ = ["Grants"]

logger = logging.getLogger("pgsync.locks")


class Grants:
    """The locks that the sessions of one process carry; the calling thread waits for the server.

    ``prepare`` is called before the first session is opened.
    """

    def __init__(self, dsn: str, prepare: Callable[[], None] | None) -> None:
        self.sessions = Sessions(dsn, self._session_ended, prepare)
        self._watchdog = Watchdog(self.renew, self._drop, self._look)

    def hold(
        self,
        request: LockRequest,
        leave: Callable[[], None],
        sent_at: float,
        grant: Grant,
        session: LockSession,
    ) -> HeldLock | Grant:
        """The lock that was granted, watched from now on; the answer itself where none was.

        ``leave`` is called when it has ended.

        Raises:
            LockLost: if all was closed meanwhile.
        """
        if not grant.acquired or grant.token is None or grant.expires_at is None:
            return grant
        # Reckoned from before the request was sent: early rather than late.
        deadline = sent_at + (grant.waited + request.ttl).total_seconds()
        held = HeldLock(
            request, grant.token, grant.acquired_at, grant.expires_at, deadline, session, leave
        )
        if not self._watchdog.watch(held):
            self.release(held)
            raise LockLost(held.name, "the coordinator was closed meanwhile")
        return held

    def release(self, held: HeldLock) -> bool:
        """Give the lock back; False where it was lost already."""
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
            self.sessions.give_back(held.session)
            held.leave()

    def hand_over(self, held: HeldLock) -> bool:
        """Leave the lock to whoever restores it by its token; False where it was lost."""
        try:
            if held.session.run(hand_over_lock(held.token)) is None:
                self._lose(held, "its deadline had passed when it was handed over")
                return False
        except OutcomeUnknown:
            return False
        exchange = self.sessions.exchange_of(held.session)
        if exchange is not None:
            exchange.forget(held.token)
        if held.end():
            self._watchdog.forget(held)
            self.sessions.give_back(held.session)
            held.leave()
        return True

    def renew(self, held: HeldLock) -> None:
        """Move the deadline to the lock's ttl from now, or note that it is lost."""
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

    def in_line(self, line: tuple[str, int | None]) -> HeldLock | None:
        """One that is held of this line of requests, if any is."""
        return next((held for held in self._watchdog.locks() if held.request.line == line), None)

    def close(self) -> None:
        """Release all by ending the sessions that carry them, for good."""
        held = self._watchdog.close()
        self.sessions.close()
        for lock in held:
            lock.end()
            lock.leave()

    def leave_to_parent(self) -> None:
        """In a forked child: the locks, and the sessions that carry them, are the parent's."""
        self.sessions.leave_to_parent()
        for held in self._watchdog.inherited():
            held.leave_to_parent()

    def _release_at_server(self, held: HeldLock, expired: bool = False) -> bool:
        exchange = self.sessions.exchange_of(held.session)
        if expired:
            released = held.session.run(expire_lock(held.token))
            if exchange is not None:
                exchange.forget(held.token)
            return released
        if exchange is not None:
            return exchange.release(held.token)
        return held.session.release(held.token)

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
            self.sessions.give_back(held.session)

    def _look(self, locks: list[HeldLock]) -> None:
        """Ask whether somebody asks the holders to finish, for those who want to know."""
        listening = {
            held.token: held
            for held in locks
            if held.request.on_request is not None and held.request_to_release is None
        }
        if listening and (main := self.sessions.main()).session.alive:
            for token, asked_by, why in main.session.run(requests_to_release(list(listening))):
                held = listening[token]
                held.asked_to_release(ReleaseRequest(held.name, asked_by, why))

    def _session_ended(self, session: LockSession, reason: str) -> None:
        for held in self._watchdog.locks():
            if held.session is session:
                self._lose(held, reason)
