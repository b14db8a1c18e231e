"""The asyncio tasks that coroutine handlers run in.

A task of its own for each job would cost more than a short job. So a lane, one task, performs job
after job while their handlers end without waiting. The first that waits keeps its lane to its end,
as its task, and another lane goes on with the rest.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any

from pgsync.daemon.attempt import Attempt

__all__ = ["Lanes"]

# Then the loop has its turn: for answers, heartbeats, and what else waits.
_SLICE_SECONDS = 0.005


class Lanes:
    """Performs what ``next_one`` gives until that is None, each in a context of its own.

    ``began`` is called with each attempt, and ``ended`` with each and what its handler was
    cancelled by, if it was. An attempt whose handler waits has its lane in ``running``.
    """

    def __init__(
        self,
        next_one: Callable[[], Attempt | None],
        began: Callable[[Attempt], None],
        ended: Callable[[Attempt, asyncio.CancelledError | None], None],
    ) -> None:
        self._next_one = next_one
        self._began = began
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._open: asyncio.Task[None] | None = None
        self.waiting = 0
        """How many handlers wait for something."""

    def work(self) -> None:
        """See to it that a lane is open."""
        if self._open is None:
            self._open = self._loop.create_task(self._run())

    async def _run(self) -> None:
        lane = self._open
        assert lane is not None
        until = self._loop.time() + _SLICE_SECONDS
        attempt = None
        try:
            while (attempt := self._next_one()) is not None:
                await self._perform(attempt, lane)
                if self._open is not lane or lane.cancelling() or self._loop.time() > until:
                    break
        finally:
            if self._open is lane:
                self._open = None
                if attempt is not None:
                    self.work()

    async def _perform(self, attempt: Attempt, lane: asyncio.Task[None]) -> None:
        def waits() -> None:
            attempt.running = lane
            self.waiting += 1
            self._open = None
            self.work()

        self._began(attempt)
        cancelled = None
        try:
            await _driven(attempt.perform_async(), copy_context(), waits)
        except asyncio.CancelledError as error:
            cancelled = error
        finally:
            if attempt.running is not None:
                self.waiting -= 1
        self._ended(attempt, cancelled)


@types.coroutine
def _driven(
    coroutine: Coroutine[Any, Any, None], context: Context, waits: Callable[[], None]
) -> Generator[Any, Any, None]:
    """Run a coroutine in a context; ``waits`` is called when it first waits."""
    step: Callable[[Any], Any] = coroutine.send
    outcome: Any = None
    waits_yet = False
    try:
        while True:
            awaited = context.run(step, outcome)
            if not waits_yet:
                waits_yet = True
                waits()
            try:
                step, outcome = coroutine.send, (yield awaited)
            except GeneratorExit:
                context.run(coroutine.close)
                raise
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's
                step, outcome = coroutine.throw, error
    except StopIteration:
        return
