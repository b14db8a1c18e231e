"""The database away: noticed in a bounded time, logged and counted, and not asked at each hit."""

from __future__ import annotations

import logging
import threading
import time

from pgsync.database.kept import KeptConnection
from pgsync.errors import LimitUndecided

__all__ = ["Outage", "Watch"]

logger = logging.getLogger("pgsync.limits")

PATIENCE = 5.0
"""Seconds that a decision may take, once connected."""

_RETRY_SECONDS = 1.0
_IDLE_SECONDS = 5.0


class Outage:
    """Whether the database is away, as far as this process's limits know.

    ``count``: how often it went away. ``refused`` and ``let_pass``: hits that were not decided, by
    what their limiters do then. ``last_error`` says what was seen last.
    """

    def __init__(self) -> None:
        self.count = 0
        self.refused = 0
        self.let_pass = 0
        self.last_error = ""
        self._since: float | None = None
        self._ask_again_at = 0.0

    def check(self) -> None:
        """Raise unless the database should be asked: once in a second while it is away.

        Raises:
            LimitUndecided: if it was away a moment ago.
        """
        if self._since is None:
            return
        now = time.monotonic()
        if now < self._ask_again_at:
            raise LimitUndecided(self.last_error)
        self._ask_again_at = now + _RETRY_SECONDS  # The others need not wait for this one's answer.

    def begin(self, error: Exception, asked_at: float) -> LimitUndecided:
        """The database could not be asked, at ``asked_at`` (monotonic): what to raise."""
        now = time.monotonic()
        self.last_error = str(error)
        if now - asked_at >= PATIENCE:
            # Perhaps just this row is locked: other keys are decided as before.
            self.last_error = f"the server has not answered in {now - asked_at:.1f} seconds"
            logger.error("a rate limit cannot be decided: %s", self.last_error)
            return LimitUndecided(self.last_error)
        if self._since is None:
            self._since = now
            self.count += 1
            logger.error("rate limits cannot be decided: %s", error)
        self._ask_again_at = now + _RETRY_SECONDS
        return LimitUndecided(self.last_error)

    def end(self) -> None:
        """The database has answered."""
        if self._since is not None:
            seconds = time.monotonic() - self._since
            self._since = None
            logger.warning("rate limits are decided again, after %.1f seconds", seconds)


class Watch:
    """Ends the calls of blocking callers that the server does not answer.

    A blocking call has no timeout of its own, and a server that is frozen, or a row that another
    transaction keeps locked, would hold the caller for as long as it lasts. A thread that lives
    while there are calls cuts the connection then.
    """

    def __init__(self) -> None:
        self._deadlines: dict[KeptConnection, float] = {}
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def begin(self, kept: KeptConnection) -> None:
        """Watch over the call that is made on a connection from now on."""
        self._deadlines[kept] = time.monotonic() + PATIENCE
        if self._thread is None:
            self._start()

    def end(self, kept: KeptConnection) -> None:
        """The call has ended."""
        del self._deadlines[kept]

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pgsync limits", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        last_seen = time.monotonic()
        while True:
            time.sleep(0.25)
            now = time.monotonic()
            for kept, deadline in list(self._deadlines.items()):
                last_seen = now
                if now > deadline:
                    kept.cut()
            if now - last_seen > _IDLE_SECONDS:
                with self._starting:
                    self._thread = None
                    # A call that came before that saw a thread; one after starts another.
                    if not self._deadlines:
                        return
                    self._thread = threading.current_thread()
