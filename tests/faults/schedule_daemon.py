"""A daemon of the schedules' fault harness: it declares the schedules, fires and performs them."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass

from pgsync import ConnectionFailed, Coordinator

__all__ = ["ScheduleOrders", "declare"]


@dataclass(frozen=True)
class ScheduleOrders:
    """What a process is told: how many ``schedules`` it declares, each due every second."""

    dsn: str
    name: str
    history: str
    seed: str
    schedules: int
    gate: str | None = None

    def text(self) -> str:
        """The orders as one argument of a command."""
        return json.dumps(asdict(self))


def declare(sync: Coordinator, count: int) -> None:
    """The schedules: none of their due times may be left out, however late it is."""
    for number in range(count):
        name = f"every-second-{number}"
        sync.schedule(1, name=name, misfire="all", misfire_limit=10_000)(lambda: None)


def main(orders: ScheduleOrders) -> None:
    """Be a daemon until SIGTERM."""
    faulthandler.enable()  # so that SIGABRT shows where each thread hangs
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    with Coordinator(orders.dsn, app="faults") as sync:
        declare(sync, orders.schedules)
        while not stop.is_set():
            try:
                sync.run_worker(concurrency=8, grace=2, scheduler=True)
                stop.set()  # told to end while it ran
            except ConnectionFailed:
                stop.wait(0.2)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)  # the harness was killed: nobody would ever end this


if __name__ == "__main__":
    main(ScheduleOrders(**json.loads(sys.argv[1])))
