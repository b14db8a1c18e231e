"""Middleware: functions around each handler that a worker performs, and before or around each
enqueuing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

from pgsync.errors import InvalidArgument
from pgsync.queues.context import JobContext
from pgsync.queues.together import NewJob

__all__ = ["AroundEnqueue", "BeforeEnqueue", "Middleware", "check_middleware", "wrapped"]

Middleware = Callable[[JobContext, Callable[[], Any]], Any]
"""``def middleware(job, call): return call()``; with ``async`` and ``await`` for coroutines."""

M = TypeVar("M", bound=Middleware)


def check_middleware(middleware: M) -> M:
    """Return it if it can be called as middleware.

    Raises:
        InvalidArgument: if it does not take a job and the call.
    """
    try:
        inspect.signature(middleware).bind(None, None)
    except TypeError:
        raise InvalidArgument(
            f"middleware must be a function of (job, call), which {middleware!r} is not"
        ) from None
    return middleware


class BeforeEnqueue:
    """The functions that see each job before it is enqueued, in their order.

    ``check`` raises for a job that its handler cannot take.
    """

    def __init__(self, check: Callable[[NewJob], None]) -> None:
        self._check = check
        self._functions: list[Callable[[NewJob], NewJob]] = []

    def __bool__(self) -> bool:
        return bool(self._functions)

    def __call__(self, job: NewJob) -> NewJob:
        """The job as it is to be enqueued.

        Raises:
            InvalidArgument: if a function returns no job, or one that its handler cannot take.
        """
        if not self._functions:
            return job
        for function in self._functions:
            job = function(job)
            if not isinstance(job, NewJob):
                raise InvalidArgument(f"{function!r} must return a job, not {job!r}")
        self._check(job)
        return job

    def add(self, function: Callable[[NewJob], NewJob]) -> None:
        """Add a function.

        Raises:
            InvalidArgument: if it does not take one job, or is a coroutine function.
        """
        try:
            inspect.signature(function).bind(None)
        except TypeError:
            fits = False
        else:
            fits = not is_coroutine_function(function)
        if not fits:
            raise InvalidArgument(
                f"middleware of enqueue must be a blocking function of (job), which {function!r}"
                " is not"
            )
        self._functions.append(function)


Around = Callable[[str | None, str | None], AbstractContextManager[Any]]


class AroundEnqueue:
    """What is around each call that enqueues, however many jobs: for measuring it.

    Each is made anew with the task and the queue, which are None where the jobs are of several.
    """

    _NOTHING = nullcontext()

    def __init__(self) -> None:
        self._contexts: list[Around] = []

    def __call__(self, task: str | None, queue: str | None) -> AbstractContextManager[Any]:
        """All of them, the first outermost."""
        return self._all(task, queue) if self._contexts else self._NOTHING

    def add(self, context: Around) -> None:
        """Add a function ``(task, queue)`` that makes a context manager, which must not block."""
        self._contexts.append(context)

    @contextmanager
    def _all(self, task: str | None, queue: str | None) -> Iterator[None]:
        with ExitStack() as stack:
            for context in self._contexts:
                stack.enter_context(context(task, queue))
            yield


def wrapped(
    call: Callable[[], Any], job: JobContext, around: Sequence[Middleware], *, awaits: bool
) -> Callable[[], Any]:
    """The call inside those of ``around`` that are of its kind, the first outermost."""
    for middleware in reversed(around):
        if is_coroutine_function(middleware) is awaits:
            call = partial(middleware, job, call)
    return call


def is_coroutine_function(function: Any) -> bool:
    """Whether calling it makes a coroutine: also an object whose ``__call__`` is one."""
    call = getattr(function, "__call__", None)  # noqa: B004 - asked for what it is
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)
