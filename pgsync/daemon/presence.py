"""A daemon without a worker: what it does is seen among the others', and that it lives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress

import psycopg

from pgsync.daemon.link import WorkerLink
from pgsync.daemon.recorder import WorkerReport
from pgsync.errors import ConnectionFailed, PgsyncError
from pgsync.locks import default_owner
from pgsync.queues.work import heartbeat

__all__ = ["Presence"]

logger = logging.getLogger("pgsync.daemon")

_HEARTBEAT_SECONDS = 10.0


class Presence:
    """Stands where a :class:`Worker` would, and claims nothing."""

    listening: bool | None = None

    def __init__(self, dsn: str, kinds: Sequence[str]) -> None:
        self._stopping = asyncio.Event()
        self._link = WorkerLink(dsn, default_owner(), [], 0, self._stopping, kinds)

    @property
    def unready(self) -> str | None:
        """As :attr:`Worker.unready`."""
        return self._link.unready

    def change(self, queues: Sequence[str] | Mapping[str, int], concurrency: int) -> None:
        """Nothing: these are a worker's."""

    def stop(self) -> None:
        """End. Call it on the loop."""
        self._stopping.set()

    def stop_at_once(self) -> None:
        """As :meth:`stop`."""
        self.stop()

    async def run(self) -> WorkerReport:
        """Be seen until stopped."""
        with suppress(ConnectionFailed):  # Raised only where it stops while the database is away.
            await self._link.open()
            while not self._stopping.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), _HEARTBEAT_SECONDS)
                await self._beat()
        with suppress(psycopg.Error, PgsyncError):
            await self._link.close()
        return WorkerReport()

    async def _beat(self) -> None:
        try:
            known, _ = await self._link.run(heartbeat(self._link.worker, idle=False))
        except ConnectionFailed:
            raise  # it stops
        except (psycopg.Error, PgsyncError) as error:
            logger.warning("the heartbeat failed, trying again: %s", error)
        else:
            if not known:
                await self._link.register_again()
