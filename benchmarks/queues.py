"""Job queues: enqueuing and draining beside the bare statements."""

from __future__ import annotations

import io
from collections.abc import Iterator

import psycopg

from benchmarks.frame import Comparison, Contender, Pace, compare
from benchmarks.peers import Peers
from pgsync import Coordinator
from pgsync.queues import Task

__all__ = ["measure"]

_SINGLE = 300
_BULK = 10_000
_BATCH = 100

_CLAIM = (
    "WITH picked AS (SELECT id FROM bench_job WHERE state = 'available' ORDER BY id"
    " LIMIT %s FOR UPDATE SKIP LOCKED)"
    " UPDATE bench_job AS j SET state = 'running' FROM picked AS p WHERE j.id = p.id RETURNING j.id"
)


def measure(dsn: str, pace: Pace, _peers: Peers) -> Iterator[Comparison]:
    """Yield the comparisons of this subject."""
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

        yield compare(
            "enqueue one, one thread", _single(raw, noop, pace.count(_SINGLE)), pace.rounds
        )
        yield compare("enqueue in bulk", _bulk(raw, noop, pace.count(_BULK)), pace.rounds)
        jobs = pace.count(_BULK)
        drains = _drain(raw, sync, noop, noop_async, jobs)
        yield compare("drain, one worker, no-op job", drains, pace.rounds)


def _single(raw: psycopg.Connection[object], noop: Task[..., None], count: int) -> list[Contender]:
    def insert() -> int:
        for number in range(count):
            raw.execute("INSERT INTO bench_job (args) VALUES (%s)", [f'{{"n": {number}}}'])
        return count

    def enqueue() -> int:
        for number in range(count):
            noop.enqueue(n=number)
        return count

    return [Contender("INSERT + commit", insert), Contender("pgsync", enqueue)]


def _bulk(raw: psycopg.Connection[object], noop: Task[..., None], count: int) -> list[Contender]:
    def copy() -> int:
        lines = io.StringIO()
        lines.writelines(f'{{"n": {number}}}\n' for number in range(count))
        with raw.cursor() as cursor, cursor.copy("COPY bench_job (args) FROM STDIN") as stream:
            stream.write(lines.getvalue())
        return count

    def enqueue_many() -> int:
        noop.enqueue_many({"n": number} for number in range(count))
        return count

    return [Contender("COPY", copy), Contender("pgsync", enqueue_many)]


def _drain(
    raw: psycopg.Connection[object],
    sync: Coordinator,
    noop: Task[..., None],
    noop_async: Task[..., None],
    count: int,
) -> list[Contender]:
    def bare() -> int:
        raw.execute("TRUNCATE bench_job")
        raw.execute("INSERT INTO bench_job (args) SELECT '{}' FROM generate_series(1, %s)", [count])
        done = 0
        while ids := [row[0] for row in raw.execute(_CLAIM, [_BATCH])]:
            raw.execute("DELETE FROM bench_job WHERE id = ANY (%s)", [ids])
            done += len(ids)
        return done

    def drain(task: Task[..., None]) -> int:
        task.enqueue_many({"n": number} for number in range(count))
        return sync.run_worker(drain=True, concurrency=_BATCH).completed

    return [
        Contender(f"two statements a batch of {_BATCH}, enqueue included", bare),
        Contender("pgsync, blocking handler, enqueue included", lambda: drain(noop)),
        Contender("pgsync, coroutine handler, enqueue included", lambda: drain(noop_async)),
    ]
