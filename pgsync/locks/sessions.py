"""The lock sessions of one process: the main one, and those that wait.

The main session carries every lock that is granted at once. A lock that has to be waited for is
taken, and then held, on a session of its own out of a bounded set: a session that waits can do
nothing else, and a lock cannot move between sessions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta

from psycopg import errors as pg

from pgsync.errors import coordinator_closed
from pgsync.locks.calls import Grant
from pgsync.locks.exchange import Exchange
from pgsync.locks.held import LockRequest
from pgsync.locks.session import LockSession

__all__ = ["WAITING_SESSIONS", "Sessions", "Wait"]

WAITING_SESSIONS = 8
"""How many locks a process may wait for, or hold after having waited, each on its own session."""

# A blocked statement holds back vacuum and can deadlock CREATE INDEX CONCURRENTLY.
_SLICE = 1.0
# Without a waiting session there is no place in the server's queue: one looks again and again.
_LOOK_AGAIN = 0.1


class Wait:
    """One wait for a lock, which another thread may end."""

    def __init__(self, request: LockRequest, until: float) -> None:
        self.request = request
        self.until = until
        self._mutex = threading.Lock()
        self._session: LockSession | None = None
        self.cancelled = False

    @property
    def left(self) -> float:
        """Seconds that are left of it; none once it was cancelled."""
        return 0.0 if self.cancelled else max(0.0, self.until - time.monotonic())

    @property
    def _slice(self) -> timedelta:
        return timedelta(seconds=min(_SLICE, self.left))

    def cancel(self) -> None:
        """End the wait, wherever it is."""
        with self._mutex:
            self.cancelled = True
            if self._session is not None:
                self._session.interrupt()

    def on(self, session: LockSession) -> tuple[float, Grant | None]:
        """Wait in the server's queue, in slices; returns when the last was sent, and its answer."""
        with self._mutex:
            self._session = session
        grant: Grant | None = None
        sent_at = time.monotonic()
        try:
            # Only the first slice goes the usual way: what that is refused, a cancel for one, is
            # not asked for in it again.
            if self.left > 0:
                grant = session.wait_usually(self.request, self._slice)
            while self.left > 0 and not (grant and grant.acquired):
                sent_at = time.monotonic()
                grant = session.wait(self.request, self._slice, resumed=grant is not None)
        except pg.QueryCanceled:
            if not self.cancelled:
                raise
        finally:
            with self._mutex:
                self._session = None
        return sent_at, grant


class Sessions:
    """The main session, opened at first use and again after it ended, and those that wait.

    ``prepare`` is called before the first session is opened.
    """

    def __init__(
        self,
        dsn: str,
        on_end: Callable[[LockSession, str], None],
        prepare: Callable[[], None] | None,
    ) -> None:
        self._dsn = dsn
        self._on_end = on_end
        self._prepare = prepare
        self._opening = threading.Lock()
        self._mutex = threading.Lock()
        self._main: Exchange | None = None
        self._idle: list[LockSession] = []
        self._busy: set[LockSession] = set()
        self._room = threading.BoundedSemaphore(WAITING_SESSIONS)
        self._closed = False

    def main(self) -> Exchange:
        """The session that carries the locks which are granted at once."""
        main = self._main
        if main is not None and main.session.alive and not self._closed:
            return main
        with self._opening:
            self._refuse_closed()
            if self._main is None or not self._main.session.alive:
                if self._main is None and self._prepare is not None:
                    self._prepare()
                self._main = Exchange(self._admit(LockSession(self._dsn, self._on_end)))
            return self._main

    def exchange_of(self, session: LockSession) -> Exchange | None:
        """The exchange of the main session, if this is it."""
        main = self._main
        return main if main is not None and main.session is session else None

    def wait(self, wait: Wait) -> tuple[float, Grant | None, LockSession]:
        """Wait for a lock on a session of its own, which holds it then.

        Returns when the granted request was sent, the last answer (None where there was none), and
        the session.
        """
        session = None
        while session is None:
            session = self._borrow(min(wait.left, _LOOK_AGAIN))
            if session is None:
                main = self.main()
                sent_at, (grant,) = main.try_locks([wait.request])
                if grant.acquired or not wait.left:
                    return sent_at, grant, main.session
        answer: Grant | None = None
        try:
            sent_at, answer = wait.on(session)
        finally:
            if answer is None or not answer.acquired:
                self.give_back(session)
        return sent_at, answer, session

    def give_back(self, session: LockSession) -> None:
        """Return a session whose lock was released; the main one stays where it is."""
        with self._mutex:
            if session not in self._busy:
                return
            self._busy.remove(session)
            if session.alive:
                self._idle.append(session)
        self._room.release()

    def close(self) -> None:
        """End all sessions, for good."""
        with self._mutex:
            self._closed = True
            for session in self._all():
                session.close()
            self._idle.clear()

    def leave_to_parent(self) -> None:
        """In a forked child: leave every session as it is."""
        for session in self._all():
            session.leave_to_parent()

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def _all(self) -> list[LockSession]:
        main = [self._main.session] if self._main is not None else []
        return [*main, *self._idle, *self._busy]

    def _refuse_closed(self) -> None:
        if self._closed:
            raise coordinator_closed()

    def _borrow(self, seconds: float) -> LockSession | None:
        if not self._room.acquire(timeout=seconds):
            return None
        try:
            session = self._rested() or LockSession(self._dsn, self._on_end)
            with self._mutex:
                self._busy.add(session)
            return self._admit(session)
        except BaseException:
            self._room.release()
            raise

    def _rested(self) -> LockSession | None:
        with self._mutex:
            while self._idle:
                session = self._idle.pop()
                if session.alive:
                    return session
        return None

    def _admit(self, session: LockSession) -> LockSession:
        """Connecting takes its time: the coordinator may have been closed meanwhile."""
        if self._closed:
            session.close()
        self._refuse_closed()
        return session
