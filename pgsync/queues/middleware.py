"""Middleware: functions around each handler that a worker performs, and before each enqueuing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from pgsync.errors import InvalidArgument
from pgsync.queues.context import JobContext

__all__ = ["Middleware", "check_enqueue_middleware", "check_middleware", "wrapped"]

Middleware = Callable[[JobContext, Callable[[], Any]], Any]
"""``def middleware(job, call): return call()``; with ``async`` and ``await`` for coroutines."""

M = TypeVar("M", bound=Middleware)
E = TypeVar("E", bound=Callable[..., Any])


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


def check_enqueue_middleware(middleware: E) -> E:
    """Return it if it can be called with a job that is to be enqueued.

    Raises:
        InvalidArgument: if it does not take one job, or is a coroutine function.
    """
    try:
        inspect.signature(middleware).bind(None)
    except TypeError:
        fits = False
    else:
        fits = not is_coroutine_function(middleware)
    if not fits:
        raise InvalidArgument(
            f"middleware of enqueue must be a blocking function of (job), which {middleware!r}"
            " is not"
        )
    return middleware


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
