"""One worker of the campaigns' fault harness: it sends until SIGTERM."""

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
from pgsync.modules.broadcasts import UNCAPPED
from pgsync.modules.platform import Platform

__all__ = ["CampaignOrders", "end_with"]


@dataclass(frozen=True)
class CampaignOrders:
    """What a worker is told."""

    dsn: str
    graph_url: str
    seed: str
    name: str = ""
    history: str = ""
    gate: str | None = None

    def text(self) -> str:
        """The orders as one argument of a command."""
        return json.dumps(asdict(self))


def main(orders: CampaignOrders) -> None:
    """Work, also over restarts of the server, until SIGTERM."""
    faulthandler.enable()  # so that SIGABRT shows where each thread hangs
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=end_with, args=[os.getppid()], daemon=True).start()
    with Coordinator(orders.dsn) as sync:
        Platform(sync, graph_url=orders.graph_url, caps=UNCAPPED)
        while not stop.is_set():
            try:
                sync.run_worker(
                    queues=["campaigns", "sync"], concurrency=2, grace=5, scheduler=True
                )
                stop.set()  # told to end while it ran
            except ConnectionFailed:
                stop.wait(0.2)


def end_with(parent: int) -> None:
    """End this process when the harness is gone: nobody else would."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


if __name__ == "__main__":
    main(CampaignOrders(**json.loads(sys.argv[1])))
