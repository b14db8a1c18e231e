"""Whether an operation may go on, and making a transaction depend on its lock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from pgsync.errors import LockLost
from pgsync.operations import OperationRun
from pgsync.queues import current_job

__all__ = ["check", "guarded"]

_ASSERT = text("SELECT pgsync.assert_lock(:name, :token)")
_LOST = "PS001"


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

    It does not begin where the operation may not go on; see :func:`check`.

    Raises:
        LockLost: if it holds the lock no more.
    """
    check(op)
    with sessions.begin() as session:
        try:
            session.execute(_ASSERT, {"name": op.key, "token": op.token})
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != _LOST:
                raise
            raise LockLost(op.key, "its token is no longer the holder's") from error
        yield session
