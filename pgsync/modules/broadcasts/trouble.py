"""Backing off while the API is in trouble: whom it is asked to send to then may become unknown."""

from __future__ import annotations

import threading

from pgsync.modules.broadcasts.sending import Verdict
from pgsync.queues import Backoff

__all__ = ["Trouble"]

_WAITS = Backoff((5.0,), jitter=0.25, longest=600.0)


class Trouble:
    """How a run's calls fare. ``rounds`` is how many runs in a row before it met nothing else.

    A run that meets trouble with so many calls one after another as there are senders (3 at the
    least) claims nobody else, and the next one begins later, each time twice as long. That one
    calls for a single recipient, until the API answers again. May be shared between threads.
    """

    def __init__(self, senders: int, rounds: int) -> None:
        self._most = max(senders, 3)
        self._row = 0
        self._answered = rounds == 0
        self._mutex = threading.Lock()
        self.rounds = rounds
        self.reason: str | None = None
        """What the trouble is; None where the run may go on."""

    @property
    def probing(self) -> bool:
        """Whether one call is to tell first if the API answers again."""
        return not self._answered

    def count(self, verdict: Verdict) -> None:
        """Heed what a call met."""
        with self._mutex:
            if verdict.trouble is not None:
                self._row += 1
                if self.reason is None and (self.probing or self._row >= self._most):
                    self.reason = verdict.trouble
                    self.rounds += 1
            elif verdict.state in ("sent", "failed"):
                self._row = 0
                self._answered = True
                if self.reason is None:
                    self.rounds = 0

    @property
    def wait(self) -> float:
        """Seconds until the next run, of which a quarter more or less is chance."""
        return _WAITS.delay(self.rounds).total_seconds()
