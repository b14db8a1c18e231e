"""Running a call inside the caller's own transaction, whatever they hold it with.

Understood are psycopg connections and, without importing it, SQLAlchemy's ``Session``,
``Connection``, ``AsyncSession`` and ``AsyncConnection`` over the psycopg driver.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any, TypeVar, overload

import psycopg
from psycopg import pq

from pgsync.database.calls import Call, Copy
from pgsync.database.pool import execute, execute_async
from pgsync.errors import InvalidArgument

__all__ = ["run_within", "run_within_async", "together_within", "together_within_async"]

T = TypeVar("T")


@overload
def run_within(target: Any, call: Call[T], *, lasting: bool = False) -> T: ...
@overload
def run_within(target: Any, call: Copy, *, lasting: bool = False) -> None: ...
def run_within(target: Any, call: Call[T] | Copy, *, lasting: bool = False) -> T | None:
    """Run a call in the transaction of ``target``; commit and rollback stay the caller's.

    ``lasting`` says that it is worth nothing unless that transaction goes on after it.

    Raises:
        InvalidArgument: if ``target`` is no connection or session that can carry it.
    """
    driver, holder = _driver_of(target)
    _refuse_autocommit(driver, lasting)
    if holder is not None and not holder.in_transaction():
        holder.begin()  # As its own execute() does; else its commit() would do nothing.
    return execute(driver, call)


@contextmanager
def together_within(target: Any) -> Iterator[None]:
    """Have calls within ``target`` be of one transaction: of a new one where it is in none and
    each would commit by itself.
    """
    driver, _ = _driver_of(target)
    with driver.transaction() if _commits_each(driver) else nullcontext():
        yield


def _driver_of(target: Any) -> tuple[psycopg.Connection[Any], Any]:
    """The psycopg connection of ``target``, and SQLAlchemy's connection where that holds it."""
    if isinstance(target, psycopg.Connection):
        return target, None
    connection = target
    if callable(getattr(connection, "connection", None)):  # Session -> Connection
        connection = connection.connection()
    pooled = getattr(connection, "connection", None)  # Connection -> the DBAPI connection's proxy
    driver = getattr(pooled, "driver_connection", None)
    if isinstance(driver, psycopg.Connection):
        return driver, connection
    raise _unsupported(target, driver)


@overload
async def run_within_async(target: Any, call: Call[T], *, lasting: bool = False) -> T: ...
@overload
async def run_within_async(target: Any, call: Copy, *, lasting: bool = False) -> None: ...
async def run_within_async(target: Any, call: Call[T] | Copy, *, lasting: bool = False) -> T | None:
    """As :func:`run_within`, for the asyncio kinds of connections and sessions."""
    driver, holder = await _driver_of_async(target)
    _refuse_autocommit(driver, lasting)
    if holder is not None and not holder.in_transaction():
        await holder.begin()
    return await execute_async(driver, call)


@asynccontextmanager
async def together_within_async(target: Any) -> AsyncIterator[None]:
    """As :func:`together_within`."""
    driver, _ = await _driver_of_async(target)
    async with driver.transaction() if _commits_each(driver) else nullcontext():
        yield


async def _driver_of_async(target: Any) -> tuple[psycopg.AsyncConnection[Any], Any]:
    if isinstance(target, psycopg.AsyncConnection):
        return target, None
    connection = target
    # The attribute ``connection`` of an AsyncConnection raises, so that is asked of others only.
    if not hasattr(target, "get_raw_connection") and callable(getattr(target, "connection", None)):
        connection = await target.connection()  # AsyncSession -> AsyncConnection
    if not callable(getattr(connection, "get_raw_connection", None)):
        raise _unsupported(target, None)
    driver = getattr(await connection.get_raw_connection(), "driver_connection", None)
    if isinstance(driver, psycopg.AsyncConnection):
        return driver, connection
    raise _unsupported(target, driver)


def _refuse_autocommit(
    connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], lasting: bool
) -> None:
    if lasting and _commits_each(connection):
        raise InvalidArgument(
            "this connection is in autocommit mode and in no transaction, so the call would end "
            "with its own statement: begin a transaction first (with connection.transaction())"
        )


def _commits_each(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    idle = connection.info.transaction_status == pq.TransactionStatus.IDLE
    return connection.autocommit and idle


def _unsupported(target: Any, driver: Any) -> InvalidArgument:
    kind = type(target).__module__ + "." + type(target).__qualname__
    if driver is not None:
        return InvalidArgument(
            f"{kind} runs on the driver {type(driver).__module__}; use the psycopg driver "
            "(postgresql+psycopg://), or call the SQL function yourself"
        )
    return InvalidArgument(
        f"{kind} cannot carry the call: pass a psycopg connection, or a SQLAlchemy session or "
        "connection of this face (blocking or asyncio)"
    )
