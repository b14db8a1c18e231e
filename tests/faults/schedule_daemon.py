"""A daemon of the schedules' fault harness: it declares the schedules, fires and performs them."""

from __future__ import annotations

from dataclasses import dataclass

from pgsync import Coordinator
from tests.faults.process import Orders, begin, work

__all__ = ["ScheduleOrders", "declare"]

_QUEUE = "schedules"


@dataclass(frozen=True, kw_only=True)
class ScheduleOrders(Orders):
    """What a process is told: how many ``schedules`` it declares, each due every second."""

    schedules: int


def declare(sync: Coordinator, count: int) -> None:
    """The schedules: none of their due times may be left out, however late it is."""
    for number in range(count):
        name = f"every-second-{number}"
        schedule = sync.schedule(1, name=name, queue=_QUEUE, misfire="all", misfire_limit=10_000)
        schedule(lambda: None)


def main(orders: ScheduleOrders) -> None:
    """Be a daemon until SIGTERM."""
    stop = begin()
    with Coordinator(orders.dsn, app="faults") as sync:
        declare(sync, orders.schedules)
        work(sync, stop, queues=[_QUEUE], concurrency=8, grace=2, scheduler=True)


if __name__ == "__main__":
    main(ScheduleOrders.given())
