"""When a worker looks for jobs: at word that there are some, and now and then without any.

Word is a notification, which who enqueues sends while a worker is known to wait for it. NOTIFY
takes a lock of the whole server at commit, so a worker that hears too many stops waiting for them,
and looks every few milliseconds instead until it has been quieter.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress

from pgsync.pauses import spread

__all__ = ["Wakeups"]

_PER_SECOND = 50.0
_BURST = 50.0
_LOOK_SECONDS = 0.02
_POLL_SECONDS = 1.0
# The longer nothing comes the more seldom: word of the first is likely to come by notification.
_LONGEST_POLL_SECONDS = 5.0


class Wakeups:
    """What a worker on ``queues`` waits for between its claims."""

    def __init__(self, queues: Sequence[str]) -> None:
        self._event = asyncio.Event()
        self._left, self._since = _BURST, time.monotonic()
        self._poll = _POLL_SECONDS
        self._flooded = False
        self._news = False
        self.quiet = False
        """Whether there is nothing to claim until word comes, or it is time to look."""
        self.watch(queues)

    def watch(self, queues: Sequence[str]) -> None:
        """Heed word of these queues from now on, and have the worker look at them."""
        self._queues = None if "*" in queues else frozenset(queues)
        self.stir()

    def heard(self, queue: str) -> None:
        """Note a notification; one without a queue is for all."""
        if queue in ("", "*") or self._queues is None or queue in self._queues:
            self._refill()
            self._left = max(0.0, self._left - 1.0)
            # Kept: by the time that the worker looks there may be some left again.
            self._flooded = self._flooded or self._left < 1.0
            self._poll = _POLL_SECONDS
            self.stir()

    def stir(self) -> None:
        """Have the worker look for jobs now."""
        self.quiet = False
        self._news = True
        self._event.set()

    def nudge(self) -> None:
        """Have the worker look at itself: a job of its own has ended."""
        self._event.set()

    def clear(self) -> None:
        """Forget what came; what comes from now on ends the next wait."""
        self._news = False
        self._event.clear()

    def settle(self) -> None:
        """Note that the queues were empty when last looked at; not where word has come since."""
        self.quiet = not self._news

    @property
    def flooded(self) -> bool:
        """Whether so many notifications came that they should stop for a while."""
        self._refill()
        if self._left >= _BURST / 2:
            self._flooded = False
        return self._flooded

    async def wait(self) -> None:
        """Wait for any of these, or until it is time to look for jobs."""
        seconds = self._poll
        if self.quiet:
            self._poll = min(self._poll * 2, _LONGEST_POLL_SECONDS)
            seconds = spread(seconds, 0.2)
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            self.quiet = False

    async def pause(self, stopping: asyncio.Event) -> None:
        """Let a few jobs gather, whatever comes."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS):
                await stopping.wait()

    def found(self) -> None:
        """Note that there were jobs: others may follow whose word is lost as well."""
        self._poll = _POLL_SECONDS

    def _refill(self) -> None:
        now = time.monotonic()
        self._left = min(_BURST, self._left + (now - self._since) * _PER_SECOND)
        self._since = now
