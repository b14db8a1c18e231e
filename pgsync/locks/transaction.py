"""Locks that end with the caller's transaction: right behind a transaction pooler too."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from pgsync.database.calls import Call
from pgsync.database.within import run_within, run_within_async
from pgsync.durations import Duration, to_timedelta
from pgsync.errors import InvalidArgument, LockHeld
from pgsync.locks.calls import Grant, lock_transaction
from pgsync.locks.naming import check_name
from pgsync.naming import name_maker
from pgsync.scopes import AsyncScope, Scope

__all__ = ["AsyncTransactionLock", "TransactionLock"]


class _TransactionFace:
    """``connection`` may be the name of a decorated function's parameter that holds it."""

    def __init__(self, connection: Any, name: str, wait: Duration, shared: bool) -> None:
        self.name = check_name(name)
        self._connection = connection
        self._patience: timedelta = to_timedelta(wait, "wait", zero=True)
        self._mode = "shared" if shared else "exclusive"

    def _call(self) -> Call[Grant]:
        return lock_transaction(self.name, self._patience, self._mode)

    def _scope_maker(self, function: Callable[..., Any]) -> Callable[..., Any]:
        signature, name_for = (
            inspect.signature(function),
            name_maker(self.name, function, "the lock's name"),
        )
        parameter = self._connection
        if not isinstance(parameter, str) or parameter not in signature.parameters:
            raise InvalidArgument(
                f"decorate {function.__qualname__} with the name of its parameter that holds the "
                "connection or session: transaction_lock('session', 'report:{day}')"
            )

        def scope_for(*args: Any, **kwargs: Any) -> Any:
            connection = signature.bind(*args, **kwargs).arguments[parameter]
            shared = self._mode == "shared"
            return type(self)(connection, name_for(*args, **kwargs), self._patience, shared)

        return scope_for

    def _read(self, grant: Grant) -> None:
        if not grant.acquired:
            raise LockHeld(
                self.name,
                holder=grant.holder,
                acquired_at=grant.acquired_at,
                expires_at=grant.expires_at,
                waited=self._patience.total_seconds(),
            )


class TransactionLock(_TransactionFace, Scope):
    """A lock on the caller's connection, for ``with``. Made by ``Coordinator.transaction_lock``.

    It is held from ``with`` to the end of the transaction, which may come after that of the block:
    PostgreSQL releases it, and nothing else does.
    """

    def _begin(self) -> None:
        self.acquire()

    def _end(self) -> None:
        """Leave the lock to the transaction."""

    def acquire(self) -> None:
        """Take the lock in the connection's transaction.

        Raises:
            LockHeld: if somebody else has it still; the transaction goes on.
        """
        self._read(run_within(self._connection, self._call(), lasting=True))


class AsyncTransactionLock(_TransactionFace, AsyncScope):
    """As :class:`TransactionLock`, for ``async with``."""

    async def _begin(self) -> None:
        await self.acquire()

    async def _end(self) -> None:
        """Leave the lock to the transaction."""

    async def acquire(self) -> None:
        """As :meth:`TransactionLock.acquire`."""
        self._read(await run_within_async(self._connection, self._call(), lasting=True))
