"""Workers beyond one: two processes that drain one queue, and how soon a job is picked up."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ctypes import c_int64
from functools import partial
from multiprocessing.sharedctypes import RawArray
from typing import Any, TypeAlias

import psycopg

from benchmarks.crew import Member, crew
from benchmarks.frame import Comparison, Contender, Pace, Run, compare, latencies
from benchmarks.pgqueuer_peer import PgQueuer
from pgsync import Coordinator

__all__ = ["compare_pickup", "compare_two_processes"]

_JOBS = 20_000
_PICKUPS = 50
_CONCURRENCY = 100
_PATIENCE = 60.0
# Between two pickups: fewer than those a second of which a worker is notified.
_GAP_SECONDS = (0.02, 0.04)

# When a process began, when its last job had ended, and how many it had.
Stint: TypeAlias = tuple[float, float, int]


def compare_two_processes(dsn: str, pace: Pace, peer: PgQueuer | None) -> Comparison:
    """One backlog, two processes; from the first that begins to the last that ends."""
    count = pace.count(_JOBS)
    with ExitStack() as stack:
        sync = stack.enter_context(Coordinator(dsn))

        @sync.task(name="noop_two")
        async def noop(n: int) -> None: ...

        def contender(name: str, member: Member, fill: Callable[[], object]) -> Contender:
            turn = stack.enter_context(crew(2, member))

            def run() -> Run:
                fill()
                return _together(turn(0))

            return Contender(name, run)

        def fill() -> None:
            noop.enqueue_many({"n": number} for number in range(count))

        contenders = [contender("pgsync, coroutine handler", partial(_pgsync, dsn), fill)]
        if peer is not None:
            done = RawArray(c_int64, 3)

            def fill_peer() -> None:
                done[:] = [0, 0, count]
                peer.refill(count)

            contenders.append(contender("PgQueuer", partial(_pgqueuer, peer, done), fill_peer))
        return compare("drain, two worker processes, no-op job", contenders, pace.rounds)


@contextmanager
def _pgsync(dsn: str, _number: int) -> Iterator[Callable[[float], Stint]]:
    with Coordinator(dsn) as sync:

        @sync.task(name="noop_two")
        async def noop(n: int) -> None: ...

        def work(_seconds: float) -> Stint:
            began = time.monotonic()
            done = sync.run_worker(drain=True, concurrency=_CONCURRENCY).completed
            return began, time.monotonic(), done

        yield work


@contextmanager
def _pgqueuer(peer: PgQueuer, done: Any, number: int) -> Iterator[Callable[[float], Stint]]:
    yield lambda _seconds: peer.work_beside(done, number - 1)


def _together(stints: list[Stint]) -> Run:
    """All that was done, in the time from the first begin to the last end of one that had work."""
    worked = [stint for stint in stints if stint[2]] or stints
    seconds = max(ended for _, ended, _ in worked) - min(began for began, _, _ in worked)
    return Run(sum(done for *_, done in stints), seconds)


def compare_pickup(dsn: str, pace: Pace) -> Comparison:
    """One job at a time, to a worker that waits: from the return of enqueue to the handler.

    The reference is a bare NOTIFY with its insert, from before the insert to who hears it.
    """
    count = max(5, pace.count(_PICKUPS))
    started: list[float] = []
    there = threading.Event()

    def arrive() -> None:
        started.append(time.perf_counter())
        there.set()

    def pickups(ask: Callable[[], object], *, with_asking: bool = False) -> Run:
        waited = []
        for _ in range(count):
            time.sleep(random.uniform(*_GAP_SECONDS))
            there.clear()
            before = time.perf_counter()
            ask()
            asked = time.perf_counter()
            if not there.wait(_PATIENCE):
                raise RuntimeError(f"a job was not picked up in {_PATIENCE:g} s")
            # A handler may begin before its enqueuer has its answer.
            waited.append(max(1e-6, started[-1] - (before if with_asking else asked)))
        return Run(count, sum(waited), latencies(waited))

    with psycopg.connect(dsn, autocommit=True) as raw, Coordinator(dsn) as sync:
        raw.execute("CREATE TABLE IF NOT EXISTS bench_pickup (n integer)")

        @sync.task(name="pickup")
        def blocking() -> None:
            arrive()

        @sync.task(name="pickup_async")
        async def coroutine() -> None:
            arrive()

        def insert() -> None:
            raw.execute(
                "WITH added AS (INSERT INTO bench_pickup VALUES (1) RETURNING n)"
                " SELECT pg_notify('bench_pickup', '') FROM added"
            )

        with _listening(dsn, arrive):
            sync.start(concurrency=10)
            try:
                return compare(
                    "pickup by a worker that waits",
                    [
                        Contender(
                            "NOTIFY with its insert", lambda: pickups(insert, with_asking=True)
                        ),
                        Contender("pgsync, blocking handler", lambda: pickups(blocking.enqueue)),
                        Contender("pgsync, coroutine handler", lambda: pickups(coroutine.enqueue)),
                    ],
                    pace.rounds,
                )
            finally:
                sync.stop()


@contextmanager
def _listening(dsn: str, heard: Callable[[], None]) -> Iterator[None]:
    listening, ended = threading.Event(), threading.Event()

    def listen() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("LISTEN bench_pickup")
            listening.set()
            while not ended.is_set():
                for _ in connection.notifies(timeout=0.5):
                    heard()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        # What is sent before is heard by nobody.
        if not listening.wait(_PATIENCE):
            raise RuntimeError(f"nobody listens after {_PATIENCE:g} s")
        yield
    finally:
        ended.set()
        thread.join(10)
