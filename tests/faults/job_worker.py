"""One process of the jobs' fault harness: it enqueues, and works.

Each effect is a row. Where the handlers are guarded, the row and the job's completion are one
transaction. What was acknowledged is appended to a history file, so that it outlives ``kill -9``.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

import psycopg

from pgsync import ConnectionFailed, Coordinator, OutcomeUnknown, current_job
from tests.faults.history import History

__all__ = ["JobOrders", "declare"]

_EFFECT = "INSERT INTO effect (job, attempt) VALUES (%s, %s)"
_MOST_ATTEMPTS = 10_000  # kills and ended sessions spend attempts, and are none of the handler's
_BACKLOG = 2_000


@dataclass(frozen=True)
class JobOrders:
    """What a process is told; ``pause`` is between two enqueues, in seconds."""

    dsn: str
    name: str
    history: str
    seed: str
    guarded: bool
    pause: float = 0.002
    gate: str | None = None

    def text(self) -> str:
        """The orders as one argument of a command."""
        return json.dumps(asdict(self))


def declare(sync: Coordinator, dsn: str, *, guarded: bool) -> list[Any]:
    """The tasks of the harness: blocking, coroutine, failing now and then, and limited by key."""

    def effect() -> None:
        job = current_job()
        with sync.database.connection() as connection, connection.transaction():
            connection.execute(_EFFECT, [job.id, job.attempt])
            if guarded:
                job.complete(within=connection)

    @sync.task(max_attempts=_MOST_ATTEMPTS, backoff=0.1)
    def blocking(n: int) -> None:
        effect()

    @sync.task(max_attempts=_MOST_ATTEMPTS, backoff=0.1)
    async def awaiting(n: int) -> None:
        job = current_job()
        connection = await psycopg.AsyncConnection.connect(dsn, application_name="effect")
        async with connection:
            await connection.execute(_EFFECT, [job.id, job.attempt])
            if guarded:
                await job.complete_async(within=connection)

    @sync.task(max_attempts=_MOST_ATTEMPTS, backoff=0.05)
    def failing(n: int) -> None:
        job = current_job()
        if random.Random(f"{job.id}.{job.attempt}").random() < 0.3:
            raise RuntimeError("now and then")
        effect()

    @sync.task(max_attempts=_MOST_ATTEMPTS, backoff=0.1, key="k{n}", max_running_per_key=2)
    def limited(n: int) -> None:
        effect()

    @sync.task(max_attempts=_MOST_ATTEMPTS, backoff=0.1, key="o{n}", ordered=True)
    def ordered(n: int) -> None:
        effect()

    return [blocking, awaiting, failing, limited, ordered]


def produce(sync: Coordinator, tasks: list[Any], orders: JobOrders, stop: threading.Event) -> None:
    """Enqueue until told to stop, and note what was acknowledged."""
    history = History(orders.history)
    rng = random.Random(orders.seed)
    while not stop.wait(orders.pause):
        task, n = rng.choice(tasks), rng.randrange(4)
        try:
            history.add("acknowledged", job=task.enqueue(n=n).id, task=task.name)
            if rng.random() < 0.02:
                jobs = task.enqueue_many({"n": n % 4} for n in range(20))
                for job in jobs:
                    history.add("acknowledged", job=job, task=task.name)
            if rng.random() < 0.05:
                rows = sync.database.run(_backlog())
                time.sleep(0.5 if rows > _BACKLOG else 0.0)
        except OutcomeUnknown:
            history.add("unknown")
        except (ConnectionFailed, psycopg.Error) as error:
            history.add("failed", error=type(error).__name__)
            stop.wait(0.1)


def _backlog() -> Any:
    from pgsync.database.calls import Call, scalar

    return Call("SELECT count(*) FROM pgsync.job_ready", {}, scalar)


def main(orders: JobOrders) -> None:
    """Enqueue and work until SIGTERM."""
    faulthandler.enable()  # so that SIGABRT shows where each thread hangs
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    parent = os.getppid()
    threading.Thread(target=_end_with, args=[parent], daemon=True).start()
    with Coordinator(orders.dsn, pool_size=12) as sync:
        tasks = declare(sync, orders.dsn, guarded=orders.guarded)
        producer = threading.Thread(target=produce, args=[sync, tasks, orders, stop])
        producer.start()
        while not stop.is_set():
            try:
                sync.run_worker(concurrency=8, grace=5)
                stop.set()  # told to end while it ran
            except ConnectionFailed:
                stop.wait(0.2)
        producer.join()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)  # the harness was killed: nobody would ever end this


if __name__ == "__main__":
    main(JobOrders(**json.loads(sys.argv[1])))
