"""The child's end of a handler in a process of its own: what it is told, and what it answers."""

from __future__ import annotations

import importlib
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from pgsync.daemon.remote_errors import pack
from pgsync.database.json import to_json
from pgsync.queues import Job, JobContext, TaskDeclaration
from pgsync.queues.attempt_log import LogLine
from pgsync.queues.context import performing
from pgsync.queues.sealing import open_args

__all__ = ["CANCEL", "STOP", "Began", "End", "Logged", "Order", "Progress", "serve"]

CANCEL, STOP = "cancel", "stop"


@dataclass(frozen=True, slots=True)
class Order:
    """Perform ``job`` with the function ``name`` of ``module``."""

    module: str
    name: str
    worker: int
    job: Job
    timeout: timedelta | None


@dataclass(frozen=True, slots=True)
class Began:
    """The handler was found and begins now."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What the handler tells of its progress."""

    text: str


@dataclass(frozen=True, slots=True)
class Logged:
    """A line that the handler logs: sent at once, as the process may be killed."""

    line: LogLine


@dataclass(frozen=True, slots=True)
class End:
    """The handler has returned ``result``, as JSON, or failed with ``error``, which is pickled.

    ``completed`` says that it completed the job in a transaction of its own.
    """

    completed: bool
    result: str | None = None
    error: bytes | None = None


def serve(line: Connection) -> None:
    """Perform one order after another, until the parent closes the line or dies."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # A terminal or a service manager tells the whole tree; when to end, the worker decides.
        signal.signal(number, lambda *_: None)
    sending = threading.Lock()

    def say(what: object) -> None:
        with sending:
            line.send(what)

    ear = _Ear(line, say)
    threading.Thread(target=ear.listen, name="pgsync-orders", daemon=True).start()
    while (given := ear.orders.get()) is not None:
        end = _perform(*given, say)
        ear.busy = False
        with suppress(OSError):  # Its parent was killed.
            say(end)


class _Ear:
    """Hears what the parent says, while the main thread performs."""

    def __init__(self, line: Connection, say: Callable[[object], None]) -> None:
        self._line = line
        self._say = say
        self._stopping = threading.Event()
        self._context: JobContext | None = None
        self.orders: SimpleQueue[tuple[Order, JobContext] | None] = SimpleQueue()
        self.busy = False

    def listen(self) -> None:
        try:
            while True:
                match self._line.recv():
                    case Order() as order:
                        self.busy = True
                        self._context = self._new_context(order)
                        self.orders.put((order, self._context))
                    case word if word == CANCEL and self._context is not None:
                        self._context.cancelled.set()
                    case word if word == STOP:
                        self._stopping.set()
        except (EOFError, OSError):
            if self.busy:
                os._exit(1)  # Its parent was killed: nobody wants the answer.
            self.orders.put(None)

    def _new_context(self, order: Order) -> JobContext:
        return JobContext(
            order.job,
            self._stopping,
            worker=order.worker,
            tell=lambda _context, text: self._say(Progress(text)),
            pass_on=lambda line: self._say(Logged(line)),
        )


def _perform(order: Order, context: JobContext, say: Callable[[object], None]) -> End:
    try:
        function = _find(order)
        args = open_args(order.job.args)
        say(Began())
        if order.timeout is not None:
            context.start(order.timeout)
        with performing(context):
            result = function(**args)
        what = f"the result of {order.job.task}"
        return End(context.completed, None if result is None else to_json(result, what))
    except BaseException as error:  # noqa: BLE001 - whatever a handler raises is recorded
        return End(context.completed, error=pack(error))


def _find(order: Order) -> Callable[..., Any]:
    found: Any = importlib.import_module(order.module)
    for name in order.name.split("."):
        found = getattr(found, name)
    # The name of a decorated function stands for its task.
    declaration = getattr(found, "declaration", None)
    function: Callable[..., Any] = (
        declaration.function if isinstance(declaration, TaskDeclaration) else found
    )
    return function
