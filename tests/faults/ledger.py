"""The checker of the lock harness: it reads what was committed, and what the holders know."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from tests.eventually import eventually

# What a wait may take beyond its bound: the round trips, a reconnect, and a busy machine.
WAIT_MARGIN = 5.0


@dataclass
class Report:
    """The figures of a run, and what was wrong."""

    figures: dict[str, Any] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The report for people."""
        figures = [f"{name}: {value}" for name, value in self.figures.items()]
        return [*figures, f"violations: {len(self.violations)}", *self.violations[:20]]


def check(
    dsn: str, journals: Iterable[Path], frozen: list[tuple[int, float, float]], wait: float
) -> Report:
    """Hold the ledger against the laws: nothing lost, nobody inside with somebody, in order.

    ``frozen`` tells which holders were stopped, since when and until when (monotonic), and ``wait``
    is the bound of every wait in seconds.
    """
    report = Report()
    notes = [(path, list(_read(path))) for path in journals]
    rows = eventually(lambda: _ledger(dsn), within=60)
    assert rows is not None
    counter, ledger = rows
    _check_values(report, counter, ledger)
    _check_tokens(report, ledger)
    _check_acknowledged(report, ledger, notes)
    _check_waits(report, notes, frozen, wait)
    report.figures["locks lost, and told"] = sum(
        note["event"] == "lost" for _, events in notes for note in events
    )
    return report


def _ledger(dsn: str) -> tuple[int, list[Any]] | None:
    try:
        with psycopg.connect(dsn) as connection:
            row = connection.execute("SELECT value FROM counter").fetchone()
            assert row is not None
            return row[0], connection.execute(
                "SELECT value, token, holder, entered, left_at FROM ledger ORDER BY value, token"
            ).fetchall()
    except psycopg.OperationalError:
        return None  # It comes back from a crash.


def _check_values(report: Report, counter: int, ledger: list[Any]) -> None:
    report.figures["guarded sections committed"] = len(ledger)
    report.figures["counter"] = counter
    if counter != len(ledger):
        report.violations.append(f"the counter is {counter} after {len(ledger)} increments")
    values = [row[0] for row in ledger]
    lost = len(values) - len(set(values))
    if lost:
        report.violations.append(f"{lost} updates were lost: two holders wrote the same value")


def _check_tokens(report: Report, ledger: list[Any]) -> None:
    """In the order of the counter tokens never fall, and the sections lie one after the other."""
    handoffs = 0
    for before, after in itertools.pairwise(ledger):
        handoffs += before[2] != after[2]
        if after[1] <= before[1]:
            report.violations.append(f"token {after[1]} of {after[0]} follows {before[1]}")
        if after[3] < before[4]:
            report.violations.append(
                f"{after[2]} entered at {after[3]}, before {before[2]} left at {before[4]}"
            )
    report.figures["handoffs between processes"] = handoffs


def _check_acknowledged(report: Report, ledger: list[Any], notes: list[Any]) -> None:
    written = {(row[1], row[0]) for row in ledger}
    done = [n for _, events in notes for n in events if n["event"] == "done"]
    missing = [n for n in done if (n["token"], n["value"]) not in written]
    report.figures["acknowledged"] = len(done)
    for note in missing[:10]:
        report.violations.append(f"acknowledged, and not there: {note}")


def _check_waits(
    report: Report, notes: list[Any], frozen: list[tuple[int, float, float]], bound: float
) -> None:
    longest = 0.0
    for path, events in notes:
        number = int(path.name.rpartition("-")[2])
        spans = [(since, to) for who, since, to in frozen if who == number]
        for note in events:
            if note["event"] != "wait":
                continue
            # A frozen process cannot keep its bound.
            if any(since < note["ended"] and to > note["began"] for since, to in spans):
                continue
            waited = note["ended"] - note["began"]
            longest = max(longest, waited)
            if waited > bound + WAIT_MARGIN:
                report.violations.append(f"{path.name} waited {waited:.1f} s, bound {bound:g} s")
    report.figures["longest wait"] = f"{longest:.2f} s of {bound:g} s"


def _read(path: Path) -> Iterable[dict[str, Any]]:
    if path.exists():
        for line in path.read_text().splitlines():
            if line.endswith("}"):  # A killed process may leave half a line.
                yield json.loads(line)
