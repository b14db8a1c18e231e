"""A lock session: a connection of its own, whose life is the life of the locks that it carries."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, LiteralString, TypeVar, overload

import psycopg
from psycopg import errors as pg
from psycopg.rows import tuple_row

from pgsync.database.calls import Call, Listing, Prepared
from pgsync.database.dsn import has_ended
from pgsync.database.faults import translated
from pgsync.database.forks import leave_connection
from pgsync.database.prepared import PreparedStatements
from pgsync.database.session import hang_up, open_session
from pgsync.errors import OutcomeUnknown, PgsyncError
from pgsync.locks.calls import Grant, abandon_lock, acquire_lock, release_lock
from pgsync.locks.held import LockRequest
from pgsync.locks.usual import acquire_usual_lock, is_usual, release_usual_lock

__all__ = ["LockSession"]

T = TypeVar("T")

_PATIENCE = 10.0

# It is pgsync's alone, so pgsync decides. A waiter whose client was killed must leave the server's
# queue. A commit need not reach the disk: a crash drops the locks, and the tokens leap after one.
_SETTINGS: LiteralString = (
    "SELECT set_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false),"
    " set_config('client_connection_check_interval', '5s', false),"
    " set_config('synchronous_commit', 'off', false), set_config('timezone', 'UTC', false),"
    " set_config('pgsync.host', %s, false)"
)


class LockSession:
    """A dedicated connection; calls from many threads take turns on it.

    ``on_end`` is called once with a reason when the session has ended other than by ``close``:
    every lock that it carried is lost then, and the session never comes back to life.
    """

    def __init__(self, dsn: str, on_end: Callable[[LockSession, str], None]) -> None:
        self._on_end = on_end
        self._turn = threading.Lock()
        self._from_outside = threading.RLock()
        self._ended = False
        self._connection = open_session(dsn, "pgsync locks")
        self._connection.execute(_SETTINGS, [socket.gethostname()])
        self._cursor = self._connection.cursor(row_factory=tuple_row)
        self._statements = PreparedStatements(self._connection)

    @property
    def alive(self) -> bool:
        """Whether the session is not known to have ended."""
        return not self._ended

    @overload
    def run(self, call: Call[T]) -> T: ...
    @overload
    def run(self, call: Listing[T]) -> list[T]: ...
    def run(self, call: Call[T] | Listing[T]) -> T | list[T]:
        """Run a call in this session, in a transaction of its own.

        Raises:
            OutcomeUnknown: if the session ended before the answer came.
        """
        try:
            with self._turn, translated():
                self._cursor.execute(call.statement, call.parameters, prepare=True)
                rows: list[Any] = self._cursor.fetchall()
        except OutcomeUnknown:
            self._end()
            raise
        if isinstance(call, Listing):
            return [call.read(row) for row in rows]
        return call.read(rows[0])

    def ask(self, prepared: Prepared[T]) -> T | None:
        """As :meth:`run`, in less time; None where the server refused it: ask by a call then."""
        try:
            with self._turn:
                try:
                    return self._statements.ask(prepared)
                except (PgsyncError, psycopg.Error):
                    raise
                except BaseException:
                    # Ctrl-C, or what a signal's handler raised: the session goes on.
                    self._connection.cancel_safe(timeout=5.0)
                    self._statements.forgo(prepared)
                    raise
        except OutcomeUnknown:
            self._end()
            raise

    def try_lock(self, request: LockRequest) -> Grant:
        """Take a lock, or learn who has it. Whose call ends without an answer must abandon it."""
        if is_usual(request):
            grant = self.ask(acquire_usual_lock(request))
            if grant is not None:
                return grant
            self.abandon(request.name)
        return self.run(acquire_lock(request))

    def release(self, token: int) -> bool:
        """Release a lock; False where the session does not hold it."""
        released = self.ask(release_usual_lock(token))
        return self.run(release_lock(token)) if released is None else released

    def wait_usually(self, request: LockRequest, patience: timedelta) -> Grant | None:
        """As :meth:`wait`, in less time; None where it was refused or cancelled."""
        if not is_usual(request):
            return None
        try:
            grant = self.ask(acquire_usual_lock(request, patience))
        except OutcomeUnknown:
            raise
        except BaseException:
            self.abandon(request.name)
            raise
        if grant is None:
            self.abandon(request.name)
        return grant

    def wait(self, request: LockRequest, patience: timedelta, *, resumed: bool) -> Grant:
        """Wait for a lock in the server's queue, for at most ``patience``.

        Nothing is left behind where it ends without an answer (Ctrl-C, cancel, timeout).
        """
        try:
            return self.run(acquire_lock(request, patience, resumed=resumed))
        except OutcomeUnknown:
            raise
        except BaseException:
            # An interrupted call may have been granted after all.
            self.abandon(request.name)
            raise

    def interrupt(self) -> None:
        """End the statement that another thread waits for on this session."""
        with self._from_outside, suppress(psycopg.Error):
            if not self._ended:
                self._connection.cancel_safe(timeout=5.0)

    def abandon(self, name: str) -> None:
        """Release what the session holds under the name, if it does, after an interruption."""
        for _ in range(3):
            try:
                self.run(abandon_lock(name))
            except pg.QueryCanceled:
                continue  # A cancel that was sent for the call before may come late.
            except PgsyncError:
                return
            return

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
        """End the session, and with it every lock that it carries.

        Who waits on it in another thread gets an error. libpq crashes the process where one thread
        frees a connection that another works on, so the line is cut first, and freed after.
        """
        with self._from_outside:
            self._ended = True
            if not self._turn.acquire(blocking=False):
                hang_up(self._connection)
                if not self._turn.acquire(timeout=_PATIENCE):
                    return  # It is freed with the thread that holds on to it.
            try:
                self._connection.close()
            finally:
                self._turn.release()

    def leave_to_parent(self) -> None:
        """In a forked child: the session is the parent's, and stays as it is."""
        self._ended = True
        self._turn = threading.Lock()
        self._from_outside = threading.RLock()
        leave_connection(self._connection)

    def _end(self) -> None:
        with self._from_outside:
            if self._ended:
                return
            self.close()
        self._on_end(self, "its database session ended")
