"""Locks that end with the caller's transaction: right behind a transaction pooler too."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from datetime import timedelta
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from pgsync.database.calls import Call
from pgsync.database.within import run_within, run_within_async
from pgsync.durations import Duration, to_timedelta
from pgsync.errors import InvalidArgument, LockHeld
from pgsync.locks.calls import Grant, lock_transaction
from pgsync.locks.naming import check_name, name_maker

__all__ = ["AsyncTransactionLock", "TransactionLock"]

P = ParamSpec("P")
R = TypeVar("R")


class _TransactionFace:
    """``connection`` may be the name of a decorated function's parameter that holds it."""

    def __init__(self, connection: Any, name: str, wait: Duration, shared: bool) -> None:
        self.name = check_name(name)
        self._connection = connection
        self._patience: timedelta = to_timedelta(wait, "wait", zero=True)
        self._mode = "shared" if shared else "exclusive"

    def _call(self) -> Call[Grant]:
        return lock_transaction(self.name, self._patience, self._mode)

    def _binder(self, function: Callable[..., Any]) -> Callable[..., tuple[Any, str]]:
        """What finds the connection and makes the name for a call of the function."""
        signature, name_for = inspect.signature(function), name_maker(self.name, function)
        parameter = self._connection
        if not isinstance(parameter, str) or parameter not in signature.parameters:
            raise InvalidArgument(
                f"decorate {function.__qualname__} with the name of its parameter that holds the "
                "connection or session: transaction_lock('session', 'report:{day}')"
            )
        return lambda *args, **kwargs: (
            signature.bind(*args, **kwargs).arguments[parameter],
            name_for(*args, **kwargs),
        )

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

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function: each call takes the lock in the transaction that it is given.

        ``connection`` must then be the name of the parameter that holds it.
        """
        bind = self._binder(function)

        @functools.wraps(function)
        def locked(*args: P.args, **kwargs: P.kwargs) -> R:
            connection, name = bind(*args, **kwargs)
            wait, shared = self._patience, self._mode == "shared"
            with TransactionLock(connection, name, wait, shared):
                return function(*args, **kwargs)

        return locked

    def acquire(self) -> None:
        """Take the lock in the connection's transaction.

        Raises:
            LockHeld: if somebody else has it still; the transaction goes on.
        """
        self._read(run_within(self._connection, self._call(), lasting=True))


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

    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]]
    ) -> Callable[P, Coroutine[Any, Any, R]]:
        """As :meth:`TransactionLock.__call__`, for a coroutine."""
        bind = self._binder(function)

        @functools.wraps(function)
        async def locked(*args: P.args, **kwargs: P.kwargs) -> R:
            connection, name = bind(*args, **kwargs)
            wait, shared = self._patience, self._mode == "shared"
            async with AsyncTransactionLock(connection, name, wait, shared):
                return await function(*args, **kwargs)

        return locked

    async def acquire(self) -> None:
        """As :meth:`TransactionLock.acquire`."""
        self._read(await run_within_async(self._connection, self._call(), lasting=True))
