"""Locks that end with the caller's transaction: right behind a transaction pooler too."""

from __future__ import annotations

from datetime import timedelta
from types import TracebackType
from typing import Any

from pgsync.database.calls import Call
from pgsync.database.within import run_within, run_within_async
from pgsync.durations import Duration, to_timedelta
from pgsync.errors import LockHeld
from pgsync.locks.calls import Grant, lock_transaction
from pgsync.locks.naming import check_name

__all__ = ["AsyncTransactionLock", "TransactionLock"]


class _TransactionFace:
    def __init__(self, connection: Any, name: str, wait: Duration, shared: bool) -> None:
        self.name = check_name(name)
        self._connection = connection
        self._patience: timedelta = to_timedelta(wait, "wait", zero=True)
        self._mode = "shared" if shared else "exclusive"

    def _call(self) -> Call[Grant]:
        return lock_transaction(self.name, self._patience, self._mode)

    def _read(self, grant: Grant) -> None:
        if not grant.acquired:
            raise LockHeld(
                self.name,
                holder=grant.holder,
                acquired_at=grant.acquired_at,
                expires_at=grant.expires_at,
                waited=self._patience.total_seconds(),
            )


class TransactionLock(_TransactionFace):
    """A lock on the caller's connection, for ``with``. Made by ``Coordinator.transaction_lock``.

    It is held from ``with`` to the end of the transaction, which may come after that of the block:
    PostgreSQL releases it, and nothing else does.
    """

    def __enter__(self) -> TransactionLock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the lock to the transaction."""

    def acquire(self) -> None:
        """Take the lock in the connection's transaction.

        Raises:
            LockHeld: if somebody else has it still; the transaction goes on.
        """
        self._read(run_within(self._connection, self._call()))


class AsyncTransactionLock(_TransactionFace):
    """As :class:`TransactionLock`, for ``async with``."""

    async def __aenter__(self) -> AsyncTransactionLock:
        await self.acquire()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """As :meth:`TransactionLock.__exit__`."""

    async def acquire(self) -> None:
        """As :meth:`TransactionLock.acquire`."""
        self._read(await run_within_async(self._connection, self._call()))
