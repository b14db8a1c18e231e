"""An app that works with whichever library is on its PYTHONPATH: it enqueues, works, fires
schedules, locks, limits and runs operations, over and over until SIGTERM. After SIGUSR1 it only
works and fires.

It writes down what it was told. The test that runs it reads that, and what the app wrote into the
tables ``effect`` (of jobs) and ``guarded`` (of holders of a lock).
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

import pgsync
from pgsync import (
    ConnectionFailed,
    Coordinator,
    Limit,
    SchemaMissing,
    TokenBucket,
    Unique,
    current_job,
)

TABLES = """
CREATE TABLE effect (job bigint NOT NULL, library text NOT NULL);
CREATE TABLE guarded (token bigint NOT NULL, place bigint GENERATED ALWAYS AS IDENTITY);
"""

_MIGRATED_MEANWHILE = (ConnectionFailed, SchemaMissing)
"""What docs/upgrading.md says to try again: nothing of the failed call has happened."""

_ROUNDS_AHEAD = 5


class App:
    """What it declares, and its steps."""

    def __init__(self, sync: Coordinator, ledger: str, stop: threading.Event) -> None:
        self._sync = sync
        self._stop = stop
        self._ledger = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.send: Any = sync.task(name="send")(self._effect)
        self.keyed: Any = sync.task(name="keyed", key="{n}", max_running_per_key=1, tenant="{n}")(
            self._effect
        )
        self.broken: Any = sync.task(name="broken", max_attempts=2, backoff=0)(self._break)
        self.tick: Any = sync.schedule(1, name="tick", misfire="all")(lambda: self.note("fired"))
        self.copy: Any = sync.operation(
            "copy", lock="copy:{n}", ttl=60, limit=Limit(10**6, per=60)
        )(self._copy)
        self._locks = count(os.getpid() * 10**6)
        self._queued: deque[int] = deque()
        self.limiter = sync.limiter("api", Limit(10**6, per=60), TokenBucket(10**6, per=60))

    def note(self, event: str, **facts: Any) -> None:
        """Write a line, whole or not at all."""
        os.write(self._ledger, (json.dumps({"event": event, **facts}) + "\n").encode())

    def steps(self) -> Iterator[Callable[[int], None]]:
        """All that it does in a round."""
        yield self._enqueue
        yield self._enqueue_within
        yield self._enqueue_together
        yield self._look_at_jobs
        yield self._lock
        yield self._limit
        yield self._operate
        yield self._let_workers_keep_up

    def _effect(self, n: int) -> None:
        job = current_job()
        assert job is not None
        with self._sync.database.connection() as connection, connection.transaction():
            library = str(Path(pgsync.__file__).parents[1])
            connection.execute("INSERT INTO effect VALUES (%s, %s)", [job.id, library])
            job.complete(within=connection)

    def _break(self) -> None:
        raise RuntimeError("as it does")

    def _copy(self, op: Any, n: int) -> None:
        op.progress(n, n)

    def _enqueue(self, n: int) -> None:
        self.note("acknowledged", jobs=[self.send.enqueue(n=n).id])
        self.note("acknowledged", jobs=list(self.keyed.enqueue_many([{"n": n}, {"n": n + 1}])))
        self.broken.enqueue()
        self.send.options(delay=3600, unique=Unique()).enqueue(n=n)

    def _enqueue_within(self, n: int) -> None:
        with psycopg.connect(self._sync.dsn) as connection:
            jobs = [self.send.enqueue(n=n, within=connection).id]
        self.note("acknowledged", jobs=jobs)

    def _enqueue_together(self, n: int) -> None:
        self.note("acknowledged", jobs=self._sync.chain([self.send.job(n=n), self.keyed.job(n=n)]))
        batch = self._sync.batch("two", [self.send.job(n=n)], on_end=self.send.job(n=n))
        self.note("acknowledged", jobs=list(batch.jobs))

    def _look_at_jobs(self, n: int) -> None:
        job = self.send.options(delay=3600).enqueue(n=n).id
        assert self._sync.job(job) is not None
        assert self._sync.why_not_running(job).state == "scheduled"
        assert self._sync.cancel_job(job) == "cancelled"
        self._sync.pause_queue("other")
        self._sync.limit_queue("other", max_running=n + 1)
        self._sync.resume_queue("other")

    def _lock(self, n: int) -> None:
        with (
            self._sync.lock("report", ttl=60, wait=30) as lock,
            self._sync.database.connection() as connection,
        ):
            lock.renew()
            with connection.transaction():
                lock.guard(connection)
                connection.execute("INSERT INTO guarded (token) VALUES (%s)", [lock.token])
        with self._sync.semaphore("slots", 9, ttl=60), self._sync.lock_all(["a"], ttl=60, wait=30):
            self._sync.explain_lock("slots")

    def _limit(self, n: int) -> None:
        assert self.limiter.hit("key").allowed
        self.limiter.acquire("key", timeout=10)
        self.limiter.refund(self.limiter.hit("other"))

    def _operate(self, n: int) -> None:
        # Each under a lock of its own: of one that is held a run is refused, and its job cancelled,
        # and the job of the last round may run still.
        called, queued = next(self._locks), next(self._locks)
        self.copy(n=called)
        self._queued.append(self.copy.enqueue(n=queued).id)
        assert self._sync.status_of("copy", f"copy:{called}")

    def _let_workers_keep_up(self, n: int) -> None:
        while len(self._queued) > _ROUNDS_AHEAD and not self._stop.wait(0.1):
            job = self._sync.job(self._queued[0])
            assert job is not None
            if job.state == "completed":
                self._queued.popleft()


def main(dsn: str, ledger: str) -> None:
    """Be the app until SIGTERM."""
    faulthandler.enable()
    stop, rests = threading.Event(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGUSR1, lambda *_: rests.set())
    with Coordinator(dsn, app="shop") as sync:
        app = App(sync, ledger, stop)
        app.note("began", library=pgsync.__file__)
        sync.start(queues=["default"], concurrency=4, grace=10)
        n = 0
        while not (stop.is_set() or rests.is_set()):
            n += 1
            for step in app.steps():
                try:
                    step(n)
                except _MIGRATED_MEANWHILE as error:
                    app.note("again", error=f"{type(error).__name__} {error}")
                    step(n)
            app.note("round")
            stop.wait(0.2)
        stop.wait()
        sync.stop()
        app.note("ended")


if __name__ == "__main__":
    main(*sys.argv[1:])
