"""``python -m benchmarks.idle_workers DSN COUNT``: workers of an empty queue, until SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import sys

from pgsync.daemon.worker import Worker
from pgsync.queues import TaskRegistry

__all__: list[str] = []


async def _main(dsn: str, count: int) -> None:
    workers = [Worker(dsn, TaskRegistry(), queues=["idle"]) for _ in range(count)]

    def stop() -> None:
        for worker in workers:
            worker.stop()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    await asyncio.gather(*(worker.run() for worker in workers))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2])))
