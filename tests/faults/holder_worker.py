"""One process of the fault harness that holds places of a semaphore, and stands for leadership.

What it does inside it writes down in a transaction that the holder's guard is part of.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg

from pgsync import Coordinator
from tests.faults.guarded_work import GuardedWork
from tests.faults.history import History
from tests.faults.process import Orders, begin
from tests.threads import at_once

__all__ = ["HolderOrders"]

_ENTER = "SELECT clock_timestamp()"
_WRITE = (
    "INSERT INTO holding (section, what, token, worker, entered_at, left_at)"
    " VALUES (%s, %s, %s, %s, %s, clock_timestamp())"
)
_LONG_STAYS = 0.02  # the share of those that last about as long as the ttl, or longer


@dataclass(frozen=True, kw_only=True)
class HolderOrders(Orders):
    """What a process is told; ``slots`` are the semaphore's, ``ttl`` is in seconds."""

    slots: int
    ttl: float = 1.0
    threads: int = 3


class HolderThread(GuardedWork):
    """Goes inside again and again, until it is told to stop."""

    def __init__(
        self, orders: HolderOrders, name: str, history: History, stop: threading.Event
    ) -> None:
        super().__init__(orders.dsn, f"{orders.seed}.{name}", name, history, stop)
        self._orders = orders

    def hold_slots(self, sync: Coordinator) -> None:
        """Take a place of the semaphore, be inside, and give it back."""

        def turn() -> None:
            with sync.semaphore(
                "slots", self._orders.slots, ttl=self._orders.ttl, wait=2.0, owner=self._name
            ) as place:
                for _ in range(self._random.choice((1, 1, 3))):
                    self._be_inside("slots", place)

        self.again_and_again(turn)

    def lead(self, sync: Coordinator) -> None:
        """Stand for leadership, do the leader's work, and step down now and then."""

        def term() -> None:
            election = sync.elect("leader", ttl=self._orders.ttl, retry=0.1, owner=self._name)
            with election:
                election.wait(2.0)
                while not self._stop.is_set() and self._random.random() > 0.02:
                    lock = election.lock
                    if lock is None:
                        election.wait(0.5)
                    else:
                        self._be_inside("leader", lock)

        self.again_and_again(term)

    def _be_inside(self, what: str, lock: Any) -> None:
        stay = self._random.uniform(0.0, 0.01)
        if self._random.random() < _LONG_STAYS:
            stay = self._random.uniform(0.5, 1.5) * self._orders.ttl
        guard_first = self._random.random() < 0.5

        def write(data: psycopg.Connection[Any], section: str) -> dict[str, Any]:
            entered = data.execute(_ENTER).fetchone()
            assert entered is not None
            if guard_first:
                lock.guard(data)
            self._stop.wait(stay)
            data.execute(_WRITE, [section, what, lock.token, self._name, *entered])
            if not guard_first:
                lock.guard(data)
            return {}

        self.commit(write, what=what)


def main(orders: HolderOrders) -> None:
    """Hold and lead until SIGTERM."""
    stop = begin()
    history = History(orders.history)
    with Coordinator(orders.dsn) as sync:
        first, *others = (
            HolderThread(orders, f"{orders.name}.{number}", history, stop)
            for number in range(orders.threads)
        )
        works = [first.lead, *(holder.hold_slots for holder in others)]
        at_once((partial(work, sync) for work in works), within=None)


if __name__ == "__main__":
    main(HolderOrders.given())
