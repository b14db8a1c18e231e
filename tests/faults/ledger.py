"""The counter and its ledger, the workers' histories, and the checker that reads both afterwards.

What is claimed: a guarded transaction that commits had the lock until its commit. So in the order
of the counter's values tokens never fall, and no section begins before the one before it has ended.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg

from tests.faults.crew import Freeze

__all__ = ["Entry", "Event", "check", "check_ledger", "create", "entries", "events"]

Event = dict[str, Any]

_EXAMPLES = 5


@dataclass(frozen=True)
class Entry:
    """A committed section: it raised the counter to ``value``."""

    section: str
    value: int
    token: int
    worker: str
    entered_at: datetime
    left_at: datetime


def create(dsn: str) -> None:
    """Make the tables, with the counter at 0."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE counter (value bigint NOT NULL)")
        connection.execute("INSERT INTO counter VALUES (0)")
        connection.execute(
            "CREATE TABLE ledger (section text PRIMARY KEY, value bigint NOT NULL,"
            " token bigint NOT NULL, worker text NOT NULL,"
            " entered_at timestamptz NOT NULL, left_at timestamptz NOT NULL)"
        )


def entries(dsn: str) -> tuple[int, list[Entry]]:
    """The counter, and the ledger in the order of its values."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        counter = connection.execute("SELECT value FROM counter").fetchone()
        assert counter is not None
        rows = connection.execute(
            "SELECT section, value, token, worker, entered_at, left_at FROM ledger"
            " ORDER BY value, entered_at"
        )
        return counter[0], [Entry(*row) for row in rows]


def events(folder: Path) -> list[Event]:
    """What all workers recorded, worker by worker, each in its order."""
    return [
        json.loads(line)
        for path in sorted(folder.glob("*.history"))
        for line in path.read_bytes().splitlines()
    ]


def check(
    counter: int,
    ledger: list[Entry],
    history: list[Event],
    freezes: Iterable[Freeze],
    margin: float,
) -> list[str]:
    """What is wrong, in sentences; nothing where all invariants held.

    ``margin`` is by how many seconds the answer to a wait may be late.
    """
    return [
        *check_ledger(counter, ledger, history),
        *_grants_out_of_order(history),
        *_waits_out_of_bounds(history, freezes, margin),
    ]


def check_ledger(counter: int, ledger: list[Entry], history: list[Event]) -> list[str]:
    """The same, of what holds where connections stall and two servers take themselves for it."""
    return [
        *_lost_updates(counter, ledger),
        *_fallen_tokens(ledger),
        *_overlaps(ledger),
        *_untrue_answers(ledger, history),
        *_unexpected_errors(history),
    ]


def _lost_updates(counter: int, ledger: list[Entry]) -> Iterator[str]:
    if counter != len(ledger):
        yield f"lost updates: the counter is {counter} after {len(ledger)} committed sections"
    by_value: defaultdict[int, list[Entry]] = defaultdict(list)
    for entry in ledger:
        by_value[entry.value].append(entry)
    twice = [same for same in by_value.values() if len(same) > 1]
    yield from _some("several sections wrote one value", twice)
    missing = sorted(set(range(1, max(by_value, default=0) + 1)) - set(by_value))
    yield from _some("values that no section wrote", missing)


def _fallen_tokens(ledger: list[Entry]) -> Iterator[str]:
    fallen = [(before, after) for before, after in pairwise(ledger) if after.token < before.token]
    yield from _some("a lower token committed after a higher one", fallen)
    workers: defaultdict[int, set[str]] = defaultdict(set)
    for entry in ledger:
        workers[entry.token].add(entry.worker)
    shared = [(token, who) for token, who in workers.items() if len(who) > 1]
    yield from _some("a token of several workers", shared)


def _overlaps(ledger: list[Entry]) -> Iterator[str]:
    inside = [
        (before, after) for before, after in pairwise(ledger) if after.entered_at < before.left_at
    ]
    yield from _some("a section began before the one before it had ended", inside)


def _untrue_answers(ledger: list[Entry], history: list[Event]) -> Iterator[str]:
    """A commit that was acknowledged is there as it was; one that was refused is not."""
    written = {entry.section: entry for entry in ledger}
    lost, ghosts = [], []
    for event in history:
        entry = written.get(event.get("section", ""))
        if event["event"] == "acknowledged" and (entry is None or entry.value != event["value"]):
            lost.append((event, entry))
        elif event["event"] in ("refused", "failed") and entry is not None:
            ghosts.append((event, entry))
    yield from _some("acknowledged, but not in the ledger", lost)
    yield from _some("in the ledger, but its worker was told that it did not commit", ghosts)


def _grants_out_of_order(history: list[Event]) -> Iterator[str]:
    """A grant with a higher token must have been answered after the lower one was asked for."""
    grants = sorted((e for e in history if e["event"] == "granted"), key=lambda e: e["token"])
    twice = [(a, b) for a, b in pairwise(grants) if a["token"] == b["token"]]
    yield from _some("a token granted twice", twice)
    disordered = []
    latest: Event | None = None
    for grant in grants:
        if latest is not None and grant["got"] < latest["sent"]:
            disordered.append((latest, grant))
        if latest is None or grant["sent"] > latest["sent"]:
            latest = grant
    yield from _some("a higher token was granted before a lower one", disordered)


def _waits_out_of_bounds(
    history: list[Event], freezes: Iterable[Freeze], margin: float
) -> Iterator[str]:
    asked = [(e, e["got"] - e["sent"]) for e in acquires_awake(history, freezes)]
    late = [event for event, took in asked if took > event["wait"] + margin]
    yield from _some(f"waited {margin:g} s longer than asked for", late)
    early = [e for e, took in asked if e["event"] == "held" and took < e["wait"] * 0.95]
    yield from _some("was told that the lock is held before its wait was over", early)


def acquires_awake(history: list[Event], freezes: Iterable[Freeze]) -> list[Event]:
    """The requests for the lock during which their worker was not frozen."""
    frozen: defaultdict[str, list[Freeze]] = defaultdict(list)
    for freeze in freezes:
        frozen[freeze.worker].append(freeze)
    return [
        event
        for event in history
        if "sent" in event
        and not any(
            freeze.began <= event["got"] and event["sent"] <= freeze.ended
            for freeze in frozen[event["worker"].rpartition(".")[0]]
        )
    ]


def _unexpected_errors(history: list[Event]) -> Iterator[str]:
    kinds = Counter(e["error"] for e in history if e["event"] == "error")
    for error, times in kinds.most_common(_EXAMPLES):
        yield f"{times} times an error that no worker should see:\n{error}"


def _some(what: str, cases: list[Any]) -> Iterator[str]:
    if cases:
        shown = "".join(f"\n    {case}" for case in cases[:_EXAMPLES])
        yield f"{what}, {len(cases)} times:{shown}"
