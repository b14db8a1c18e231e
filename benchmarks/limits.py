"""Rate limits: a hot key beside a bare counter upsert, and beside limiters on Redis."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import TypeAlias

import psycopg
from limits import RateLimitItemPerHour
from limits.strategies import FixedWindowRateLimiter

from benchmarks.crew import crew
from benchmarks.frame import Comparison, Contender, Pace, Run, compare
from benchmarks.peers import LIMIT_PEERS, Peers, redis_client
from pgsync import Coordinator, Limit
from pgsync.doors.limits import PostgresStorage

__all__ = ["fill", "measure", "summary"]

_HITS = 500
_PROCESSES, _THREADS = 4, 2
_SECONDS = 2.0
_LEAST_SECONDS = 0.1
_FAR = 2_000_000_000
_NEAR = 400
_DENIALS = 20

_UPSERT = (
    "INSERT INTO bench_counter AS c VALUES (%s, 1)"
    " ON CONFLICT (key) DO UPDATE SET hits = c.hits + 1 RETURNING hits"
)

# Makes the fixed window of so many an hour: whether a hit of a key is admitted.
Windows: TypeAlias = Callable[[int], Callable[[str], bool]]
Open: TypeAlias = Callable[[], AbstractContextManager[Windows]]


def measure(dsn: str, pace: Pace, peers: Peers) -> Iterator[Comparison]:
    """Yield the comparisons of this subject."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE bench_counter (key text PRIMARY KEY, hits bigint NOT NULL)"
        )
    opens: dict[str, Open] = {
        "bare counter upsert": partial(_bare, dsn),
        "pgsync": partial(_pgsync, dsn),
        "limits on pgsync": partial(_limits_on_pgsync, dsn),
        **{name: partial(_peer, name, peers.socket) for name in peers.limiters},
    }
    yield _one_thread(opens, dsn, pace)
    yield _many(opens, pace)


def _one_thread(opens: dict[str, Open], dsn: str, pace: Pace) -> Comparison:
    count = pace.count(_HITS)
    with ExitStack() as stack:
        hits = {name: stack.enter_context(open_())(_FAR) for name, open_ in opens.items()}
        sync = stack.enter_context(Coordinator(dsn))
        full = sync.limiter("full", Limit(1, per=86400))
        full.hit("hot")

        def admitted(hit: Callable[[str], bool]) -> int:
            for _ in range(count):
                assert hit("hot")
            return count

        def denied() -> int:
            for _ in range(count):
                assert not full.hit("hot")
            return count

        contenders = [Contender(name, partial(admitted, hit)) for name, hit in hits.items()]
        contenders.insert(2, Contender("pgsync, denied", denied))
        return compare("limiter, one hot key, one thread", contenders, pace.rounds)


def _many(opens: dict[str, Open], pace: Pace) -> Comparison:
    """Each turn ends with a key of its own whose window all threads fill: never above its limit."""
    seconds = max(_LEAST_SECONDS, pace.seconds(_SECONDS))
    with ExitStack() as stack:

        def contender(name: str, open_: Open) -> Contender:
            turn = stack.enter_context(crew(_PROCESSES, partial(_member, open_)))
            return Contender(name, lambda: summary(name, turn(seconds), seconds))

        title = f"limiter, one hot key, {_PROCESSES} processes of {_THREADS} threads"
        return compare(title, [contender(*each) for each in opens.items()], pace.rounds)


@contextmanager
def _member(open_: Open, _number: int) -> Iterator[Callable[[float], tuple[int, int]]]:
    """What each process does in a turn: how many hits were admitted, and how many of the fill."""
    with open_() as windows, ThreadPoolExecutor(_THREADS) as threads:
        far, near = windows(_FAR), windows(_NEAR)
        turns = itertools.count()

        def work(seconds: float) -> tuple[int, int]:
            until = time.monotonic() + seconds
            hits = sum(threads.map(partial(_hits, far), [until] * _THREADS))
            key = f"fill:{next(turns)}"
            return hits, sum(threads.map(partial(fill, near), [key] * _THREADS))

        yield work


def _hits(hit: Callable[[str], bool], until: float) -> int:
    done = 0
    while time.monotonic() < until:
        assert hit("hot")
        done += 1
    return done


def fill(hit: Callable[[str], bool], key: str) -> int:
    """Hit a key until it has been denied a few times; how many hits were admitted."""
    admitted = denied = 0
    while denied < _DENIALS:
        if hit(key):
            admitted += 1
        else:
            denied += 1
    return admitted


def summary(name: str, answers: list[tuple[int, int]], seconds: float) -> Run:
    admitted = sum(filled for _, filled in answers)
    if admitted > _NEAR:
        raise RuntimeError(f"{name} admitted {admitted} hits of a limit of {_NEAR}")
    return Run(sum(hits for hits, _ in answers), seconds, {f"admitted_of_{_NEAR}": admitted})


@contextmanager
def _bare(dsn: str) -> Iterator[Windows]:
    mine = threading.local()  # A connection belongs to one thread.
    with ExitStack() as stack:

        def upsert(key: str) -> int:
            if not hasattr(mine, "connection"):
                mine.connection = stack.enter_context(psycopg.connect(dsn, autocommit=True))
                mine.connection.execute("SET synchronous_commit = off")
            return mine.connection.execute(_UPSERT, [key]).fetchone()[0]

        yield lambda limit: lambda key: upsert(key) <= limit


@contextmanager
def _pgsync(dsn: str) -> Iterator[Windows]:
    with Coordinator(dsn) as sync:

        def windows(limit: int) -> Callable[[str], bool]:
            limiter = sync.limiter("bench", Limit(limit, per=3600))
            return lambda key: limiter.hit(key).allowed

        yield windows


@contextmanager
def _limits_on_pgsync(dsn: str) -> Iterator[Windows]:
    with Coordinator(dsn) as sync:
        limiter = FixedWindowRateLimiter(PostgresStorage(coordinator=sync))
        yield lambda limit: partial(limiter.hit, RateLimitItemPerHour(limit))


@contextmanager
def _peer(name: str, socket: str) -> Iterator[Windows]:
    with redis_client(socket) as client:
        yield partial(LIMIT_PEERS[name], client)
