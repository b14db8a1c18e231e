"""Making a transaction depend on an operation's lock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from pgsync.errors import LockLost
from pgsync.operations import OperationRun

__all__ = ["guarded"]

_ASSERT = text("SELECT pgsync.assert_lock(:name, :token)")
_LOST = "PS001"


@contextmanager
def guarded(sessions: sessionmaker[Session], op: OperationRun) -> Iterator[Session]:
    """A transaction that commits only under the operation's lock; the next holder waits for it.

    Raises:
        LockLost: if it holds it no more.
    """
    op.check()
    with sessions.begin() as session:
        try:
            session.execute(_ASSERT, {"name": op.key, "token": op.token})
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != _LOST:
                raise
            raise LockLost(op.key, "its token is no longer the holder's") from error
        yield session
