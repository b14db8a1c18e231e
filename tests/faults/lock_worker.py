"""One worker process of the fault harness: threads that raise a counter under one lock.

Nothing but the lock protects the counter: it is read plainly, and written as what was read plus
one. What happened is appended to a history file, a line at a time, so that it outlives ``kill -9``.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from pgsync import Coordinator, LockHeld, LockLost
from tests.faults.guarded_work import GuardedWork
from tests.faults.history import History
from tests.faults.process import Orders, begin
from tests.threads import at_once

__all__ = ["LOCK", "LockOrders"]

LOCK = "counter"
_LONG_PAUSES = 0.004  # the share of sections that last about as long as the ttl, or longer
_GUARD_MOMENTS = ("before the read", "before the write", "last")


@dataclass(frozen=True, kw_only=True)
class LockOrders(Orders):
    """What a worker process is told; ``ttl`` and ``wait`` are in seconds.

    In its first section it waits for ``gate`` to exist, between its read and its write.
    """

    ttl: float
    wait: float
    guarded: bool
    threads: int


class CounterThread(GuardedWork):
    """Takes the lock, raises the counter, again and again until it is told to stop."""

    def __init__(
        self,
        orders: LockOrders,
        number: int,
        sync: Coordinator,
        history: History,
        stop: threading.Event,
    ) -> None:
        name, seed = f"{orders.name}.{number}", f"{orders.seed}.{number}"
        super().__init__(orders.dsn, seed, name, history, stop)
        self._orders = orders
        self._sync = sync
        self._gate = Path(orders.gate) if orders.gate and number == 0 else None

    def run(self) -> None:
        """Work until told to stop."""
        self.again_and_again(self._take_turn)

    def _take_turn(self) -> None:
        long_pause = self._random.random() < _LONG_PAUSES
        wait = self._orders.wait * self._random.choice((0.05, 1, 1, 1))
        lock = self._sync.lock(
            LOCK,
            ttl=self._orders.ttl,
            wait=wait,
            owner=self._name,
            auto_renew=long_pause and self._random.random() < 0.5,
        )
        sent = time.monotonic()
        outcome, token = "failed", None
        try:
            lock.acquire()
            outcome, token = "granted", lock.token
        except LockHeld:
            outcome = "held"
            return
        finally:
            got = time.monotonic()
            times = {"wait": wait, "sent": sent, "got": got}
            self._history.add(outcome, worker=self._name, token=token, **times)
        try:
            for _ in range(self._random.choice((1, 1, 1, 3))):
                self._section(lock, long_pause)
        finally:
            self._history.add("released", worker=self._name, token=token, kept=lock.release())

    def _section(self, lock: Any, long_pause: bool) -> None:
        """One protected section."""
        moment = self._random.choice(_GUARD_MOMENTS) if self._orders.guarded else None
        by_sql = self._random.random() < 0.5
        if moment and self._gate:
            # An earlier one would hold off the others, for whom the gate waits; and lock.guard()
            # looks at its own deadline first: the server shall refuse it.
            moment, by_sql = "last", True
        pause = self._random.uniform(0, 0.002)
        if long_pause:
            pause = self._random.uniform(0.5, 1.5) * self._orders.ttl

        def raise_counter(data: psycopg.Connection[Any], section: str) -> dict[str, Any]:
            if moment == "before the read":
                _guard(lock, data, by_sql)
            read, entered = _row(data.execute("SELECT value, clock_timestamp() FROM counter"))
            value = read + 1
            self._pause(section, pause)
            if moment == "before the write":
                _guard(lock, data, by_sql)
            data.execute("UPDATE counter SET value = %s", [value])
            data.execute(
                "INSERT INTO ledger (section, value, token, worker, entered_at, left_at)"
                " VALUES (%s, %s, %s, %s, %s, clock_timestamp())",
                [section, value, lock.token, self._name, entered],
            )
            if moment == "last":
                _guard(lock, data, by_sql)
            return {"value": value}

        self.commit(raise_counter)

    def _pause(self, section: str, seconds: float) -> None:
        if self._gate is not None:
            gate, self._gate = self._gate, None
            self._history.add("at the gate", worker=self._name, section=section)
            while not gate.exists():
                time.sleep(0.01)
        else:
            time.sleep(seconds)


def _guard(lock: Any, data: psycopg.Connection[Any], by_sql: bool) -> None:
    """Guard as a Python program does, or as one does that has only SQL."""
    if not by_sql:
        lock.guard(data)
        return
    try:
        data.execute("SELECT pgsync.assert_lock(%s, %s)", [LOCK, lock.token])
    except psycopg.Error as error:
        if error.sqlstate != "PS001":
            raise
        raise LockLost(LOCK, str(error)) from error


def _row(cursor: psycopg.Cursor[Any]) -> Any:
    row = cursor.fetchone()
    assert row is not None
    return row


def main(orders: LockOrders) -> None:
    """Work with the threads that were ordered until SIGTERM."""
    stop = begin()
    history = History(orders.history)
    with Coordinator(orders.dsn) as sync:
        workers = [
            CounterThread(orders, number, sync, history, stop) for number in range(orders.threads)
        ]
        at_once((worker.run for worker in workers), within=None)


if __name__ == "__main__":
    main(LockOrders.given())
