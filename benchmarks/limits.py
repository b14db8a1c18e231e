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

_PROCESSES, _THREADS = 4, 2
_SECONDS = 2.0
_LEAST_SECONDS = 0.1
_FAR = 2_000_000_000
_NEAR = 400
_LEASES = (100, 1000)
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
        "pgsync": partial(_pgsync, dsn, 0),
        **{f"pgsync, leases of {lease:,}": partial(_pgsync, dsn, lease) for lease in _LEASES},
        "limits on pgsync": partial(_limits_on_pgsync, dsn),
        **{name: partial(_peer, name, peers.socket) for name in peers.limiters},
    }
    yield _one_thread(opens, dsn, pace)
    yield _many(opens, pace)


def _one_thread(opens: dict[str, Open], dsn: str, pace: Pace) -> Comparison:
    seconds = max(_LEAST_SECONDS, pace.seconds(_SECONDS / 2))
    with ExitStack() as stack:
        hits = {name: stack.enter_context(open_())(_FAR) for name, open_ in opens.items()}
        full = stack.enter_context(_pgsync(dsn, 0))(1)
        full("full")
        hits["pgsync, denied"] = lambda _key: not full("full")
        return compare(
            "limiter, one hot key, one thread",
            [Contender(name, partial(_turn, hit, seconds)) for name, hit in hits.items()],
            pace.rounds,
        )


def _turn(hit: Callable[[str], bool], seconds: float) -> Run:
    return Run(_hits(hit, time.monotonic() + seconds))


def _many(opens: dict[str, Open], pace: Pace) -> Comparison:
    """Each turn ends with a key of its own whose window all threads fill: never above its limit."""
    seconds = max(_LEAST_SECONDS, pace.seconds(_SECONDS))
    with crew(_PROCESSES, partial(_member, opens)) as turn:

        def contender(name: str) -> Contender:
            numbers = itertools.count()
            return Contender(
                name, lambda: summary(name, turn((name, next(numbers), seconds)), seconds)
            )

        title = f"limiter, one hot key, {_PROCESSES} processes of {_THREADS} threads"
        return compare(title, [contender(name) for name in opens], pace.rounds)


@contextmanager
def _member(
    opens: dict[str, Open], _number: int
) -> Iterator[Callable[[tuple[str, int, float]], tuple[int, int]]]:
    """What each process does in a turn: how many hits were admitted, and how many of the fill."""
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(_THREADS))
        made = {name: stack.enter_context(open_()) for name, open_ in opens.items()}
        hits = {name: (windows(_FAR), windows(_NEAR)) for name, windows in made.items()}

        def work(order: tuple[str, int, float]) -> tuple[int, int]:
            name, number, seconds = order
            far, near = hits[name]
            until = time.monotonic() + seconds
            done = sum(threads.map(partial(_hits, far), [until] * _THREADS))
            return done, sum(threads.map(partial(fill, near), [f"fill:{number}"] * _THREADS))

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
    if not 0 < admitted <= _NEAR:
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
def _pgsync(dsn: str, lease: int) -> Iterator[Windows]:
    with Coordinator(dsn) as sync:

        def windows(limit: int) -> Callable[[str], bool]:
            limiter = sync.limiter(f"bench:{lease}", Limit(limit, per=3600), lease=lease)
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
