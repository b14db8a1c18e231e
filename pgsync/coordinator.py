"""The front door: a Coordinator for blocking code, an AsyncCoordinator for asyncio. It forwards."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, ParamSpec, TypedDict, TypeVar, Unpack

from pgsync.daemon import (
    KINDS,
    Changes,
    Daemon,
    DaemonThread,
    HealthPage,
    WorkerProcesses,
    WorkerReport,
    find_app,
    run_until_signalled,
)
from pgsync.database.dsn import check_same_database, check_server, connect, masked
from pgsync.database.embedded import EmbeddedServer
from pgsync.database.faults import looking
from pgsync.database.forks import renew_after_fork
from pgsync.database.migrations import check_schema, migrate
from pgsync.database.pool import AsyncDatabase, Database
from pgsync.errors import InvalidArgument
from pgsync.limits import AsyncLimitExchange, AsyncLimits, LimitExchange, Limits
from pgsync.locks import AsyncLocks, LockKeeper, Locks
from pgsync.operations import (
    AsyncOperation,
    FailureCallbacks,
    Operation,
    OperationDeclaration,
    OperationFailure,
    OperationOptions,
    OperationState,
    operation_status,
)
from pgsync.queues import (
    AsyncEnqueuer,
    AsyncQueues,
    AsyncTask,
    Enqueuer,
    JobOptions,
    Queues,
    Task,
    TaskDeclaration,
    TaskOptions,
    TaskRegistry,
)
from pgsync.queues.tasks import job_options
from pgsync.schedules import (
    AsyncSchedules,
    Given,
    ScheduleDeclaration,
    ScheduleOptions,
    Schedules,
)
from pgsync.scopes import AsyncBlock, Block

__all__ = ["AsyncCoordinator", "Coordinator"]

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[[OperationFailure], Any])


class ScheduledTaskOptions(ScheduleOptions, TaskOptions, total=False):
    """The options of a schedule and of the task that it enqueues."""


class WorkerOptions(TypedDict, total=False):
    """How a worker works.

    ``queues`` are claimed from in this order (``*`` stands for all others), or by weight where they
    are given as ``{"mail": 3, "*": 1}``: while both have jobs, three of mail for one other. Of them
    ``concurrency`` run at once. When it is stopped it gives running jobs ``grace`` seconds. With
    ``only`` it is not all that it could be, but some of worker, scheduler and maintenance.
    """

    queues: Sequence[str] | Mapping[str, int]
    concurrency: int
    grace: float
    only: Collection[str]


class _CoordinatorFace:
    """What both faces share: the server, the locks' keeper, and what was declared."""

    _awaits = False

    def __init__(self, dsn: str | None, direct_dsn: str | None, app: str | None) -> None:
        self.dsn, self.direct_dsn, self._server = _find_server(dsn, direct_dsn)
        self.app = app
        self.tasks = TaskRegistry()
        self.schedules: dict[str, ScheduleDeclaration] = {}
        self.operations: dict[str, Any] = {}
        """The operations that were declared on it, by name."""
        self._failures = FailureCallbacks(awaits=self._awaits)
        self._checked = False
        self._checking = threading.Lock()
        self._keeper = LockKeeper(self.direct_dsn, self._check)
        renew_after_fork(self, _CoordinatorFace._renew_in_child)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {masked(self.dsn)}>"

    def _renew_in_child(self) -> None:
        """In a forked child: another thread of the parent's may have been checking."""
        self._checking = threading.Lock()

    def _check(self) -> None:
        """Before the first use: is the server fit, and is the schema this version's?"""
        with self._checking:
            if self._checked:
                return
            if self._server is not None:
                migrate(self.dsn)
            else:
                with looking(), connect(self.direct_dsn) as connection:
                    check_server(connection)
                    check_schema(connection)
                    if self.dsn != self.direct_dsn:
                        check_same_database(connection, self.dsn)
            self._checked = True

    def _close_shared(self) -> None:
        self._keeper.close()
        if self._server is not None:
            self._server.release()

    def _add_task(self, function: Callable[..., Any], options: TaskOptions) -> TaskDeclaration:
        declaration = TaskDeclaration.of(function, options)
        self.tasks.add(declaration)
        return declaration

    def _add_schedule(
        self, function: Callable[..., Any], given: Given, options: ScheduledTaskOptions
    ) -> TaskDeclaration:
        task = TaskDeclaration.of(function, options)
        task.check({})
        schedule = ScheduleDeclaration.of(
            task.name,
            task.name,
            given,
            options,
            queue=task.options.queue,
            priority=task.options.priority,
            max_attempts=task.options.max_attempts,
        )
        self.tasks.add(task)
        self.schedules[task.name] = schedule
        return task

    def _new_operation(
        self, name: str, function: Callable[..., Any], options: OperationOptions, *, awaits: bool
    ) -> tuple[OperationDeclaration, JobOptions]:
        if inspect.iscoroutinefunction(function) is not awaits:
            wanted = "a coroutine handler" if awaits else "a blocking handler"
            raise InvalidArgument(f"operation {name!r} needs {wanted} on {type(self).__name__}")
        declaration = OperationDeclaration.of(name, function, options)
        if (callback := options.get("on_failure")) is not None:
            self._failures.add(callback, name)
        return declaration, job_options(options)

    def on_operation_failure(self, callback: F) -> F:
        """Have a function called with an :class:`OperationFailure` for each operation that fails.

        One that was called directly has failed when its handler raises; one that is queued when it
        is given up, after its last attempt or the death of its last worker: then a worker that
        knows the operation calls it, at least once. Usable as a decorator.

        Raises:
            InvalidArgument: if it is no function, or a coroutine function on a Coordinator.
        """
        self._failures.add(callback)
        return callback

    def _daemon(self, options: WorkerOptions, *, drain: bool, scheduler: bool) -> Daemon:
        return Daemon(
            self.direct_dsn,
            self.tasks,
            self.schedules.values(),
            queues=options.get("queues", ("default",)),
            concurrency=options.get("concurrency", 10),
            grace=options.get("grace", 30.0),
            drain=drain,
            only=options.get("only", KINDS if scheduler else ("worker", "maintenance")),
            app=self.app,
        )

    def _new_daemon(self, options: WorkerOptions, *, drain: bool, scheduler: bool) -> Daemon:
        """The daemon of a worker process, which has loaded this coordinator."""
        self._check()
        return self._daemon(options, drain=drain, scheduler=scheduler)

    def _workers(
        self,
        options: WorkerOptions,
        *,
        drain: bool,
        scheduler: bool,
        processes: int,
        app: str | None,
    ) -> Daemon | WorkerProcesses:
        # Made in any case: it refuses what is wrong with the options.
        daemon = self._daemon(options, drain=drain, scheduler=scheduler)
        if processes == 1:
            return daemon
        if processes < 1:
            raise InvalidArgument(f"processes must be 1 or more, not {processes}")
        return WorkerProcesses(
            app or find_app(self),
            processes,
            {"options": options, "drain": drain, "scheduler": scheduler},
            grace=options.get("grace", 30.0),
            drain=drain,
        )

    def _serve(
        self,
        workers: Daemon | WorkerProcesses,
        health: int | tuple[str, int] | None,
        reload: Callable[[], Changes] | None,
    ) -> Coroutine[Any, Any, WorkerReport]:
        host, port = ("127.0.0.1", health) if isinstance(health, int) else health or ("", None)
        page = None if port is None else HealthPage(host, port, self.direct_dsn)
        return run_until_signalled(workers, page, reload)


def _find_server(dsn: str | None, direct_dsn: str | None) -> tuple[str, str, EmbeddedServer | None]:
    direct_dsn = direct_dsn or os.environ.get("PGSYNC_DIRECT_DSN")
    dsn = dsn or os.environ.get("PGSYNC_DSN") or direct_dsn
    if dsn:
        return dsn, direct_dsn or dsn, None
    server = EmbeddedServer()
    started = server.start()
    return started, started, server


class Coordinator(_CoordinatorFace, Locks, Limits, Queues, Schedules, Block):
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
            declaration, job = self._new_operation(name, function, options, awaits=False)
            operation = Operation(
                declaration, job, self.database, self.enqueuer, self._keeper, self._failures
            )
            self.operations[name] = operation
            operation.register(self.tasks)
            return operation

        return declare

    def status_of(self, operation: str, key: str) -> OperationState | None:
        """The operation's run on a key (its lock's name) that goes on, or else the last."""
        return next(iter(self.database.run(operation_status(operation, key))), None)

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
            raise InvalidArgument("the daemon of this coordinator runs already")
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
    _CoordinatorFace, AsyncLocks, AsyncLimits, AsyncQueues, AsyncSchedules, AsyncBlock
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

    async def migrate(self, *, modules: bool = False) -> list[str]:
        """As :meth:`Coordinator.migrate`."""
        return await asyncio.to_thread(migrate, self.direct_dsn, modules=modules)

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
            declaration, job = self._new_operation(name, function, options, awaits=True)
            operation = AsyncOperation(
                declaration, job, self.database, self.enqueuer, self._keeper, self._failures
            )
            self.operations[name] = operation
            operation.register(self.tasks)
            return operation

        return declare

    async def status_of(self, operation: str, key: str) -> OperationState | None:
        """As :meth:`Coordinator.status_of`."""
        return next(iter(await self.database.run(operation_status(operation, key))), None)

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
            raise InvalidArgument("the daemon of this coordinator runs already")
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
