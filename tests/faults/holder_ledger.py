"""What holders of a semaphore and leaders wrote while they were inside, and the checker of it.

What is claimed: a guarded transaction that commits had its place until its commit. So of those that
committed no more were inside at once than there are places, and of leaders one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import psycopg

from tests.faults.job_ledger import most_at_once
from tests.faults.ledger import Event

__all__ = ["PLACES", "Holding", "check_holdings", "create_holdings", "holdings"]

PLACES = {"slots": 3, "leader": 1}
"""How many may be inside at once."""


@dataclass(frozen=True)
class Holding:
    """A committed stay."""

    section: str
    what: str
    token: int
    worker: str
    entered_at: datetime
    left_at: datetime


def create_holdings(dsn: str) -> None:
    """Make the table."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE holding (section text PRIMARY KEY, what text NOT NULL,"
            " token bigint NOT NULL, worker text NOT NULL,"
            " entered_at timestamptz NOT NULL, left_at timestamptz NOT NULL)"
        )


def holdings(dsn: str) -> list[Holding]:
    """All of them, as they entered."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT section, what, token, worker, entered_at, left_at FROM holding"
            " ORDER BY entered_at, section"
        )
        return [Holding(*row) for row in rows]


def check_holdings(held: list[Holding], history: list[Event]) -> list[str]:
    """What is wrong, in sentences."""
    return [
        *_crowds(held),
        *_shared_tokens(held),
        *_fallen_tokens(held),
        *_untrue_answers(held, history),
        *(event["error"] for event in history if event["event"] == "error"),
    ]


def _crowds(held: list[Holding]) -> Iterator[str]:
    for what, places in PLACES.items():
        most = most_at_once((each.entered_at, each.left_at) for each in held if each.what == what)
        if most > places:
            yield f"{most} guarded holders of {what} were inside at once, and not {places}"


def _shared_tokens(held: list[Holding]) -> Iterator[str]:
    workers: defaultdict[int, set[str]] = defaultdict(set)
    for each in held:
        workers[each.token].add(each.worker)
    shared = [(token, sorted(who)) for token, who in workers.items() if len(who) > 1]
    if shared:
        yield f"{len(shared)} tokens of several holders: {shared[:5]}"


def _fallen_tokens(held: list[Holding]) -> Iterator[str]:
    led = [each for each in held if each.what == "leader"]
    fallen = [(before, after) for before, after in pairwise(led) if after.token < before.token]
    if fallen:
        yield f"{len(fallen)} leaders wrote with a lower token after a higher one: {fallen[:3]}"


def _untrue_answers(held: list[Holding], history: list[Event]) -> Iterator[str]:
    written = Counter(each.section for each in held)
    lost = [e for e in history if e["event"] == "acknowledged" and e["section"] not in written]
    ghosts = [e for e in history if e["event"] in ("refused", "failed") and e["section"] in written]
    if lost:
        yield f"{len(lost)} stays were acknowledged and are not there: {lost[:5]}"
    if ghosts:
        yield f"{len(ghosts)} stays are there whose holder was told that they are not: {ghosts[:5]}"
