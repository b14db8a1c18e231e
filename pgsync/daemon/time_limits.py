"""The time limits of handlers: when an attempt has run too long, its failure is recorded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from pgsync.daemon.attempt import Attempt

__all__ = ["TimeLimits"]

logger = logging.getLogger("pgsync.worker")

_CLEAN_UP_SECONDS = 1.0


class TimeLimits:
    """Has attempts that run too long recorded as failed, by ``record``.

    A coroutine handler is cancelled, and has a second to clean up. A blocking one cannot be
    stopped: it runs on beside the record of its failure, and what it returns is ignored. All
    methods belong to the loop's thread.
    """

    def __init__(self, record: Callable[[Attempt], None]) -> None:
        self._record = record
        self._loop = asyncio.get_running_loop()
        self.overdue = 0
        """How many handlers still run whose failure is recorded."""

    def watch(self, attempt: Attempt) -> None:
        """Start the time of an attempt whose handler begins."""
        # A short handler may have ended before its thread's word that it began is heard.
        if attempt.timeout is not None and not attempt.ended:
            attempt.context.timeout = attempt.timeout
            seconds = attempt.timeout.total_seconds()
            attempt.timer = self._loop.call_later(seconds, self._time_is_up, attempt)

    def in_time(self, attempt: Attempt) -> bool:
        """Note that a handler has ended; False where its end is recorded already."""
        attempt.ended = True
        if attempt.expired:
            self.overdue -= 1
            return False
        if attempt.timer is not None:
            attempt.timer.cancel()
        if attempt.cut_short:
            # Also where it made something else of the cancellation.
            attempt.result, attempt.error = None, attempt.context.timed_out()
        return True

    def _time_is_up(self, attempt: Attempt) -> None:
        if attempt.running is None:
            self._expire(attempt)
            return
        attempt.cut_short = True
        attempt.running.cancel()
        attempt.timer = self._loop.call_later(_CLEAN_UP_SECONDS, self._expire, attempt)

    def _expire(self, attempt: Attempt) -> None:
        attempt.expired = True
        self.overdue += 1
        logger.warning(
            "job %s (%s) runs on after its timeout; its place is free when it ends",
            attempt.context.id,
            attempt.context.job.task,
        )
        # A record of its own: the handler's thread may write to the attempt at any moment.
        self._record(replace(attempt, result=None, error=attempt.context.timed_out(), running=None))
