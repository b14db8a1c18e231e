"""Handlers in processes of their own, for work that keeps a core busy or may crash.

Each handler that runs has one child process, which is kept for the next. Not a ProcessPoolExecutor:
there the death of one child fails the jobs of all, and no handler can be ended.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import threading
import time
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import Any

from pgsync.daemon.handler_child import (
    CANCEL,
    STOP,
    Began,
    End,
    Logged,
    Order,
    Progress,
    serve,
)
from pgsync.daemon.remote_errors import unpack
from pgsync.database.json import from_json
from pgsync.queues import CancelJob, JobContext, ProcessDied, TaskDeclaration

__all__ = ["HandlerProcesses"]

_START_SECONDS = 60.0
_CLEAN_UP_SECONDS = 1.0
_LOOK_SECONDS = 1.0
# A child ends, and gives its memory back, after so long without a job, or after so many jobs.
_IDLE_SECONDS = 30.0
_MOST_JOBS = 1_000

# A new interpreter: a fork would inherit connections, and locks that the worker's threads hold.
_spawn = multiprocessing.get_context("spawn")


class _Child:
    """A process that performs one job after another."""

    def __init__(self) -> None:
        self.line, theirs = _spawn.Pipe()
        self.process: BaseProcess = _spawn.Process(
            target=serve, args=(theirs,), name="pgsync-handler"
        )
        self.process.start()
        theirs.close()
        self.jobs = 0
        self.idle_since = 0.0

    def tell(self, what: object) -> None:
        with suppress(OSError):  # It has ended, as will be heard.
            self.line.send(what)

    def hear(self, until: float | None) -> Any:
        """The next thing that it says; None where the time is up.

        Raises:
            EOFError: if it is dead.
        """
        try:
            return self._hear(until)
        except OSError:
            raise EOFError from None

    def _hear(self, until: float | None) -> Any:
        while True:
            left = _LOOK_SECONDS if until is None else until - time.monotonic()
            # In slices: children of its own may hold the line open after its death.
            if self.line.poll(max(0.0, min(left, _LOOK_SECONDS))):
                return self.line.recv()
            if until is not None and time.monotonic() >= until:
                return None
            if not self.process.is_alive() and not self.line.poll():
                raise EOFError

    def kill(self) -> str:
        """Kill it if it lives; says how it ended."""
        self.process.kill()
        self.process.join()
        code = self.process.exitcode or 0
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


class HandlerProcesses:
    """Performs handlers in child processes, one for each thread that calls.

    :meth:`call` belongs to the handlers' threads, all else to the loop's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Child] = []
        self._busy: dict[int, _Child] = {}
        self._stopping = False
        self._closed = False

    def call(self, context: JobContext, task: TaskDeclaration) -> Any:
        """Perform the handler of ``task`` in a child and return its result.

        Raises:
            ProcessDied: if the child did.
            JobTimedOut, CancelJob: if it was killed for that.
            Exception: what the handler raised.
        """
        function = task.function
        order = Order(
            function.__module__, function.__qualname__, context.worker, context.job, task.timeout
        )
        child = self._take()
        healthy = False
        try:
            end = self._perform(child, order, context)
            healthy = True
        except EOFError:
            ending = child.kill()
            if context.is_cancelled:
                raise CancelJob("cancelled while it ran") from None
            raise ProcessDied(f"the process of its handler died: {ending}") from None
        finally:
            self._give_back(child, context, healthy=healthy)
        context.completed = end.completed
        if end.error is not None:
            raise unpack(end.error)
        return None if end.result is None else from_json(end.result)

    def _perform(self, child: _Child, order: Order, context: JobContext) -> End:
        child.tell(order)
        with self._lock:
            self._busy[context.id] = child
            if self._stopping:
                child.tell(STOP)
        if context.is_cancelled:  # Before there was anybody to tell.
            raise CancelJob("cancelled before it ran")
        began = False
        until: float | None = time.monotonic() + _START_SECONDS
        while True:
            match child.hear(until):
                case End() as end:
                    return end
                case Progress(text):
                    if context.tell is not None:
                        context.tell(context, text)
                case Logged(line):
                    context.keep(line)
                case Began():
                    began = True
                    if order.timeout is not None:
                        context.start(order.timeout)
                    until = context.deadline
                case _ if began:
                    raise context.timed_out()
                case _:
                    raise ProcessDied(f"its process was not ready within {_START_SECONDS:g} s")

    def _take(self) -> _Child:
        with self._lock:
            child = self._idle.pop() if self._idle else None
        child = child or _Child()
        child.jobs += 1
        return child

    def _give_back(self, child: _Child, context: JobContext, *, healthy: bool) -> None:
        with self._lock:
            self._busy.pop(context.id, None)
            if healthy and not self._closed and child.jobs < _MOST_JOBS:
                child.idle_since = time.monotonic()
                self._idle.append(child)
                return
        if not healthy:
            child.kill()
        child.line.close()

    def cancel(self, job_id: int) -> None:
        """Tell the handler of a job, and kill it if it has not ended a second later."""
        with self._lock:
            child = self._busy.get(job_id)
            if child is not None:
                child.tell(CANCEL)
                loop = asyncio.get_running_loop()
                loop.call_later(_CLEAN_UP_SECONDS, self._kill, job_id, child)

    def _kill(self, job_id: int, child: _Child) -> None:
        with self._lock:
            if self._busy.get(job_id) is child:
                child.process.kill()

    def stop(self) -> None:
        """Tell all handlers that their worker stops."""
        with self._lock:
            self._stopping = True
            for child in self._busy.values():
                child.tell(STOP)

    async def run(self) -> None:
        """End those that have been idle for long, until cancelled."""
        while True:
            await asyncio.sleep(_IDLE_SECONDS / 2)
            with self._lock:
                before = time.monotonic() - _IDLE_SECONDS
                for child in [each for each in self._idle if each.idle_since < before]:
                    self._idle.remove(child)
                    child.line.close()
            multiprocessing.active_children()  # reaps those that have ended

    def close(self) -> None:
        """End all; handlers that still run are killed."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for child in self._busy.values():
                child.process.kill()
        for child in idle:
            child.line.close()
        until = time.monotonic() + _CLEAN_UP_SECONDS
        for child in idle:
            child.process.join(max(0.0, until - time.monotonic()))
            child.kill()
