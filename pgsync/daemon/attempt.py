"""One attempt at a job: what a worker runs, and how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from pgsync.daemon.handler_processes import HandlerProcesses
from pgsync.database.json import to_json
from pgsync.queues import CancelJob, JobContext, TaskDeclaration
from pgsync.queues.context import make_current
from pgsync.queues.middleware import Middleware, wrapped
from pgsync.queues.sealing import open_args
from pgsync.queues.tasks import unknown_task

__all__ = ["Attempt"]


@dataclass(slots=True)
class Attempt:
    """A claimed job, the worker's number that claimed it, and what came of it.

    ``task`` is None where this process has not declared it; ``around`` is its middleware, and
    ``processes`` perform it where it is to have one of its own. Without an ``error`` it completed,
    with ``result`` as JSON. ``running`` is the asyncio task of a coroutine handler that waits.
    ``cut_short`` says that it was cancelled for its timeout, ``expired`` that its failure has been
    recorded while its handler still ran.
    """

    worker: int
    context: JobContext
    task: TaskDeclaration | None
    around: Sequence[Middleware] = ()
    processes: HandlerProcesses | None = None
    result: str | None = None
    error: BaseException | None = None
    running: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    ended: bool = False
    cut_short: bool = False
    expired: bool = False

    @property
    def blocks(self) -> bool:
        """Whether it needs a thread: its handler is a blocking one."""
        return self.task is not None and not self.task.is_async

    @property
    def timeout(self) -> timedelta | None:
        """How long its handler may run; None too where its process sees to that."""
        return None if self.task is None or self.task.in_process else self.task.timeout

    def perform(self) -> None:
        """Run a blocking handler to its end, in a context of its own; never raises."""
        copy_context().run(self._perform)

    def _perform(self) -> None:
        try:
            make_current(self.context)
            self._keep(self._begin(awaits=False)())
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is recorded
            self.error = error

    async def perform_async(self) -> None:
        """Await a coroutine handler's end, in a context of its own.

        Raises CancelledError where it was cancelled.
        """
        try:
            make_current(self.context)
            self._keep(await self._begin(awaits=True)())
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is recorded
            self.error = error

    def _begin(self, *, awaits: bool) -> Callable[[], Any]:
        if self.context.is_cancelled:
            raise CancelJob("cancelled before it ran")
        if self.task is None:
            raise unknown_task(self.context.job.task)
        call: Callable[[], Any]
        if self.task.in_process and self.processes is not None:
            call = partial(self.processes.call, self.context, self.task)
        else:
            if self.task.timeout is not None:
                self.context.start(self.task.timeout)
            call = partial(self.task.function, **open_args(self.context.job.args))
        if not self.around:
            return call
        return wrapped(call, self.context, self.around, awaits=awaits)

    def _keep(self, result: Any) -> None:
        if result is not None:
            self.result = to_json(result, f"the result of {self.context.job.task}")
