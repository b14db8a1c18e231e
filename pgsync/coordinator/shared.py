"""What both coordinators are: declarations, the way to the database, and daemons made of them."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, TypedDict, TypeVar

from pgsync.daemon import (
    KINDS,
    Changes,
    Daemon,
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
from pgsync.errors import InvalidArgument
from pgsync.locks import LockKeeper
from pgsync.operations import (
    FailureCallbacks,
    OperationDeclaration,
    OperationFailure,
    OperationOptions,
)
from pgsync.queues import JobOptions, TaskDeclaration, TaskOptions, TaskRegistry
from pgsync.queues.options import job_options
from pgsync.schedules import Given, ScheduleDeclaration, ScheduleOptions

__all__ = ["CoordinatorFace", "ScheduledTaskOptions", "WorkerOptions"]

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


class CoordinatorFace:
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
        renew_after_fork(self, CoordinatorFace._renew_in_child)

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
        self, name: str, function: Callable[..., Any], options: OperationOptions
    ) -> tuple[OperationDeclaration, JobOptions]:
        if inspect.iscoroutinefunction(function) is not self._awaits:
            wanted = "a coroutine handler" if self._awaits else "a blocking handler"
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
