"""Enqueuers in processes of their own, while workers are busy and while one waits for word."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeAlias

import psycopg

from benchmarks.crew import crew
from benchmarks.frame import Comparison, Contender, Pace, Run, compare
from pgsync import Coordinator

__all__ = ["compare_enqueuers"]

_PROCESSES = 4
_JOBS = 200  # for each of them

Stint: TypeAlias = tuple[float, float]
"""When a process began, and when its last job was committed."""


def compare_enqueuers(dsn: str, pace: Pace) -> Comparison:
    """One job a commit, in each of four processes at once.

    NOTIFY takes a lock at commit that all share: who sends it with each insert commits one after
    another. The worker is one by hand, which goes on to wait however much it is told.
    """
    count = pace.count(_JOBS)
    with ExitStack() as stack:
        raw = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        raw.execute(
            "CREATE TABLE bench_notify (id bigint GENERATED ALWAYS AS IDENTITY, args jsonb)"
        )
        worker = raw.execute(
            "SELECT pgsync.register_worker('bench', 'bench', 1, '0', '{*}', 1)"
        ).fetchone()
        turn = stack.enter_context(crew(_PROCESSES, partial(_member, dsn)))

        def contender(name: str, way: str, *, waits: bool) -> Contender:
            def run() -> Run:
                raw.execute("UPDATE pgsync.worker SET idle = %s WHERE id = %s", [waits, *worker])
                stints = turn((way, count))
                raw.execute("TRUNCATE pgsync.job_ready, bench_notify")
                took = max(end for _, end in stints) - min(begin for begin, _ in stints)
                return Run(count * _PROCESSES, took)

            return Contender(name, run)

        compared = compare(
            "enqueue one, 4 processes",
            [
                contender("INSERT + commit", "insert", waits=False),
                contender("INSERT + NOTIFY + commit", "notify", waits=False),
                contender("pgsync, workers busy", "pgsync", waits=False),
                contender("pgsync, a worker waits", "pgsync", waits=True),
                contender("pgsync, a worker waits, within", "within", waits=True),
            ],
            pace.rounds,
        )
        raw.execute("SELECT pgsync.unregister_worker(%s)", worker)
        return compared


@contextmanager
def _member(dsn: str, _number: int) -> Iterator[Callable[[tuple[str, int]], Stint]]:
    with Coordinator(dsn) as sync, psycopg.connect(dsn, autocommit=True) as raw:

        @sync.task(name="noop_notify")
        def noop(n: int) -> None: ...

        def insert(number: int) -> object:
            return raw.execute(
                "INSERT INTO bench_notify (args) VALUES (%s)", [f'{{"n": {number}}}']
            )

        def notify(number: int) -> object:
            return raw.execute(
                "WITH added AS (INSERT INTO bench_notify (args) VALUES (%s) RETURNING id)"
                " SELECT pg_notify('bench', 'default') FROM added",
                [f'{{"n": {number}}}'],
            )

        ways: dict[str, Callable[[int], Any]] = {
            "insert": insert,
            "notify": notify,
            "pgsync": lambda number: noop.enqueue(n=number),
            "within": lambda number: noop.enqueue(n=number, within=raw),
        }

        def work(order: tuple[str, int]) -> Stint:
            way, count = order
            began = time.monotonic()
            for number in range(count):
                ways[way](number)
            return began, time.monotonic()

        yield work
