"""What a queue may be burdened with, made by SQL, and a worker that drains jobs beside it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from benchmarks.frame import Run
from pgsync.daemon import Daemon
from pgsync.database.migrations import migrate
from pgsync.queues import TaskDeclaration, TaskRegistry

__all__ = ["Place", "idle_workers", "places", "snapshot"]

_CHUNK = 10_000
_CONCURRENCY = 100
_ARGS = '{"n": 1, "to": "somebody@example.org"}'

# Dead rows as they arise: what is updated and deleted, be it vacuumed since or not.
_COSTS = """
SELECT pg_current_wal_insert_lsn() - '0/0',
       (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()),
       (SELECT sum(n_tup_upd + n_tup_del) FROM pg_stat_user_tables WHERE schemaname = 'pgsync')
"""


class Place:
    """A database with the schema, and the jobs of one measurement in it."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.session = psycopg.connect(dsn, autocommit=True)

    def number(self, statement: Any, *values: Any) -> int:
        """The number that a statement returns."""
        row = self.session.execute(statement, values).fetchone()
        assert row is not None
        return int(row[0])

    def add(self, count: int, queue: str = "bench") -> None:
        """Enqueue so many jobs."""
        for done in range(0, count, _CHUNK):
            self.session.execute(
                "SELECT pgsync.add_jobs('noop', array_fill(%s::jsonb, ARRAY[%s]), %s)",
                [_ARGS, min(_CHUNK, count - done), queue],
            )

    def add_over(self, queues: int, count: int) -> int:
        """Enqueue about so many jobs, the same number in each of so many queues."""
        each = max(1, count // queues)
        self.session.execute(
            "SELECT pgsync.add_jobs('noop', array_fill(%s::jsonb, ARRAY[%s]), 'queue' || n)"
            " FROM generate_series(1, %s) AS n",
            [_ARGS, each, queues],
        )
        return each * queues

    def add_history(self, count: int) -> None:
        """Write so many ended jobs, over the days whose partitions there are."""
        for day in range(8):
            self.session.execute(
                "INSERT INTO pgsync.job_finished (id, queue, task, args, priority, attempt,"
                " max_attempts, created_at, run_at, state, worker, started_at, finished_at)"
                " SELECT nextval('pgsync.job_id'), 'bench', 'noop', %s, 0, 1, 5, m.at, m.at,"
                " 'completed', 1, m.at, m.at FROM (SELECT (pgsync.clock() AT TIME ZONE 'UTC')::date"
                "::timestamp AT TIME ZONE 'UTC' + %s * interval '1 day' + interval '1 hour' AS at)"
                " AS m, generate_series(1, %s)",
                [_ARGS, day, count // 8],
            )

    def settle(self) -> None:
        """Have the server end what the filling left to do, so that it is not measured."""
        self.session.execute("VACUUM ANALYZE")
        self.session.execute("CHECKPOINT")

    def drain(self, count: int, queues: Sequence[str] = ("bench",)) -> Run:
        """Have a worker, with its maintenance, perform so many of the jobs there are."""
        ended = 0.0
        handled = 0

        async def noop(**_args: Any) -> None:
            nonlocal ended, handled
            handled += 1
            if handled == count:
                ended = time.perf_counter()
                daemon.stop()

        tasks = TaskRegistry()
        tasks.add(TaskDeclaration.of(noop, {}))
        daemon = Daemon(
            self.dsn,
            tasks,
            queues=queues,
            concurrency=_CONCURRENCY,
            only=("worker", "maintenance"),
            grace=30,
        )
        before = self._costs()
        began = time.perf_counter()
        asyncio.run(daemon.run())
        # Of the drain as it was: with autovacuum, and with whole pages after checkpoints.
        spent = {name: (now - before[name]) / count for name, now in self._costs().items()}
        return Run(count, ended - began, spent)

    def _costs(self) -> dict[str, float]:
        """What the server has counted so far; each name is of one job's share."""
        row = self.session.execute(_COSTS).fetchone()
        assert row is not None
        return dict(zip(("wal_bytes", "transactions", "dead_rows"), map(float, row), strict=True))

    def milliseconds(self, statement: Any) -> float:
        """How long a statement takes, at best of three."""
        took: list[float] = []
        for _ in range(3):
            began = time.perf_counter()
            self.session.execute(statement).fetchall()
            took.append(time.perf_counter() - began)
        return min(took) * 1000

    def committed_a_second(self, seconds: float) -> float:
        """How many transactions of others are committed here in a second."""
        count = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        before = self.number(count)
        time.sleep(seconds)
        return (self.number(count) - before) / seconds


@contextmanager
def places(dsn: str) -> Iterator[Callable[[], AbstractContextManager[Place]]]:
    """Makes databases with the schema on the server of ``dsn``; each is dropped at its end."""
    with _database(dsn, "template1") as template:
        migrate(make_conninfo(dsn, dbname=template))

        @contextmanager
        def new() -> Iterator[Place]:
            with _database(dsn, template) as name:
                place = Place(make_conninfo(dsn, dbname=name))
                with place.session:
                    yield place

        yield new


@contextmanager
def _database(dsn: str, template: str) -> Iterator[str]:
    name = f"bench_{uuid4().hex[:12]}"
    mine, other = sql.Identifier(name), sql.Identifier(template)
    with psycopg.connect(dsn, autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(mine, other))
        try:
            yield name
        finally:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(mine))


@contextmanager
def snapshot(place: Place) -> Iterator[None]:
    """Hold a snapshot open, as a dump does."""
    with psycopg.connect(place.dsn) as holder:
        holder.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        holder.execute("SELECT count(*) FROM pgsync.job_ready")
        yield


@contextmanager
def idle_workers(place: Place, count: int) -> Iterator[None]:
    """So many workers without jobs, in a process of their own."""
    command = [sys.executable, "-m", "benchmarks.idle_workers", place.dsn, str(count)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1]) as workers:
        try:
            until = time.monotonic() + 240
            while place.number("SELECT count(*) FROM pgsync.worker WHERE idle") < count:
                if workers.poll() is not None or time.monotonic() > until:
                    raise RuntimeError("the idle workers did not start")
                time.sleep(0.1)
            yield
        finally:
            workers.terminate()
