"""Whether draining stays as fast as on empty tables: its rate beside its own, in turns.

Each burden is in a database of its own, and the reference is another one on the same server. Each
drain tells its ``wal_bytes``, ``transactions`` and ``dead_rows``, of which a job has that share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import LiteralString

from benchmarks.burdens import Place, idle_workers, places, snapshot
from benchmarks.frame import Comparison, Contender, Pace, Run, compare, summarised
from benchmarks.peers import Peers

__all__ = ["measure"]

_DRAINED = 20_000
_WAITING = 1_000_000
_HISTORY = 1_000_000
_FULL_HISTORY = 10_000_000
_THROUGH_SNAPSHOT = 500_000
_PARTS = 10
_QUEUES = 1_000
_IDLE_WORKERS = 50
_VIEWS: Mapping[str, LiteralString] = {
    "queues_ms": "SELECT * FROM pgsync.queues",
    "one_queue_ms": "SELECT * FROM pgsync.queues WHERE name = 'bench'",
    "newest_jobs_ms": "SELECT * FROM pgsync.jobs ORDER BY id DESC LIMIT 50",
}
_HISTORY_VIEWS: Mapping[str, LiteralString] = {
    "newest_of_all_jobs_ms": "SELECT * FROM pgsync.all_jobs ORDER BY id DESC LIMIT 50",
    "one_job_ms": "SELECT * FROM pgsync.all_jobs WHERE id = 1000",
    "figures_ms": "SELECT * FROM pgsync.figures",
}


def measure(dsn: str, pace: Pace, _peers: Peers) -> Iterator[Comparison]:
    """Yield the comparisons of this subject."""
    count = pace.count(_DRAINED)
    with places(dsn) as new_place, ExitStack() as stack:
        empty = stack.enter_context(new_place())
        contenders = [Contender("pgsync, empty tables", partial(_drain, empty, count))]
        for burden in (_elsewhere, _in_the_queue, _history, _queues, _idle):
            place = stack.enter_context(new_place())
            contenders.append(burden(place, pace, count))
            place.settle()
        yield compare("drain, beside itself on empty tables", contenders, pace.rounds)
    with places(dsn) as new_place, new_place() as empty, new_place() as place:
        yield from _snapshot(place, empty, pace)


def _drain(place: Place, count: int) -> Run:
    place.add(count)
    return place.drain(count)


def _and_read(place: Place, count: int, views: Mapping[str, LiteralString]) -> Run:
    """A drain, and then how many milliseconds it takes to read what people look at."""
    run = _drain(place, count)
    took = {name: place.milliseconds(statement) for name, statement in views.items()}
    return replace(run, extras={**run.extras, **took})


def _elsewhere(place: Place, pace: Pace, count: int) -> Contender:
    waiting = pace.count(_WAITING)
    place.add(waiting, "other")
    name = f"pgsync, {waiting:,} jobs waiting in another queue"
    return Contender(name, partial(_and_read, place, count, _VIEWS))


def _in_the_queue(place: Place, pace: Pace, count: int) -> Contender:
    waiting = pace.count(_WAITING)
    place.add(waiting)
    name = f"pgsync, {waiting:,} jobs waiting in the same queue"
    return Contender(name, partial(_drain, place, count))


def _history(place: Place, pace: Pace, count: int) -> Contender:
    ended = pace.count(_FULL_HISTORY if pace.full else _HISTORY)
    place.add_history(ended)
    name = f"pgsync, {ended:,} jobs in the history"
    return Contender(name, partial(_and_read, place, count, _HISTORY_VIEWS))


def _queues(place: Place, pace: Pace, count: int) -> Contender:
    queues = pace.count(_QUEUES)

    def drain() -> Run:
        return place.drain(place.add_over(queues, count), ["*"])

    return Contender(f"pgsync, the jobs in {queues:,} queues", drain)


def _idle(place: Place, pace: Pace, count: int) -> Contender:
    workers = pace.count(_IDLE_WORKERS)

    def drain() -> Run:
        with idle_workers(place, workers):
            idle = place.committed_a_second(pace.seconds(5))
            run = _drain(place, count)
        return replace(run, extras={**run.extras, "idle_transactions_a_second": idle})

    return Contender(f"pgsync, {workers} workers idle", drain)


def _snapshot(place: Place, empty: Place, pace: Pace) -> Iterator[Comparison]:
    """A snapshot is held open while all jobs pass through; each part beside one without."""
    parts = max(4, pace.count(_PARTS))
    each = pace.count(_THROUGH_SNAPSHOT) // parts
    held: list[Run] = []
    free: list[Run] = []
    _drain(place, each)
    with snapshot(place):
        for _ in range(parts):
            free.append(_drain(empty, each))
            held.append(_drain(place, each))
    fifth = max(2, parts // 5)
    for name, part in {"first": slice(fifth), "last": slice(-fifth, None)}.items():
        yield summarised(
            f"drain, the {name} {fifth * each:,} of {parts * each:,} jobs under one snapshot",
            {"pgsync, no snapshot": free[part], "pgsync, a snapshot held open": held[part]},
        )
