"""Job queues: enqueuing and draining beside the bare statements."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import psycopg

from benchmarks.enqueuers import compare_enqueuers
from benchmarks.frame import Comparison, Contender, Pace, Run, compare
from benchmarks.peers import Peers
from benchmarks.pgqueuer_peer import PgQueuer
from benchmarks.working import compare_pickup, compare_two_processes
from pgsync import Coordinator
from pgsync.queues import Task

__all__ = ["measure"]

_SINGLE = 300
_CROWD = 250  # for each of the threads
_THREADS = 8
_BULK = 10_000
_CONCURRENCY = 100

_CLAIM = (
    "WITH picked AS (SELECT id FROM bench_job WHERE state = 'available' ORDER BY id"
    " LIMIT %s FOR UPDATE SKIP LOCKED)"
    " UPDATE bench_job AS j SET state = 'running' FROM picked AS p WHERE j.id = p.id RETURNING j.id"
)


def measure(dsn: str, pace: Pace, peers: Peers) -> Iterator[Comparison]:
    """Yield the comparisons of this subject."""
    peer = PgQueuer(dsn) if peers.pgqueuer else None
    with psycopg.connect(dsn, autocommit=True) as raw, Coordinator(dsn) as sync:
        raw.execute(
            "CREATE TABLE bench_job (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
            " args jsonb NOT NULL, state text NOT NULL DEFAULT 'available')"
        )
        raw.execute("CREATE INDEX ON bench_job (id) WHERE state = 'available'")

        @sync.task(name="noop")
        def noop(n: int) -> None: ...

        @sync.task(name="noop_async")
        async def noop_async(n: int) -> None: ...

        single, bulk = pace.count(_SINGLE), pace.count(_BULK)
        yield compare("enqueue one, one thread", _single(raw, noop, peer, single), pace.rounds)
        with ExitStack() as stack:
            crowd = _crowd(dsn, noop, pace.count(_CROWD), stack)
            yield compare("enqueue one, 8 threads of one process", crowd, pace.rounds)
        yield compare_enqueuers(dsn, pace)
        yield compare("enqueue in bulk", _bulk(raw, noop, peer, bulk), pace.rounds)
        drains = _drain(raw, sync, (noop, noop_async), peer, bulk)
        yield compare("drain, one worker process, no-op job", drains, pace.rounds)
        raw.execute("TRUNCATE pgsync.job_ready")
    yield compare_two_processes(dsn, pace, peer)
    yield compare_pickup(dsn, pace)


def _single(
    raw: psycopg.Connection[object], noop: Task[..., None], peer: PgQueuer | None, count: int
) -> Iterator[Contender]:
    def insert() -> int:
        for number in range(count):
            raw.execute("INSERT INTO bench_job (args) VALUES (%s)", [f'{{"n": {number}}}'])
        return count

    def enqueue() -> int:
        for number in range(count):
            noop.enqueue(n=number)
        return count

    yield Contender("INSERT + commit", insert)
    yield Contender("pgsync", enqueue)
    if peer is not None:
        yield Contender("PgQueuer", lambda: peer.enqueue_one_by_one(count))


def _crowd(dsn: str, noop: Task[..., None], count: int, stack: ExitStack) -> Iterator[Contender]:
    raws = [stack.enter_context(psycopg.connect(dsn, autocommit=True)) for _ in range(_THREADS)]
    threads = stack.enter_context(ThreadPoolExecutor(_THREADS))

    def insert(raw: psycopg.Connection[object]) -> int:
        for number in range(count):
            raw.execute("INSERT INTO bench_job (args) VALUES (%s)", [f'{{"n": {number}}}'])
        return count

    def enqueue(_thread: int) -> int:
        for number in range(count):
            noop.enqueue(n=number)
        return count

    yield Contender("INSERT + commit, 8 connections", lambda: sum(threads.map(insert, raws)))
    yield Contender("pgsync", lambda: sum(threads.map(enqueue, range(_THREADS))))


def _bulk(
    raw: psycopg.Connection[object], noop: Task[..., None], peer: PgQueuer | None, count: int
) -> Iterator[Contender]:
    def copy() -> int:
        lines = io.StringIO()
        lines.writelines(f'{{"n": {number}}}\n' for number in range(count))
        with raw.cursor() as cursor, cursor.copy("COPY bench_job (args) FROM STDIN") as stream:
            stream.write(lines.getvalue())
        return count

    def enqueue_many() -> int:
        noop.enqueue_many({"n": number} for number in range(count))
        return count

    yield Contender("COPY", copy)
    yield Contender("pgsync", enqueue_many)
    if peer is not None:
        yield Contender("PgQueuer", lambda: peer.enqueue_many(count))


def _drain(
    raw: psycopg.Connection[object],
    sync: Coordinator,
    tasks: tuple[Task[..., None], Task[..., None]],
    peer: PgQueuer | None,
    count: int,
) -> Iterator[Contender]:
    """The jobs are enqueued before the time begins."""

    def bare(batch: int) -> Run:
        raw.execute("TRUNCATE bench_job")
        raw.execute("INSERT INTO bench_job (args) SELECT '{}' FROM generate_series(1, %s)", [count])
        began, done = time.perf_counter(), 0
        while ids := [row[0] for row in raw.execute(_CLAIM, [batch])]:
            raw.execute("DELETE FROM bench_job WHERE id = ANY (%s)", [ids])
            done += len(ids)
        return Run(done, time.perf_counter() - began)

    def drain(task: Task[..., None]) -> Run:
        raw.execute("TRUNCATE pgsync.job_ready")
        task.enqueue_many({"n": number} for number in range(count))
        began = time.perf_counter()
        done = sync.run_worker(drain=True, concurrency=_CONCURRENCY).completed
        return Run(done, time.perf_counter() - began)

    for batch in (100, 1_000):
        yield Contender(f"two statements a batch of {batch}", partial(bare, batch))
    yield Contender("pgsync, blocking handler", lambda: drain(tasks[0]))
    yield Contender("pgsync, coroutine handler", lambda: drain(tasks[1]))
    if peer is not None:
        yield Contender("PgQueuer", lambda: peer.drain(count))
