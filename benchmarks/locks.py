"""Locks: beside bare advisory locks, PostgreSQL's own limit, and beside locks on Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import psycopg

from benchmarks.contended import compare_contended
from benchmarks.frame import Comparison, Contender, Pace, Run, compare, latencies
from benchmarks.peers import LOCK_PEERS, Peers, redis_client
from pgsync import Coordinator
from pgsync.locks import Lock

__all__ = ["measure"]

_PAIRS = 300
_THREADS = 16
_THREAD_PAIRS = 100
_BATCH = 100
_HELD = 10_000


def measure(dsn: str, pace: Pace, peers: Peers) -> Iterator[Comparison]:
    """Yield the comparisons of this subject."""
    yield _one_thread(dsn, pace, peers)
    yield compare_contended(dsn, pace, peers)
    yield _many_threads(dsn, pace, peers)
    yield _many_held(dsn, pace)


def _one_thread(dsn: str, pace: Pace, peers: Peers) -> Comparison:
    count = pace.count(_PAIRS)
    with ExitStack() as stack:
        raw = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        sync = stack.enter_context(Coordinator(dsn))
        contenders = [
            Contender("bare advisory pair", lambda: _pairs(partial(_bare_pair, raw), 0, count)),
            Contender("pgsync", lambda: _pairs(partial(_pgsync_pair, sync), 0, count)),
        ]
        for name, pair in _peer_pairs(peers, stack).items():
            contenders.append(Contender(name, partial(_pairs, pair, 0, count)))
        return compare("lock + unlock, one thread", contenders, pace.rounds)


def _many_threads(dsn: str, pace: Pace, peers: Peers) -> Comparison:
    count = pace.count(_THREAD_PAIRS)
    with ExitStack() as stack:
        raws = [stack.enter_context(psycopg.connect(dsn, autocommit=True)) for _ in range(_THREADS)]
        sync = stack.enter_context(Coordinator(dsn))
        threads = stack.enter_context(ThreadPoolExecutor(_THREADS))

        def together(*pairs: Callable[[int], object]) -> Run:
            """Each thread works on its own names, with its own pair or all with the same."""
            began = time.perf_counter()
            done = [
                threads.submit(_timed_pairs, pairs[number % len(pairs)], number * count, count)
                for number in range(_THREADS)
            ]
            took = [each for thread in done for each in thread.result()]
            return Run(len(took), time.perf_counter() - began, latencies(took))

        contenders = [
            Contender(
                f"bare advisory pairs, {_BATCH} keys a statement",
                partial(_bare_batches, raws[0], _THREADS * count),
            ),
            Contender(
                f"bare advisory pair, {_THREADS} connections",
                partial(together, *(partial(_bare_pair, raw) for raw in raws)),
            ),
            Contender("pgsync", partial(together, partial(_pgsync_pair, sync))),
        ]
        for name, pair in _peer_pairs(peers, stack).items():
            contenders.append(Contender(name, partial(together, pair)))
        title = f"lock + unlock, {_THREADS} threads of one process, distinct names"
        return compare(title, contenders, pace.rounds)


def _many_held(dsn: str, pace: Pace) -> Comparison:
    """Only the taking is timed; giving all of them back comes after.

    ``flatness`` is the rate of the last tenth over that of the first.
    """
    count = pace.count(_HELD // _THREADS)
    total = count * _THREADS
    with (
        psycopg.connect(dsn, autocommit=True) as raw,
        Coordinator(dsn) as sync,
        ThreadPoolExecutor(_THREADS) as threads,
    ):

        def bare() -> Run:
            began = time.perf_counter()
            raw.execute("SELECT pg_try_advisory_lock(k) FROM generate_series(1, %s) AS k", [total])
            took = time.perf_counter() - began
            raw.execute("SELECT pg_advisory_unlock_all()")
            return Run(total, took)

        def take(number: int) -> list[tuple[float, Lock]]:
            taken = []
            for each in range(count):
                lock = sync.lock(f"bench:held:{number}:{each}", ttl=600)
                lock.acquire()
                taken.append((time.perf_counter(), lock))
            return taken

        def give_back(taken: list[tuple[float, Lock]]) -> None:
            for _, lock in taken:
                lock.release()

        def pgsync() -> Run:
            began = time.perf_counter()
            held = list(threads.map(take, range(_THREADS)))
            ended = time.perf_counter()
            list(threads.map(give_back, held))
            released = time.perf_counter() - ended
            extras = {
                "flatness": _flatness(began, sorted(at for taken in held for at, _ in taken)),
                "released_a_second": total / released,
            }
            return Run(total, ended - began, extras)

        return compare(
            f"take {total:,} locks and hold them all, {_THREADS} threads",
            [Contender("bare advisory locks, one statement", bare), Contender("pgsync", pgsync)],
            pace.few,
        )


def _flatness(began: float, moments: list[float]) -> float:
    tenth = len(moments) // 10
    return (moments[tenth - 1] - began) / (moments[-1] - moments[-tenth - 1])


def _timed_pairs(pair: Callable[[int], object], first: int, count: int) -> list[float]:
    took = []
    for number in range(first, first + count):
        began = time.perf_counter()
        pair(number)
        took.append(time.perf_counter() - began)
    return took


def _pairs(pair: Callable[[int], object], first: int, count: int) -> Run:
    return Run(count, extras=latencies(_timed_pairs(pair, first, count)))


def _bare_pair(raw: psycopg.Connection[object], number: int) -> None:
    raw.execute("SELECT pg_try_advisory_lock(%s)", [number])
    raw.execute("SELECT pg_advisory_unlock(%s)", [number])


def _bare_batches(raw: psycopg.Connection[object], total: int) -> int:
    for first in range(0, total, _BATCH):
        keys = list(range(first, min(first + _BATCH, total)))
        raw.execute("SELECT pg_try_advisory_lock(k) FROM unnest(%s::bigint[]) AS k", [keys])
        raw.execute("SELECT pg_advisory_unlock(k) FROM unnest(%s::bigint[]) AS k", [keys])
    return total


def _pgsync_pair(sync: Coordinator, number: int) -> None:
    with sync.lock(f"bench:{number}", ttl=60):
        pass


def _peer_pairs(peers: Peers, stack: ExitStack) -> dict[str, Callable[[int], object]]:
    """A pair of each peer, all threads on one client."""

    def pair_of(name: str) -> Callable[[int], object]:
        client = stack.enter_context(redis_client(peers.socket))
        take = LOCK_PEERS[name]
        return lambda number: take(client, f"bench:{number}").release()

    return {name: pair_of(name) for name in peers.names}
