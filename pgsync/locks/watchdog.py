"""The watch over held locks: it keeps their deadlines, and has them renewed in time.

It never waits for the server, so that a deadline is kept, and told, while the server is silent.
What the server has to hear is left to a second thread.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue

from pgsync.locks.held import HeldLock

__all__ = ["Watchdog"]

logger = logging.getLogger("pgsync.locks")

_CHECK_SECONDS = 1.0


class Watchdog:
    """Watches locks from their grant to their end; ``renew`` and ``drop`` talk to the server.

    ``look`` is called once a second with the locks that are held, for what else there is to see.
    """

    def __init__(
        self,
        renew: Callable[[HeldLock], None],
        drop: Callable[[HeldLock], None],
        look: Callable[[list[HeldLock]], None],
    ) -> None:
        self._renew = renew
        self._drop = drop
        self._look = look
        self._locks: dict[int, HeldLock] = {}
        # An entry counts while its lock lives and its moment is the last one noted for it.
        self._moments: list[tuple[float, int, HeldLock]] = []
        self._numbers = itertools.count()
        self._wakes_at = float("inf")
        self._watched_lately = False
        self._changed = threading.Condition(threading.Lock())
        self._errands: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def watch(self, held: HeldLock) -> bool:
        """Begin to watch a lock; False where the watch has been closed."""
        with self._changed:
            if self._closed:
                return False
            self._locks[held.token] = held
            self._watched_lately = True
            self._note(held)
            if not self._threads:
                for work in (self._keep_deadlines, self._run_errands):
                    thread = threading.Thread(target=work, name="pgsync-locks", daemon=True)
                    self._threads.append(thread)
                    thread.start()
        return True

    def note(self, held: HeldLock) -> None:
        """Its next moment may be earlier than it was."""
        with self._changed:
            if held.next_moment < held.noted:
                self._note(held)

    def forget(self, held: HeldLock) -> None:
        """Watch it no longer."""
        with self._changed:
            self._locks.pop(held.token, None)
            if len(self._moments) > 2 * len(self._locks) + 100:
                self._moments = [entry for entry in self._moments if not entry[2].ended]
                heapq.heapify(self._moments)

    def locks(self) -> list[HeldLock]:
        """The locks that are held now."""
        with self._changed:
            return list(self._locks.values())

    def inherited(self) -> list[HeldLock]:
        """In a forked child, whose copy of the mutex may stay locked: what the parent holds."""
        return list(self._locks.values())

    def close(self) -> list[HeldLock]:
        """Watch no more; returns what was held still."""
        with self._changed:
            self._closed = True
            held = list(self._locks.values())
            self._locks.clear()
            self._moments.clear()
            self._changed.notify_all()
        self._errands.put(None)
        return held

    def _note(self, held: HeldLock) -> None:
        held.noted = held.next_moment
        heapq.heappush(self._moments, (held.noted, next(self._numbers), held))
        # Waking the thread costs more than all the rest: only where it would wake too late.
        if held.noted < self._wakes_at:
            self._changed.notify_all()

    def _keep_deadlines(self) -> None:
        looked_at = time.monotonic()
        while (due := self._wait()) is not None:
            now = time.monotonic()
            for held in due:
                self._attend(held, now)
            if now - looked_at >= _CHECK_SECONDS:
                looked_at = now
                locks = self.locks()
                for session in {held.session for held in locks}:
                    session.check()
                self._errands.put(partial(self._look, locks))

    def _wait(self) -> list[HeldLock] | None:
        """Sleep until a moment has come or a second has passed; None once closed."""
        with self._changed:
            if not self._closed:
                now = time.monotonic()
                first = self._moments[0][0] if self._moments else float("inf")
                if first > now:
                    # Once a second, lest a session that the server ended goes unnoticed. It sleeps
                    # for good where no lock came for a second, or each short one would wake it.
                    watches = self._locks or self._watched_lately
                    self._watched_lately = False
                    pause = min(first - now, _CHECK_SECONDS) if watches else None
                    self._wakes_at = float("inf") if pause is None else now + pause
                    self._changed.wait(pause)
                    self._wakes_at = 0.0
            if self._closed:
                return None
            now = time.monotonic()
            due = []
            while self._moments and self._moments[0][0] <= now:
                moment, _, held = heapq.heappop(self._moments)
                if moment == held.noted and not held.ended:
                    due.append(held)
            return due

    def _attend(self, held: HeldLock, now: float) -> None:
        if now >= held.deadline:
            if held.end(held.overdue):
                self._errands.put(partial(self._drop, held))
            return
        if now >= held.next_moment:
            held.renewing(now)
            self._errands.put(partial(self._renew, held))
        with self._changed:
            self._note(held)

    def _run_errands(self) -> None:
        while (errand := self._errands.get()) is not None:
            try:
                errand()
            except Exception:
                logger.exception("a lock's renewal or end met an error")
