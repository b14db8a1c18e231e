"""The daemon: worker, scheduler and maintenance in one process, each restarted when it fails."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress

import psycopg

from pgsync.counts import counted
from pgsync.daemon.maintenance import LANES, Maintenance
from pgsync.daemon.presence import Presence
from pgsync.daemon.scheduler import Scheduler
from pgsync.daemon.service import Changes
from pgsync.daemon.vitals import Vitals
from pgsync.daemon.worker import Worker, WorkerReport
from pgsync.database.session import open_session_async
from pgsync.errors import ConnectionFailed, InvalidArgument, OutcomeUnknown
from pgsync.pauses import Pauses
from pgsync.queues import TaskRegistry
from pgsync.schedules import ScheduleDeclaration

__all__ = ["KINDS", "Daemon", "DaemonThread"]

logger = logging.getLogger("pgsync.daemon")

KINDS = ("worker", "scheduler", "maintenance")
"""What a daemon may be."""

# A loop that ran so long had its connection, and lost it for a reason of its own.
_WORKED_SECONDS = 3.0
_START_SECONDS = 30.0


class Daemon:
    """Runs until stopped; with ``drain`` the worker ends when there is nothing to do, and then all.

    Any number of daemons may run on any number of machines: the database decides who does what.
    With ``only`` it is not all of them.
    """

    def __init__(
        self,
        dsn: str,
        tasks: TaskRegistry,
        schedules: Iterable[ScheduleDeclaration] = (),
        *,
        queues: Sequence[str] | Mapping[str, int] = ("default",),
        concurrency: int = 10,
        drain: bool = False,
        grace: float = 30.0,
        only: Collection[str] = KINDS,
        app: str | None = None,
    ) -> None:
        if isinstance(only, str) or not only or not set(only) <= set(KINDS):
            raise InvalidArgument(f"a daemon can be some of {', '.join(KINDS)}, not {only!r}")
        self._dsn = dsn
        kinds = [kind for kind in KINDS if kind in only]
        # Made in any case: it refuses what is wrong with the options.
        worker = Worker(
            dsn,
            tasks,
            queues=queues,
            concurrency=concurrency,
            drain=drain,
            grace=grace,
            kinds=kinds,
        )
        self._worker = worker if "worker" in only else Presence(dsn, kinds)
        self._loops: dict[str, Callable[[], Awaitable[None]]] = {}
        if "maintenance" in only:
            for lane in LANES:
                self._loops[f"maintenance ({lane.name})"] = Maintenance(dsn, lane).run
        if "scheduler" in only:
            self._loops["scheduler"] = Scheduler(dsn, schedules, app).run

    async def check(self) -> None:
        """Refuse a way to the database on which no worker can live, before :meth:`run` meets it.

        A database that is away is none: the daemon waits for it.

        Raises:
            PoolerDetected: if a pooler stands there that shares its sessions.
        """
        with suppress(psycopg.OperationalError, ConnectionFailed, OutcomeUnknown):
            await (await open_session_async(self._dsn, "pgsync daemon")).close()

    def stop(self) -> None:
        """End in order. Call it on the daemon's loop."""
        self._worker.stop()

    def stop_at_once(self) -> None:
        """End, and give what runs no time: its jobs go back unspent."""
        self._worker.stop_at_once()

    def change(self, changes: Changes) -> None:
        """Go on with other queues and concurrency. Call it on the daemon's loop."""
        self._worker.change(changes.queues, changes.concurrency)
        if changes.log_level is not None:
            logging.getLogger().setLevel(changes.log_level)

    def vitals(self) -> Vitals:
        """How it is; asked in any thread."""
        return Vitals(self._worker.unready, self._worker.listening, counted())

    async def run(self) -> WorkerReport:
        """Run until stopped, and report what the worker did."""
        loops = [
            asyncio.create_task(_supervise(name, loop), name=f"pgsync-{name}")
            for name, loop in self._loops.items()
        ]
        try:
            return await self._worker.run()
        finally:
            for task in loops:
                task.cancel()
            await asyncio.gather(*loops, return_exceptions=True)


async def _supervise(name: str, loop: Callable[[], Awaitable[None]]) -> None:
    # A due schedule must not wait much longer than the server was away.
    pauses = Pauses(0.5, 3.0)
    while True:
        began = asyncio.get_running_loop().time()
        try:
            await loop()
        except Exception as error:  # noqa: BLE001 - whatever it is, the loop begins anew
            logger.warning("%s failed, starting it again: %s", name, error)
        if asyncio.get_running_loop().time() - began > _WORKED_SECONDS:
            pauses.reset()
        await asyncio.sleep(next(pauses))


class DaemonThread:
    """A daemon inside an app: its own thread with its own event loop."""

    def __init__(self, make: Callable[[], Daemon]) -> None:
        self._make = make
        self._started = threading.Event()
        self._daemon: Daemon | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="pgsync-daemon", daemon=True)

    def start(self) -> None:
        """Start it and return when its loop runs.

        Raises:
            PoolerDetected: if its sessions would be shared by others.
        """
        self._thread.start()
        self._started.wait(_START_SECONDS)
        error, self._error = self._error, None
        if error is not None:
            raise error

    def stop(self, timeout: float = 60.0) -> None:
        """End it in order, waiting at most ``timeout`` seconds."""
        if self._loop is not None and self._daemon is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._daemon.stop)
        self._thread.join(timeout)
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            logger.exception("the daemon ended with an error")
            self._error = error
        finally:
            self._started.set()

    async def _main(self) -> None:
        self._daemon = self._make()
        self._loop = asyncio.get_running_loop()
        await self._daemon.check()
        self._started.set()
        await self._daemon.run()
