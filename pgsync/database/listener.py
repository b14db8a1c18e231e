"""A connection of its own that waits for notifications, and proves now and then that it hears."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import sql

from pgsync.database.session import open_session_async
from pgsync.errors import PgsyncError
from pgsync.pauses import Pauses

__all__ = ["listen"]

logger = logging.getLogger("pgsync.listener")

_PROOF_EVERY = 30.0
_PROOF_WITHIN = 5.0


async def listen(
    dsn: str,
    channel: str,
    heard: Callable[[str], None],
    listening: Callable[[bool], None] = lambda _listening: None,
    *,
    proof_every: float = _PROOF_EVERY,
    proof_within: float = _PROOF_WITHIN,
) -> None:
    """Call ``heard`` with the payload of each notification, for ever; reconnects with backoff.

    A quiet connection may be deaf: cut somewhere on the way, or no longer listening. So where none
    has come for ``proof_every`` seconds it notifies itself, and is replaced when that does not
    arrive within ``proof_within``.

    Notifications may be lost while it reconnects: ``heard("")`` is called after each connect, and
    who listens polls as well. ``listening`` is told when it begins to hear, and when it is cut off.
    """
    pauses = Pauses(0.1, 3.0)
    while True:
        try:
            async with await open_session_async(dsn, "pgsync listener") as connection:
                line = _Line(connection, channel, heard)
                await line.open()
                pauses.reset()
                listening(True)
                heard("")
                while True:
                    await line.hear(proof_every)
                    await line.prove(proof_within)
        except TimeoutError:
            listening(False)
            logger.warning("the listener on %s was deaf; opening another", channel)
        except (psycopg.Error, OSError, PgsyncError):
            listening(False)
            await asyncio.sleep(next(pauses))


class _Line:
    """One session that listens, to its channel and to one of its own."""

    def __init__(
        self, connection: psycopg.AsyncConnection[Any], channel: str, heard: Callable[[str], None]
    ) -> None:
        self._connection = connection
        self._channel = channel
        self._heard = heard
        self._encoding = connection.info.encoding
        self._own = f"pgsync_proof_{connection.info.backend_pid}"
        self._proven = False
        # Of what comes together with an answer.
        connection.add_notify_handler(lambda word: self._pass_on(word.channel, word.payload))

    async def open(self) -> None:
        for channel in (self._channel, self._own):
            await self._connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))

    async def hear(self, seconds: float, *, until_proven: bool = False) -> None:
        """Pass on what comes in so many seconds, or until it is proven that it hears.

        It is read in a callback of the loop: a turn sooner than by a task that is woken, and
        without the timer at which psycopg's ``notifies()`` looks up ten times a second.
        """
        loop, line = asyncio.get_running_loop(), self._connection.pgconn
        descriptor = line.socket
        ended: asyncio.Future[None] = loop.create_future()

        def read() -> None:
            try:
                line.consume_input()
                while word := line.notifies():
                    self._pass_on(
                        word.relname.decode(self._encoding), word.extra.decode(self._encoding)
                    )
            except Exception as error:  # noqa: BLE001 - it is of whoever hears
                loop.remove_reader(descriptor)  # Closed by now, and perhaps another's in a moment.
                if not ended.done():
                    ended.set_exception(error)
            if until_proven and self._proven and not ended.done():
                ended.set_result(None)

        loop.add_reader(descriptor, read)
        try:
            read()  # What was received already.
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await ended
        finally:
            loop.remove_reader(descriptor)

    async def prove(self, seconds: float) -> None:
        """Return if it hears itself; raises TimeoutError where it is deaf."""
        self._proven = False
        async with asyncio.timeout(seconds):
            await self._connection.execute("SELECT pg_notify(%s, '')", [self._own])
        await self.hear(seconds, until_proven=True)
        if not self._proven:
            raise TimeoutError

    def _pass_on(self, channel: str, payload: str) -> None:
        if channel == self._own:
            self._proven = True
        elif channel == self._channel:
            self._heard(payload)
