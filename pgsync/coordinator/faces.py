"""The front door: a Coordinator for blocking code, an AsyncCoordinator for asyncio. It forwards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, Unpack

from pgsync.coordinator.shared import CoordinatorFace, ScheduledTaskOptions, WorkerOptions
from pgsync.daemon import Changes, Daemon, DaemonThread, WorkerReport
from pgsync.database.calls import first
from pgsync.database.migrations import migrate
from pgsync.database.pool import AsyncDatabase, Database
from pgsync.errors import InvalidArgument
from pgsync.limits import AsyncLimitExchange, AsyncLimits, LimitExchange, Limits
from pgsync.locks import AsyncLocks, Locks
from pgsync.operations import (
    AsyncOperation,
    Operation,
    OperationOptions,
    OperationState,
    operation_status,
)
from pgsync.queues import (
    AsyncEnqueuer,
    AsyncQueues,
    AsyncTask,
    Enqueuer,
    Queues,
    Task,
    TaskOptions,
)
from pgsync.schedules import AsyncSchedules, Given, Schedules
from pgsync.scopes import AsyncBlock, Block

__all__ = ["AsyncCoordinator", "Coordinator"]

P = ParamSpec("P")
R = TypeVar("R")


class Coordinator(CoordinatorFace, Locks, Limits, Queues, Schedules, Block):
    """Coordination on one PostgreSQL database, for blocking code.

    ``dsn`` defaults to the environment's ``PGSYNC_DSN``; where that is missing too, an embedded
    server is started and its schema installed. Threads may share a coordinator. Close it, or use
    it in a ``with``: its locks end with it.

    Where ``dsn`` leads to a pooler (PgBouncer in transaction mode), ``direct_dsn``, or else
    ``PGSYNC_DIRECT_DSN``, names the same database without it: locks, daemons and migrations, which
    need sessions of their own, go there, and only the pool of connections stays on ``dsn``.

    ``app`` names the app whose code this is: a schedule that its code has no more is disabled when
    it is deployed. ``pgsync daemon --app`` gives it where it is not given here.

    At its first use, not before, it may raise:
        ConnectionFailed: if the server cannot be reached.
        ServerUnsupported: if it is too old, or read only.
        InvalidArgument: if ``dsn`` and ``direct_dsn`` lead to different databases.
        SchemaMissing: if ``pgsync migrate`` has not been run on it.
    """

    def __init__(
        self,
        dsn: str | None = None,
        direct_dsn: str | None = None,
        *,
        pool_size: int = 10,
        app: str | None = None,
    ) -> None:
        super().__init__(dsn, direct_dsn, app)
        self.database = Database(self.dsn, size=pool_size, prepare=self._check)
        self.enqueuer = Enqueuer(
            self.database, self.tasks.before_enqueue, self.tasks.around_enqueue
        )
        self.limit_exchange = LimitExchange(self.database)
        self._thread: DaemonThread | None = None

    def _begin(self) -> None:
        """Nothing: connections are opened at their first use."""

    def _end(self) -> None:
        self.close()

    def close(self) -> None:
        """Stop the daemon if it runs, release all locks, close all connections."""
        self.stop()
        self.limit_exchange.close()
        self.database.close()
        self.enqueuer.close()
        self._close_shared()

    def migrate(self, *, modules: bool = False, roles: bool = False) -> list[str]:
        """Bring the database's schema up to this version; returns what was applied.

        ``roles`` puts the roles ``pgsync_reader``, ``pgsync_worker`` and ``pgsync_admin`` into use.
        """
        return migrate(self.direct_dsn, modules=modules, roles=roles)

    def task(self, **options: Unpack[TaskOptions]) -> Callable[[Callable[P, R]], Task[P, R]]:
        """Declare a function, blocking or coroutine, as a task; see :class:`TaskOptions`."""
        return lambda function: Task(self._add_task(function, options), self.enqueuer)

    def schedule(
        self, rhythm: Given, **options: Unpack[ScheduledTaskOptions]
    ) -> Callable[[Callable[P, R]], Task[P, R]]:
        """Declare a function as a task that daemons enqueue by a rhythm.

        ``rhythm`` is a crontab line, a timedelta or seconds, one aware datetime, or an APScheduler
        trigger of these kinds; see :class:`ScheduleOptions`.
        """
        return lambda function: Task(self._add_schedule(function, rhythm, options), self.enqueuer)

    def operation(
        self, name: str, **options: Unpack[OperationOptions]
    ) -> Callable[[Callable[..., Any]], Operation]:
        """Declare a sync operation; see :class:`OperationOptions`."""

        def declare(function: Callable[..., Any]) -> Operation:
            declaration, job = self._new_operation(name, function, options)
            operation = Operation(
                declaration, job, self.database, self.enqueuer, self._keeper, self._failures
            )
            self.operations[name] = operation
            operation.register(self.tasks)
            return operation

        return declare

    def status_of(self, operation: str, key: str) -> OperationState | None:
        """The operation's run on a key (its lock's name) that goes on, or else the last."""
        return first(self.database.run(operation_status(operation, key)))

    def run_worker(
        self,
        *,
        drain: bool = False,
        scheduler: bool = False,
        processes: int = 1,
        app: str | None = None,
        health: int | tuple[str, int] | None = None,
        reload: Callable[[], Changes] | None = None,
        **options: Unpack[WorkerOptions],
    ) -> WorkerReport:
        """Perform jobs until SIGTERM or SIGINT, or with ``drain`` until none is available.

        Blocking handlers run in threads, coroutine handlers on a loop of this call's own.
        Maintenance is done too where no other process does it; with ``scheduler``, schedules are
        fired. A second signal ends it at once.

        With ``processes``, so many new interpreters each load the coordinator and work with these
        options; one that dies is started again. A global of an imported module is found by
        itself, anything else needs ``app``, as ``package.module:coordinator``.

        ``health`` is a port of this machine, or host and port, where ``/livez``, ``/readyz`` and
        ``/metrics`` are served. ``reload`` is called at SIGHUP, and says how to go on.

        Raises:
            WorkersFailed: if the processes cannot start, or one had to be killed at the end.
        """
        self._check()
        workers = self._workers(
            options, drain=drain, scheduler=scheduler, processes=processes, app=app
        )
        return asyncio.run(self._serve(workers, health, reload))

    def start(self, **options: Unpack[WorkerOptions]) -> None:
        """Start a daemon (worker, scheduler, maintenance) in a thread of this process."""
        if self._thread is not None:
            raise InvalidArgument("the daemon of this coordinator runs already; stop() it first")
        self._check()
        thread = DaemonThread(lambda: self._daemon(options, drain=False, scheduler=True))
        thread.start()
        self._thread = thread

    def stop(self) -> None:
        """Stop the daemon that :meth:`start` started, in order; nothing where none runs."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()


class AsyncCoordinator(
    CoordinatorFace, AsyncLocks, AsyncLimits, AsyncQueues, AsyncSchedules, AsyncBlock
):
    """As :class:`Coordinator`, for asyncio; it belongs to the event loop that first uses it."""

    _awaits = True

    def __init__(
        self,
        dsn: str | None = None,
        direct_dsn: str | None = None,
        *,
        pool_size: int = 10,
        app: str | None = None,
    ) -> None:
        super().__init__(dsn, direct_dsn, app)
        self.database = AsyncDatabase(self.dsn, size=pool_size, prepare=self._check)
        self.enqueuer = AsyncEnqueuer(
            self.database, self.tasks.before_enqueue, self.tasks.around_enqueue
        )
        self.limit_exchange = AsyncLimitExchange(self.database)
        self._running: tuple[Daemon, asyncio.Task[WorkerReport]] | None = None

    def new_database(self, *, size: int) -> AsyncDatabase:
        """Another pool of connections to the same database; who made it closes it."""
        return AsyncDatabase(self.dsn, size=size, prepare=self._check)

    async def _begin(self) -> None:
        """As :meth:`Coordinator._begin`."""

    async def _end(self) -> None:
        await self.close()

    async def close(self) -> None:
        """As :meth:`Coordinator.close`."""
        await self.stop()
        await self.limit_exchange.close()
        await self.database.close()
        await self.enqueuer.close()
        await asyncio.to_thread(self._close_shared)

    async def migrate(self, *, modules: bool = False, roles: bool = False) -> list[str]:
        """As :meth:`Coordinator.migrate`."""
        return await asyncio.to_thread(migrate, self.direct_dsn, modules=modules, roles=roles)

    def task(self, **options: Unpack[TaskOptions]) -> Callable[[Callable[P, R]], AsyncTask[P, R]]:
        """As :meth:`Coordinator.task`."""
        return lambda function: AsyncTask(self._add_task(function, options), self.enqueuer)

    def schedule(
        self, rhythm: Given, **options: Unpack[ScheduledTaskOptions]
    ) -> Callable[[Callable[P, R]], AsyncTask[P, R]]:
        """As :meth:`Coordinator.schedule`."""
        return lambda function: AsyncTask(
            self._add_schedule(function, rhythm, options), self.enqueuer
        )

    def operation(
        self, name: str, **options: Unpack[OperationOptions]
    ) -> Callable[[Callable[..., Any]], AsyncOperation]:
        """As :meth:`Coordinator.operation`."""

        def declare(function: Callable[..., Any]) -> AsyncOperation:
            declaration, job = self._new_operation(name, function, options)
            operation = AsyncOperation(
                declaration, job, self.database, self.enqueuer, self._keeper, self._failures
            )
            self.operations[name] = operation
            operation.register(self.tasks)
            return operation

        return declare

    async def status_of(self, operation: str, key: str) -> OperationState | None:
        """As :meth:`Coordinator.status_of`."""
        return first(await self.database.run(operation_status(operation, key)))

    async def run_worker(
        self,
        *,
        drain: bool = False,
        scheduler: bool = False,
        processes: int = 1,
        app: str | None = None,
        health: int | tuple[str, int] | None = None,
        reload: Callable[[], Changes] | None = None,
        **options: Unpack[WorkerOptions],
    ) -> WorkerReport:
        """As :meth:`Coordinator.run_worker`."""
        await asyncio.to_thread(self._check)
        workers = self._workers(
            options, drain=drain, scheduler=scheduler, processes=processes, app=app
        )
        return await self._serve(workers, health, reload)

    async def start(self, **options: Unpack[WorkerOptions]) -> None:
        """As :meth:`Coordinator.start`, on this event loop."""
        if self._running is not None:
            raise InvalidArgument("the daemon of this coordinator runs already; stop() it first")
        await asyncio.to_thread(self._check)
        daemon = self._daemon(options, drain=False, scheduler=True)
        await daemon.check()
        self._running = daemon, asyncio.create_task(daemon.run())

    async def stop(self) -> None:
        """As :meth:`Coordinator.stop`."""
        running, self._running = self._running, None
        if running is not None:
            daemon, task = running
            daemon.stop()
            await task
