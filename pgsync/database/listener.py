"""A connection of its own that waits for notifications."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import sql

from pgsync.database.dsn import connection_parameters

__all__ = ["connect_async", "listen"]

_LONGEST_PAUSE = 10.0


async def connect_async(
    dsn: str, application_name: str
) -> psycopg.AsyncConnection[tuple[Any, ...]]:
    """Open an autocommit connection of one's own, for asyncio."""
    parameters = connection_parameters(dsn, application_name)
    return await psycopg.AsyncConnection.connect(**parameters, autocommit=True)


async def listen(dsn: str, channel: str, heard: Callable[[str], None]) -> None:
    """Call ``heard`` with the payload of each notification, for ever; reconnects with backoff.

    Notifications may be lost while it reconnects: ``heard("")`` is called after each connect, and
    who listens polls as well.
    """
    pause = 0.1
    while True:
        try:
            async with await connect_async(dsn, "pgsync listener") as connection:
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                pause = 0.1
                heard("")
                async for notification in connection.notifies():
                    heard(notification.payload)
        except (psycopg.Error, OSError):
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            pause = min(pause * 2, _LONGEST_PAUSE)
