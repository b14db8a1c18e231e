"""One dispatcher's run of a campaign: few claims at a time, several calls at once, a stop for all.

A run lasts a slice of time at most, so that campaigns take turns where there are more of them than
workers, and it ends where it would wait for permits.

What is claimed and not yet answered is what a crash makes unknown. So no more is claimed than is
about to be called: one recipient for each sender, and as many again in reserve.
"""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

from pgsync.modules.broadcasts.error_rate import ErrorRate
from pgsync.modules.broadcasts.pacing import Pace
from pgsync.modules.broadcasts.recipients import Claim, Recipients
from pgsync.modules.broadcasts.sending import Sender, Verdict
from pgsync.modules.broadcasts.statuses import Statuses
from pgsync.modules.broadcasts.trouble import Trouble
from pgsync.operations import OperationRun

__all__ = ["Dispatcher"]

_PARKED_SECONDS = 0.5
_SHORT_WAIT = 2.0


class Dispatcher:
    """Sends what is pending; ``senders`` is how many calls it has under way at once."""

    def __init__(
        self,
        op: OperationRun,
        recipients: Recipients,
        sender: Sender,
        statuses: Statuses,
        pace: Pace,
        *,
        trouble: Trouble,
        senders: int,
        slice_seconds: float,
    ) -> None:
        self._op = op
        self._recipients = recipients
        self._sender = sender
        self._statuses = statuses
        self._pace = pace
        self._trouble = trouble
        self._senders = senders
        self._ends_at = time.monotonic() + slice_seconds
        self.resume_in: float | None = None
        """Seconds after which a next run can go on; None where this one came to its end."""
        self._claimed = 0
        self._finished: queue.SimpleQueue[Future[Verdict]] = queue.SimpleQueue()
        self._stored: list[str] = []
        self._look_at = 0.0
        self._stopping = threading.Event()
        self._stop: Verdict | None = None
        self._done, self._total, _ = recipients.progress()
        self._error_rate = ErrorRate(recipients)

    def run(self) -> Verdict | None:
        """Send until nothing is due, or the campaign sends no more; returns why it must stop.

        Raises:
            LockLost: if the campaign's lock is lost; what was not called is pending again.
        """
        # An earlier dispatcher may have died between storing an id and looking for its statuses.
        self._statuses.unpark()
        with ThreadPoolExecutor(self._senders, thread_name_prefix="pgsync-send") as pool:
            try:
                self._refill(pool)
                while self._claimed or self._waited(pool):
                    if not self._claimed:
                        continue
                    self._take_in(self._finished.get())
                    # A quarter of the reserve is left then, so that no sender waits for the claim.
                    if 4 * self._claimed <= 5 * self._senders:
                        self._refill(pool)
                self._look_for_parked()
            finally:
                self._stopping.set()
        return self._stop

    def _waited(self, pool: ThreadPoolExecutor) -> bool:
        """Wait for permits, where they come soon, and claim; False where the run is over."""
        if self.resume_in is None or self.resume_in > _SHORT_WAIT or self._stopping.is_set():
            return False
        if time.monotonic() + self.resume_in >= self._ends_at:
            return False
        self._stopping.wait(self.resume_in)
        self._refill(pool)
        return bool(self._claimed) or self.resume_in is not None

    def _refill(self, pool: ThreadPoolExecutor) -> None:
        """Claim for the senders and the reserve, which is what waits in the pool."""
        self._op.check()
        self._op.progress(self._done, self._total)
        if time.monotonic() >= self._look_at:
            self._look_for_parked()
        self.resume_in = None
        if self._stopping.is_set():
            return
        if time.monotonic() >= self._ends_at:
            self.resume_in = 0.0
            return
        wanted = 1 if self._trouble.probing else 2 * self._senders
        if self._claimed >= wanted:
            return
        permits = self._pace.take(wanted - self._claimed, self._claimed)
        if not permits:
            self.resume_in = self._pace.wait
            return
        claims, skipped = self._recipients.claim(permits)
        self._pace.give_back(permits - len(claims))
        self._done += skipped
        self._claimed += len(claims)
        for claim in claims:
            pool.submit(self._send, claim).add_done_callback(self._finished.put)

    def _look_for_parked(self) -> None:
        stored, self._stored = self._stored, []
        self._statuses.unpark(stored)
        self._error_rate.look()
        self._heed_errors()
        self._look_at = time.monotonic() + _PARKED_SECONDS

    def _send(self, claim: Claim) -> Verdict:
        if self._stopping.is_set():
            self._recipients.put_back(claim)
            return Verdict("pending")
        verdict = self._sender.send(claim, self._recipients)
        # Here, and not where it is taken in: this sender would have begun the next call by then.
        self._trouble.count(verdict)
        if verdict.stop is not None or self._trouble.reason is not None:
            self._stopping.set()
        return verdict

    def _take_in(self, finished: Future[Verdict]) -> None:
        self._claimed -= 1
        verdict = finished.result()
        if verdict.message_id is not None:
            self._stored.append(verdict.message_id)
        if verdict.stop is not None and self._stop is None:
            self._stop = verdict
        self._done += verdict.state != "pending"
        self._error_rate.count(verdict.state)
        self._heed_errors()

    def _heed_errors(self) -> None:
        reason = self._error_rate.reason
        if reason is not None and self._stop is None:
            self._stop = Verdict("pending", stop=reason)
            self._stopping.set()
