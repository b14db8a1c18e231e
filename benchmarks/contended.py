"""One lock that several processes want: how fast it changes hands, and whether it does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from ctypes import c_int64
from functools import partial
from multiprocessing.sharedctypes import RawArray
from typing import Any, TypeAlias

import psycopg

from benchmarks.crew import crew
from benchmarks.frame import Comparison, Contender, Pace, Run, compare, latencies
from benchmarks.peers import LOCK_PEERS, Peers, redis_client
from pgsync import Coordinator

__all__ = ["compare_contended", "contend"]

_PROCESSES = 4
_SECONDS = 2.0
_LEAST_SECONDS = 0.1
_NAME = "bench:contended"

# Takes the lock, waiting for it, and returns what gives it back.
Take: TypeAlias = Callable[[], Callable[[], object]]
Open: TypeAlias = Callable[[], AbstractContextManager[Take]]


def compare_contended(dsn: str, pace: Pace, peers: Peers) -> Comparison:
    """Several processes, one name: each takes the lock, waiting for it, and gives it back at once.

    What counts is how often it changes hands. ``handoff_share`` is the share of grants to another
    process than the holder before: a lock that its releaser may retake at once is granted often and
    handed over seldom.
    """
    opens: dict[str, Open] = {
        "bare blocking advisory lock": partial(_bare, dsn),
        "pgsync": partial(_pgsync, dsn),
        **{name: partial(_peer, name, peers.socket) for name in peers.names},
    }
    with ExitStack() as stack:
        seconds = max(_LEAST_SECONDS, pace.seconds(_SECONDS))

        def contender(name: str, open_: Open) -> Contender:
            member = partial(_member, open_, RawArray(c_int64, 2))
            turn = stack.enter_context(crew(_PROCESSES, member))
            return Contender(name, lambda: _summary(turn(seconds), seconds))

        return compare(
            f"contended lock, handoffs among {_PROCESSES} processes",
            [contender(name, open_) for name, open_ in opens.items()],
            pace.rounds,
        )


@contextmanager
def _bare(dsn: str) -> Iterator[Take]:
    with psycopg.connect(dsn, autocommit=True) as connection:

        def give_back() -> None:
            connection.execute("SELECT pg_advisory_unlock(1)")

        def take() -> Callable[[], object]:
            connection.execute("SELECT pg_advisory_lock(1)")
            return give_back

        yield take


@contextmanager
def _pgsync(dsn: str) -> Iterator[Take]:
    with Coordinator(dsn) as sync:

        def take() -> Callable[[], object]:
            lock = sync.lock(_NAME, ttl=60, wait=30)
            lock.acquire()
            return lock.release

        yield take


@contextmanager
def _peer(name: str, socket: str) -> Iterator[Take]:
    with redis_client(socket) as client:
        yield lambda: LOCK_PEERS[name](client, _NAME).release


@contextmanager
def _member(open_: Open, shared: Any, number: int) -> Iterator[Callable[[float], Any]]:
    """What each process does: contend whenever it is told to."""
    with open_() as take:
        yield lambda seconds: contend(take, number, shared, time.monotonic() + seconds)


def contend(
    take: Take,
    number: int,
    shared: Any,
    until: float,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[list[float], int]:
    """Take and give back until the time is up; how long each grant took, and the handoffs.

    ``shared`` has the number of the last holder and of the present one, 0 for none; only the
    holder writes to it.
    """
    waited: list[float] = []
    handoffs = 0
    while True:
        asked = clock()
        give_back = take()
        granted = clock()
        if shared[1]:
            raise RuntimeError(f"processes {shared[1]} and {number} hold the lock at once")
        shared[1] = number
        if granted < until:
            waited.append(granted - asked)
            handoffs += shared[0] != number
        shared[0] = number
        shared[1] = 0
        give_back()
        if granted >= until:
            return waited, handoffs


def _summary(answers: list[tuple[list[float], int]], seconds: float) -> Run:
    waited = [wait for waits, _ in answers for wait in waits]
    handoffs = sum(count for _, count in answers)
    grants = len(waited)
    extras = {
        "grants_a_second": grants / seconds,
        "handoff_share": handoffs / max(1, grants),
        "least_served_share": min(len(waits) for waits, _ in answers) / max(1, grants),
        **latencies(waited),
    }
    return Run(max(1, handoffs), seconds, extras)  # one at least, for ratios
