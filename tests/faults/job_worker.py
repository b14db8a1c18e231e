"""One process of the jobs' fault harness: it enqueues, and works.

Each effect is a row. Where the handlers are guarded, the row and the job's completion are one
transaction. What was acknowledged is appended to a history file, so that it outlives ``kill -9``.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from typing import Any

import psycopg

from pgsync import ConnectionFailed, Coordinator, LockCapacityError, OutcomeUnknown, current_job
from tests.faults.history import History
from tests.faults.process import Orders, begin, work

__all__ = ["JobOrders", "declare"]

_ENTER = "SELECT clock_timestamp()"
_EFFECT = (
    "INSERT INTO effect (job, attempt, task, key, entered_at, left_at)"
    " VALUES (%s, %s, %s, %s, %s, clock_timestamp())"
)
_MOST_ATTEMPTS = 10_000  # kills and ended sessions spend attempts, and are none of the handler's
_BACKLOG = 2_000


@dataclass(frozen=True, kw_only=True)
class JobOrders(Orders):
    """What a process is told; ``pause`` is between two enqueues, in seconds."""

    guarded: bool
    pause: float = 0.002


def declare(sync: Coordinator, dsn: str, *, guarded: bool) -> list[Any]:
    """The tasks of the harness: blocking, coroutine, failing now and then, and limited by key."""

    def effect(key: str | None = None) -> None:
        job = current_job()
        with sync.database.connection() as connection, connection.transaction():
            entered = connection.execute(_ENTER).fetchone()
            if key:
                time.sleep(0.002)  # long enough for another one to be inside, if it were let in
            connection.execute(_EFFECT, [job.id, job.attempt, job.job.task, key, *(entered or ())])
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
            entered = await (await connection.execute(_ENTER)).fetchone()
            values = [job.id, job.attempt, job.job.task, None, *(entered or ())]
            await connection.execute(_EFFECT, values)
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
        effect(f"k{n}")

    @sync.task(max_attempts=_MOST_ATTEMPTS, backoff=0.1, key="o{n}", ordered=True)
    def ordered(n: int) -> None:
        effect(f"o{n}")

    return [blocking, awaiting, failing, limited, ordered]


def produce(sync: Coordinator, tasks: list[Any], orders: JobOrders, stop: threading.Event) -> None:
    """Enqueue until told to stop, and note what was acknowledged."""
    history = History(orders.history)
    rng = random.Random(orders.seed)
    while not stop.wait(orders.pause):
        task, n = rng.choice(tasks), rng.randrange(4)
        told = {"task": task.name, "by": orders.name}
        try:
            history.add("acknowledged", job=task.enqueue(n=n).id, **told)
            if rng.random() < 0.02:
                jobs = task.enqueue_many({"n": n % 4} for n in range(20))
                for job in jobs:
                    history.add("acknowledged", job=job, **told)
            if rng.random() < 0.05:
                rows = sync.database.run(_backlog())
                time.sleep(0.5 if rows > _BACKLOG else 0.0)
        except OutcomeUnknown:
            history.add("unknown")
        except (ConnectionFailed, LockCapacityError, psycopg.Error) as error:
            history.add("failed", error=type(error).__name__)
            stop.wait(0.1)


def _backlog() -> Any:
    from pgsync.database.calls import Call, scalar

    return Call("SELECT count(*) FROM pgsync.job_ready", {}, scalar)


def main(orders: JobOrders) -> None:
    """Enqueue and work until SIGTERM."""
    stop = begin()
    with Coordinator(orders.dsn, pool_size=12) as sync:
        tasks = declare(sync, orders.dsn, guarded=orders.guarded)
        producer = threading.Thread(target=produce, args=[sync, tasks, orders, stop])
        producer.start()
        work(sync, stop, concurrency=8, grace=5)
        producer.join()


if __name__ == "__main__":
    main(JobOrders.given())
