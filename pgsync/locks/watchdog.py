"""The watch over held locks: it keeps their deadlines, and has them renewed in time.

It never waits for the server, so that a deadline is kept, and told, while the server is silent.
What the server has to hear is left to a second thread.
"""

from __future__ import annotations

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
    """Watches locks from their grant to their end; ``renew`` and ``drop`` talk to the server."""

    def __init__(self, renew: Callable[[HeldLock], None], drop: Callable[[HeldLock], None]) -> None:
        self._renew = renew
        self._drop = drop
        self._locks: dict[int, HeldLock] = {}
        self._changed = threading.Condition()
        self._errands: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def watch(self, held: HeldLock) -> bool:
        """Begin to watch a lock; False where the watch has been closed."""
        with self._changed:
            if self._closed:
                return False
            self._locks[held.token] = held
            if not self._threads:
                for work in (self._keep_deadlines, self._run_errands):
                    thread = threading.Thread(target=work, name="pgsync-locks", daemon=True)
                    self._threads.append(thread)
                    thread.start()
            self._changed.notify_all()
        return True

    def forget(self, held: HeldLock) -> None:
        """Watch it no longer."""
        with self._changed:
            self._locks.pop(held.token, None)

    def locks(self) -> list[HeldLock]:
        """The locks that are held now."""
        with self._changed:
            return list(self._locks.values())

    def close(self) -> list[HeldLock]:
        """Watch no more; returns what was held still."""
        with self._changed:
            self._closed = True
            held = list(self._locks.values())
            self._locks.clear()
            self._changed.notify_all()
        self._errands.put(None)
        return held

    def _keep_deadlines(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                now = time.monotonic()
                first = min((held.next_moment for held in self._locks.values()), default=None)
                if first is None or first > now:
                    # Once a second, lest a session that the server ended goes unnoticed.
                    pause = None if first is None else min(first - now, _CHECK_SECONDS)
                    self._changed.wait(pause)
                    now = time.monotonic()
                locks = list(self._locks.values())
            for held in locks:
                if now >= held.deadline:
                    if held.end(held.overdue):
                        self._errands.put(partial(self._drop, held))
                    else:
                        self.forget(held)
                elif now >= held.next_moment:
                    held.renewing(now)
                    self._errands.put(partial(self._renew, held))
            for session in {held.session for held in locks}:
                session.check()

    def _run_errands(self) -> None:
        while (errand := self._errands.get()) is not None:
            try:
                errand()
            except Exception:
                logger.exception("a lock's renewal or end met an error")
