"""Webhooks of the stand-in: delivered by one thread, in the order and number asked for."""

from __future__ import annotations

import heapq
import itertools
import json
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import requests

from pgsync.modules.whatsapp.standin.envelopes import signature

__all__ = ["Delivery", "Plan", "Webhooks"]

_ORDERS = ("forward", "reversed", "shuffled")
_ATTEMPTS = 5
_KEPT = 100_000


@dataclass(frozen=True, slots=True)
class Plan:
    """Which statuses follow an accepted message.

    ``early`` sends the first of them before the answer to the send. ``copies`` is how often each
    is sent. ``order`` is forward, reversed or shuffled, for the statuses of one message. ``delay``
    is in seconds from acceptance to the first one. ``failures`` names the recipients (digits)
    whose message fails, with the error code, instead of arriving.
    """

    statuses: tuple[str, ...] = ("sent", "delivered", "read")
    early: bool = False
    copies: int = 1
    order: str = "forward"
    delay: float = 0.0
    failures: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.order not in _ORDERS or self.copies < 1 or self.delay < 0:
            raise ValueError(f"order is one of {', '.join(_ORDERS)}; copies from 1; delay from 0")

    def series(self, to: str) -> list[tuple[str, int | None]]:
        """Return the statuses of a message to ``to``, each with its error code or None."""
        if to in self.failures:
            series: list[tuple[str, int | None]] = [("failed", self.failures[to])]
        else:
            series = [(status, None) for status in self.statuses]
        series = [each for each in series for _ in range(self.copies)]
        if self.order == "reversed":
            series.reverse()
        elif self.order == "shuffled":
            random.shuffle(series)
        return series


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt to deliver a webhook; ``status`` is the receiver's answer, 0 if unreachable."""

    envelope: dict[str, Any]
    status: int


class Webhooks:
    """Posts webhooks to one receiver, signed; repeats one that is not answered with 2xx.

    :meth:`flush` waits until none is left to send. Safe to use from several threads.
    """

    def __init__(self, secret: str) -> None:
        self.secret = secret
        self.url: str | None = None
        self.plan: Plan | None = None
        self._changed = threading.Condition()
        self._queue: list[tuple[float, int, int, dict[str, Any]]] = []
        self._numbers = itertools.count()
        self._busy = False
        self._stopped = False
        self._deliveries: list[Delivery] = []
        self._session = requests.Session()
        self._thread: threading.Thread | None = None

    def put(self, envelope: dict[str, Any], delay: float = 0.0, attempt: int = 1) -> None:
        """Deliver ``envelope`` after ``delay`` seconds, after those that are due before it.

        Raises:
            RuntimeError: if no receiver is configured.
        """
        self._receiver()
        with self._changed:
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(
                    target=self._deliver_all, name="graph-standin-webhooks", daemon=True
                )
                self._thread.start()
            due = time.monotonic() + delay
            heapq.heappush(self._queue, (due, next(self._numbers), attempt, envelope))
            self._changed.notify_all()

    def post(self, envelope: dict[str, Any]) -> int:
        """Deliver ``envelope`` now, once; return the receiver's HTTP status, 0 if unreachable."""
        url = self._receiver()
        body = json.dumps(envelope, separators=(",", ":")).encode()
        headers = {
            "Content-Type": "application/json",
            "X-Hub-Signature-256": signature(self.secret, body),
        }
        try:
            answer = self._session.post(url, data=body, headers=headers, timeout=(2, 10))
            status = answer.status_code
        except requests.RequestException:
            status = 0
        with self._changed:
            self._deliveries.append(Delivery(envelope, status))
            del self._deliveries[:-_KEPT]
        return status

    def _receiver(self) -> str:
        if self.url is None:
            raise RuntimeError("no receiver of webhooks is configured")
        return self.url

    @property
    def deliveries(self) -> list[Delivery]:
        """All attempts so far, in order."""
        with self._changed:
            return list(self._deliveries)

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until every webhook is delivered or given up; False if ``timeout`` seconds pass."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue and not self._busy, timeout)

    def stop(self) -> None:
        """Drop what is not delivered yet and end the thread."""
        with self._changed:
            self._stopped = True
            self._queue.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=15)
        self._session.close()

    def _deliver_all(self) -> None:
        while (job := self._next()) is not None:
            attempt, envelope = job
            status = self.post(envelope)
            # The next attempt is in the queue before this one is over, or flush() would slip by.
            if not 200 <= status < 300 and attempt < _ATTEMPTS:
                self.put(envelope, delay=0.1 * 2.0**attempt, attempt=attempt + 1)
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _next(self) -> tuple[int, dict[str, Any]] | None:
        """Wait for the next webhook that is due; None when the stand-in stops."""
        with self._changed:
            while not self._stopped:
                if not self._queue:
                    self._changed.wait()
                    continue
                wait = self._queue[0][0] - time.monotonic()
                if wait > 0:
                    self._changed.wait(wait)
                    continue
                _, _, attempt, envelope = heapq.heappop(self._queue)
                self._busy = True
                return attempt, envelope
            return None
