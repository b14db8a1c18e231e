"""The effects of the harness's jobs, and the checker that compares them with their histories."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from typing import Any

import psycopg

from tests.faults.ledger import Event

__all__ = [
    "Figures",
    "check_jobs",
    "create_effects",
    "crowds",
    "most_at_once",
    "out_of_order",
]

Figures = dict[str, object]

_AT_ONCE = {"limited": 2, "ordered": 1}
"""How many jobs of one key may run at once, by the task's last name."""


def create_effects(dsn: str) -> None:
    """Make the table of effects."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE effect (job bigint NOT NULL, attempt integer NOT NULL,"
            " task text NOT NULL, key text, entered_at timestamptz NOT NULL,"
            " left_at timestamptz NOT NULL)"
        )


def check_jobs(
    dsn: str, history: list[Event], tasks: Collection[str], *, guarded: bool = True
) -> tuple[list[str], Figures]:
    """What is wrong with the jobs of these tasks, in sentences, and what they came to.

    All must have ended. Every acknowledged one is completed, each has one effect, and of one key no
    more ran at once than its limit lets.
    """
    acknowledged = [event["job"] for event in history if event["event"] == "acknowledged"]
    with psycopg.connect(dsn, autocommit=True) as connection:
        ended = connection.execute(
            "SELECT id, state FROM pgsync.job_history WHERE task = ANY (%s)", [list(tasks)]
        ).fetchall()
        effects = connection.execute("SELECT job, task, key, entered_at, left_at FROM effect")
        rows = effects.fetchall()
        left = connection.execute(
            "SELECT (SELECT count(*) FROM pgsync.job_keys),"
            " (SELECT coalesce(sum(taken), 0) FROM pgsync.queue_slots),"
            " (SELECT count(*) FROM pgsync.worker)"
        ).fetchone()
    completed = {job for job, state in ended if state == "completed"}
    times = Counter(row[0] for row in rows)
    lost = set(acknowledged) - completed
    several = {job: n for job, n in times.items() if n > 1}
    violations = [
        text
        for wrong, text in (
            (lost, f"{len(lost)} acknowledged jobs were not completed: {sorted(lost)[:10]}"),
            (len(ended) - len(completed), "jobs ended twice, or otherwise than completed"),
            (completed - times.keys(), "completed jobs had no effect"),
            (times.keys() - completed, "jobs had an effect and were not completed"),
            (several, f"{len(several)} effects happened more than once"),
            (left != (0, 0, 0), f"keys, slots of queues and workers left: {left}"),
        )
        if wrong
    ]
    if guarded:
        violations += [*crowds(rows), *out_of_order(rows, history)]
    kinds = Counter(event["event"] for event in history)
    return violations, {
        "jobs acknowledged": len(acknowledged),
        "jobs completed": len(completed),
        "enqueues of unknown outcome": kinds["unknown"],
        "enqueues that failed": kinds["failed"],
    }


def crowds(rows: list[Any]) -> Iterator[str]:
    """Where more ran at once than may, by job, task, key, and when each entered and left.

    A committed effect had its key's slot from its first statement to its last.
    """
    stays: defaultdict[tuple[str, str], list[tuple[datetime, datetime]]] = defaultdict(list)
    for _, task, key, entered, left in rows:
        if key is not None:
            stays[task, key].append((entered, left))
    for (task, key), its in sorted(stays.items()):
        most = most_at_once(its)
        limit = _AT_ONCE[_named(task)]
        if most > limit:
            yield f"{most} jobs of {task} with the key {key} ran at once, and not {limit}"


def most_at_once(stays: Iterable[tuple[datetime, datetime]]) -> int:
    """How many were inside at the same moment; who leaves as another enters makes room for it."""
    changes = [(moment, way) for stay in stays for moment, way in zip(stay, (1, -1), strict=True)]
    inside = most = 0
    for _, way in sorted(changes):
        inside += way
        most = max(most, inside)
    return most


def out_of_order(rows: list[Any], history: list[Event]) -> Iterator[str]:
    """Where an ordered job ran before one of its key that its enqueuer had added before it.

    Those of other enqueuers may have committed in either order.
    """
    entered = {job: (key, at) for job, task, key, at, _ in rows if _named(task) == "ordered"}
    latest: dict[tuple[str, str], tuple[datetime, int]] = {}
    swapped = []
    for event in history:
        if event["event"] != "acknowledged" or event["job"] not in entered:
            continue
        job = event["job"]
        key, at = entered[job]
        before = latest.get((event["by"], key))
        if before is not None and before[0] > at:
            swapped.append((before[1], job))
        latest[event["by"], key] = (at, job)
    if swapped:
        yield f"{len(swapped)} ordered jobs ran before one that was added before: {swapped[:5]}"


def _named(task: str) -> str:
    """What the harness calls it; a module may stand before that."""
    return task.rpartition(".")[2]
