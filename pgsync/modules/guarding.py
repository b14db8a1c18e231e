"""Whether an operation may go on, and making a transaction depend on its lock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from pgsync.errors import LockLost, PgsyncError
from pgsync.operations import OperationRun
from pgsync.queues import current_job

__all__ = ["check", "guarded"]

_ASSERT = text("""
SELECT pgsync.assert_lock(:name, :token), set_config('lock_timeout', :patience, true)
""")
_LOST, _TOO_LONG = "PS001", "55P03"
_PATIENCE = 60


def check(op: OperationRun) -> None:
    """Return if the operation may go on; no round trip.

    Raises:
        LockLost: if its lock is lost.
        CancelJob: if a worker runs it, and somebody asked that it be cancelled.
        ReleaseJob: if that worker stops; another one begins it again.
    """
    op.check()
    if (job := current_job()) is not None:
        job.check()


@contextmanager
def guarded(sessions: sessionmaker[Session], op: OperationRun) -> Iterator[Session]:
    """A transaction that commits only under the operation's lock; the next holder waits for it.

    It does not begin where the operation may not go on; see :func:`check`. For rows that others
    have locked it waits for 60 seconds.

    Raises:
        LockLost: if it holds the lock no more.
        PgsyncError: if others have kept rows locked for so long.
    """
    check(op)
    with sessions.begin() as session:
        try:
            given = {"name": op.key, "token": op.token, "patience": f"{_PATIENCE}s"}
            session.execute(_ASSERT, given)
            yield session
        except (DBAPIError, psycopg.Error) as error:
            state = getattr(getattr(error, "orig", error), "sqlstate", None)
            if state == _LOST:
                raise LockLost(op.key, "its token is no longer the holder's") from error
            if state == _TOO_LONG:
                raise PgsyncError(
                    f"{op.key}: others have kept rows locked for over {_PATIENCE} seconds; end "
                    "their transaction and start again, which goes on where this stopped"
                ) from error
            raise
