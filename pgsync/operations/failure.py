"""Telling of operations that failed: the callbacks of an operation, and of its coordinator."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pgsync.errors import InvalidArgument

__all__ = ["FailureCallbacks", "OnFailure", "OperationFailure"]

logger = logging.getLogger("pgsync.operations")

_FAULTY = "on_failure of operation %s failed"


@dataclass(frozen=True, slots=True)
class OperationFailure:
    """An operation that failed, and is not tried again.

    ``error`` is what its handler raised, :class:`WorkerDied` where it was lost with its worker, or
    :class:`JobDiscarded` where somebody gave its job up.
    ``job_id`` is the job that ran it, after so many attempts; None where it was called directly.
    """

    operation: str
    key: str
    args: dict[str, Any]
    actor: str
    error: BaseException
    job_id: int | None = None
    attempts: int = 1


OnFailure = Callable[[OperationFailure], Any]


class FailureCallbacks:
    """What a coordinator calls for each of its operations that fails; ``awaits``: coroutines too.

    An error of a callback is logged, and keeps neither the others nor the caller from going on.
    """

    def __init__(self, *, awaits: bool) -> None:
        self._awaits = awaits
        self._callbacks: list[tuple[str | None, OnFailure]] = []

    def add(self, callback: OnFailure, operation: str | None = None) -> None:
        """Call it for the failures of an operation; None: of all.

        Raises:
            InvalidArgument: if it is no function, or a coroutine function that nobody can await.
        """
        if not callable(callback):
            raise InvalidArgument(f"on_failure must be a function, not {callback!r}")
        if inspect.iscoroutinefunction(callback) and not self._awaits:
            raise InvalidArgument("on_failure of a Coordinator is a blocking function")
        self._callbacks.append((operation, callback))

    def tell(self, failure: OperationFailure) -> None:
        """Call them, one after another."""
        for callback in self._of(failure):
            try:
                callback(failure)
            except Exception:
                logger.exception(_FAULTY, failure.key)

    async def tell_async(self, failure: OperationFailure) -> None:
        """As :meth:`tell`; coroutines are awaited."""
        for callback in self._of(failure):
            try:
                answer = callback(failure)
                if inspect.isawaitable(answer):
                    await answer
            except Exception:
                logger.exception(_FAULTY, failure.key)

    def _of(self, failure: OperationFailure) -> list[OnFailure]:
        return [call for name, call in self._callbacks if name in (None, failure.operation)]
