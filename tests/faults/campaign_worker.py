"""One worker of the campaigns' fault harness: it sends until SIGTERM."""

from __future__ import annotations

from dataclasses import dataclass

from pgsync import Coordinator
from pgsync.modules.broadcasts import UNCAPPED
from pgsync.modules.platform import Platform
from tests.faults.process import Orders, begin, work

__all__ = ["CampaignOrders"]


@dataclass(frozen=True, kw_only=True)
class CampaignOrders(Orders):
    """What a worker is told."""

    graph_url: str


def main(orders: CampaignOrders) -> None:
    """Work, also over restarts of the server, until SIGTERM."""
    stop = begin()
    with Coordinator(orders.dsn) as sync:
        Platform(sync, graph_url=orders.graph_url, caps=UNCAPPED)
        queues = ["campaigns", "sync"]
        work(sync, stop, queues=queues, concurrency=2, grace=5, scheduler=True)


if __name__ == "__main__":
    main(CampaignOrders.given())
