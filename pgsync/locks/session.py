"""Lock sessions: connections of their own, whose life is the life of the locks that they carry.

One session carries every lock that is granted at once. A lock that has to be waited for is taken,
and then held, on a session of its own out of a bounded set: a session that waits can do nothing
else, and a lock cannot move between sessions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import TypeVar

from pgsync.database.calls import Call
from pgsync.database.dsn import connect, has_ended
from pgsync.database.pool import execute
from pgsync.errors import OutcomeUnknown, PgsyncError
from pgsync.locks.calls import Grant, abandon_lock, wait_lock
from pgsync.locks.held import LockRequest

__all__ = ["WAITING_SESSIONS", "LockSession", "Sessions", "abandon", "ask"]

T = TypeVar("T")

WAITING_SESSIONS = 8
"""How many locks a process may wait for, or hold after having waited, each on its own session."""

# A blocked statement holds back vacuum and can deadlock CREATE INDEX CONCURRENTLY.
_SLICE = timedelta(seconds=1)


class LockSession:
    """A dedicated connection; calls from many threads take turns on it.

    ``on_end`` is called once with a reason when the session has ended other than by ``close``:
    every lock that it carried is lost then, and the session never comes back to life.
    """

    def __init__(self, dsn: str, on_end: Callable[[LockSession, str], None]) -> None:
        self._on_end = on_end
        self._turn = threading.Lock()
        self._ended = False
        self._connection = connect(dsn, "pgsync locks")
        # It may idle for long, and a waiter whose client was killed must leave the server's queue.
        self._connection.execute(
            "SELECT set_config('idle_session_timeout', '0', false),"
            " set_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false),"
            " set_config('client_connection_check_interval', '5s', false)"
        )

    @property
    def alive(self) -> bool:
        """Whether the session is not known to have ended."""
        return not self._ended

    def run(self, call: Call[T]) -> T:
        """Run a call in this session, in a transaction of its own.

        Raises:
            OutcomeUnknown: if the session ended before the answer came.
        """
        try:
            with self._turn:
                return execute(self._connection, call)
        except OutcomeUnknown:
            self._end()
            raise

    def check(self) -> bool:
        """Look, without asking the server, whether it has ended this session."""
        if self._turn.acquire(blocking=False):
            try:
                ended = has_ended(self._connection)
            finally:
                self._turn.release()
            if ended:
                self._end()
        return self.alive

    def close(self) -> None:
        """End the session, and with it every lock that it carries."""
        self._ended = True
        self._connection.close()

    def _end(self) -> None:
        if not self._ended:
            self.close()
            self._on_end(self, "its database session ended")


def ask(session: LockSession, call: Call[Grant], name: str) -> Grant:
    """Run a try, and undo it where it ends without an answer (Ctrl-C, cancel, timeout)."""
    try:
        return session.run(call)
    except OutcomeUnknown:
        raise
    except BaseException:
        # An interrupted try may have been granted after all.
        abandon(session, name)
        raise


def abandon(session: LockSession, name: str) -> None:
    """Release what the session holds under the name, if it does, after an interruption."""
    with suppress(PgsyncError):
        session.run(abandon_lock(name))


class Sessions:
    """The main session, opened at first use and again after it ended, and those that wait."""

    def __init__(
        self,
        dsn: str,
        on_end: Callable[[LockSession, str], None],
        prepare: Callable[[], None] | None,
    ) -> None:
        self._dsn = dsn
        self._on_end = on_end
        self._prepare = prepare
        self._mutex = threading.Lock()
        self._main: LockSession | None = None
        self._idle: list[LockSession] = []
        self._busy: set[LockSession] = set()
        self._room = threading.BoundedSemaphore(WAITING_SESSIONS)
        self._closed = False

    def main(self) -> LockSession:
        """The session that carries the locks which are granted at once."""
        with self._mutex:
            self._refuse_closed()
            if self._main is None or not self._main.alive:
                if self._main is None and self._prepare is not None:
                    self._prepare()
                self._main = LockSession(self._dsn, self._on_end)
            return self._main

    def wait(
        self, request: LockRequest, until: float, refusal: Grant
    ) -> tuple[float, Grant, LockSession]:
        """Wait for a lock until ``until`` (monotonic), in slices.

        Returns when the granted request was sent, the last answer, and the session that holds the
        lock if it was granted. Where all waiting sessions are taken it waits for one of those.
        """
        session = self._borrow(until)
        if session is None:
            return time.monotonic(), refusal, self.main()
        grant = refusal
        try:
            while not grant.acquired and time.monotonic() < until:
                sent_at = time.monotonic()
                patience = min(_SLICE, timedelta(seconds=max(0.0, until - sent_at)))
                call = wait_lock(request.name, request.ttl, request.owner, patience)
                grant = ask(session, call, request.name)
        finally:
            if not grant.acquired:
                self.give_back(session)
        return sent_at, grant, session

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
            for session in (self._main, *self._idle, *self._busy):
                if session is not None:
                    session.close()
            self._idle.clear()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise PgsyncError("the coordinator has been closed")

    def _borrow(self, until: float) -> LockSession | None:
        if not self._room.acquire(timeout=max(0.0, until - time.monotonic())):
            return None
        try:
            with self._mutex:
                self._refuse_closed()
                while self._idle:
                    session = self._idle.pop()
                    if session.alive:
                        break
                else:
                    session = LockSession(self._dsn, self._on_end)
                self._busy.add(session)
                return session
        except BaseException:
            self._room.release()
            raise
