"""The threads that blocking handlers run in.

Waking a thread costs more than a short job, so a thread that is awake runs on while there is work,
and further ones are woken only when it does not keep up. They are daemon threads: a handler that
never returns must not keep a process alive that has put its job back.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

from pgsync.daemon.attempt import Attempt

__all__ = ["HandlerThreads"]

_HOP_SECONDS = 0.002


class HandlerThreads:
    """Performs attempts in at most ``room()`` threads at a time.

    On the loop, ``began`` is called with each attempt that has a timeout, and ``ended`` with each
    that has ended. All methods belong to the loop's thread.
    """

    def __init__(
        self,
        room: Callable[[], int],
        began: Callable[[Attempt], None],
        ended: Callable[[Attempt], None],
    ) -> None:
        self._room = room
        self._began = began
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Attempt] = deque()
        self._outcomes: deque[Attempt | None] = deque()
        self._collecting = False
        self._asleep = 0
        self._hop: asyncio.TimerHandle | None = None
        # One item wakes one thread; False ends it.
        self._wake: SimpleQueue[bool] = SimpleQueue()
        self.awake = 0
        """How many threads are at work."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, attempt: Attempt) -> None:
        """Queue an attempt; :meth:`work` sees to it."""
        self._waiting.append(attempt)

    def work(self) -> None:
        """See to it that what waits is worked on."""
        if self._waiting and self._hop is None:
            self._wake_up(0 if self.awake else 1)

    def withdraw(self) -> list[Attempt]:
        """Take back what no thread has begun."""
        withdrawn = []
        while self._waiting:
            try:
                withdrawn.append(self._waiting.popleft())
            except IndexError:
                break  # A thread was quicker.
        return withdrawn

    def close(self) -> None:
        """End the threads that sleep; one that works ends after its handler."""
        if self._hop is not None:
            self._hop.cancel()
        self.withdraw()
        for _ in range(self.awake + self._asleep):
            self._wake.put(False)

    def _wake_up(self, most: int) -> None:
        self._hop = None
        for _ in range(min(most, self._room(), len(self._waiting))):
            self.awake += 1
            if self._asleep:
                self._asleep -= 1
            else:
                threading.Thread(target=self._run, name="pgsync-job", daemon=True).start()
            self._wake.put(True)
        if self._waiting and self._room():
            # Twice as many the next time, where these did not keep up.
            self._hop = self._loop.call_later(
                _HOP_SECONDS, self._wake_up, min(max(1, most * 2), 1024)
            )

    def _run(self) -> None:
        while self._wake.get():
            while True:
                try:
                    attempt = self._waiting.popleft()
                except IndexError:
                    break
                if attempt.timeout is not None:
                    # Only a loop that has ended refuses this, and then there is nobody to record.
                    with suppress(RuntimeError):
                        self._loop.call_soon_threadsafe(self._began, attempt)
                attempt.perform()
                self._tell(attempt)
            self._tell(None)

    def _tell(self, outcome: Attempt | None) -> None:
        self._outcomes.append(outcome)
        if not self._collecting:
            self._collecting = True
            try:
                self._loop.call_soon_threadsafe(self._collect)
            except RuntimeError:
                return  # The loop has ended, and with it the worker: its jobs were put back.

    def _collect(self) -> None:
        self._collecting = False
        while self._outcomes:
            outcome = self._outcomes.popleft()
            if outcome is None:
                self.awake -= 1
                self._asleep += 1
            else:
                self._ended(outcome)
        self.work()
