"""A connection of its own that waits for notifications."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import psycopg
from psycopg import sql

from pgsync.database.session import open_session_async
from pgsync.errors import ConnectionFailed, OutcomeUnknown, PoolerDetected

__all__ = ["listen"]

_LONGEST_PAUSE = 10.0


async def listen(dsn: str, channel: str, heard: Callable[[str], None]) -> None:
    """Call ``heard`` with the payload of each notification, for ever; reconnects with backoff.

    Notifications may be lost while it reconnects: ``heard("")`` is called after each connect, and
    who listens polls as well.
    """
    pause = 0.1
    while True:
        try:
            async with await open_session_async(dsn, "pgsync listener") as connection:
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                pause = 0.1
                heard("")
                async for notification in connection.notifies():
                    heard(notification.payload)
        except (psycopg.Error, OSError, ConnectionFailed, OutcomeUnknown, PoolerDetected):
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            pause = min(pause * 2, _LONGEST_PAUSE)
