"""One run of the fault harness: a server of its own, workers, a storm, and the verdict."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import psycopg

from pgsync.database.embedded import EmbeddedServer
from pgsync.database.migrations import migrate
from tests.eventually import eventually
from tests.faults import ledger
from tests.faults.crew import Crew
from tests.faults.lock_storm import LOCK_FAULTS, LockStorm
from tests.faults.lock_worker import LockOrders
from tests.faults.report import Report, run_folder
from tests.faults.storm import plan

__all__ = ["Settings", "run"]

_MARGIN = 5.0  # seconds by which an answer may be late on a loaded machine


@dataclass(frozen=True)
class Settings:
    """``seconds`` is how long the storm lasts, ``ttl`` and ``wait`` are the lock's, in seconds.

    Three requests of four wait that long, the fourth a twentieth of it.
    """

    seconds: float
    seed: str
    guarded: bool = True
    workers: int = 4
    threads: int = 2
    ttl: float = 0.5
    wait: float = 3.0


def run(settings: Settings) -> Report:
    """Do the whole of it: an opening that is the same each time, a storm, and the check."""
    report = Report()
    # Durable, since it is shut down without mercy.
    with run_folder(report) as folder, EmbeddedServer(folder / "server") as server:
        migrate(server.dsn)
        ledger.create(server.dsn)
        orders = LockOrders(
            dsn=server.dsn,
            seed=settings.seed,
            ttl=settings.ttl,
            wait=settings.wait,
            guarded=settings.guarded,
            threads=settings.threads,
        )
        crew = Crew("tests.faults.lock_worker", orders, folder, settings.workers)
        storm = LockStorm(server, crew, plan(settings.seed, settings.ttl, LOCK_FAULTS))
        report.faults = storm.done
        try:
            _open(crew, server.dsn)
            storm.blow(settings.seconds)
            report.violations += _stuck(server.dsn, settings)
        except AssertionError as error:
            report.violations.append(f"it did not come so far: {error!r}")
        finally:
            crew.stop(within=settings.wait + _MARGIN + 10)
        _judge(report, server.dsn, crew, settings)
    return report


def _open(crew: Crew, dsn: str) -> None:
    """Freeze a holder between its read and its write, until others have raised the counter.

    Without the guard its write is one that is lost for certain; with it, one that is refused.
    """
    gate = crew.folder / "gate"
    crew.start(0, gate)
    section = eventually(lambda: _events(crew, "at the gate"), within=60)[0]["section"]
    crew.freeze(0)
    before = _counter(dsn)
    for place in range(1, crew.count):
        crew.start(place)
    try:
        eventually(lambda: _counter(dsn) >= before + 3, within=60)
    finally:
        gate.touch()
        crew.wake(0)
    ends = ("acknowledged", "refused", "failed", "unknown")
    eventually(lambda: any(e.get("section") == section for e in _events(crew, *ends)), within=60)


def _events(crew: Crew, *kinds: str) -> list[ledger.Event]:
    return [event for event in ledger.events(crew.folder) if event["event"] in kinds]


def _counter(dsn: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("SELECT value FROM counter").fetchone()
    assert row is not None
    value: int = row[0]
    return value


def _stuck(dsn: str, settings: Settings) -> list[str]:
    """After the last fault every worker goes on, soon."""
    within = 2 * settings.ttl + settings.wait + _MARGIN
    until = time.monotonic() + within
    before: int | None = None
    while time.monotonic() < until:
        try:
            now = _counter(dsn)
        except psycopg.OperationalError:
            continue  # it recovers from the last fault
        if before is not None and now > before + 20:
            return []
        before = now if before is None else before
        time.sleep(0.02)
    return [f"nobody had the lock, or nearly, for {within:g} s after the last fault"]


def _judge(report: Report, dsn: str, crew: Crew, settings: Settings) -> None:
    counter, entries = ledger.entries(dsn)
    history = ledger.events(crew.folder)
    report.violations += ledger.check(counter, entries, history, crew.freezes, _MARGIN)
    report.violations += [f"a worker died: {death}" for death in crew.died]
    with (crew.folder / "ledger").open("w") as copy:
        copy.writelines(f"{entry}\n" for entry in entries)

    kinds = Counter(event["event"] for event in history)
    grants = sorted((e["token"], e["worker"]) for e in history if e["event"] == "granted")
    awake = ledger.acquires_awake(history, crew.freezes)
    gaps = [b.entered_at - a.left_at for a, b in pairwise(entries)]
    report.figures = {
        "committed sections": len(entries),
        "grants": len(grants),
        "handoffs between threads": sum(a != b for (_, a), (_, b) in pairwise(grants)),
        "handoffs between processes": sum(
            a.rpartition(".")[0] != b.rpartition(".")[0] for (_, a), (_, b) in pairwise(grants)
        ),
        "refused by the guard (LockLost)": kinds["refused"],
        "lost by release": sum(e["event"] == "released" and not e["kept"] for e in history),
        "waited in vain (LockHeld)": kinds["held"],
        "requests that failed": kinds["failed"],
        "commits of unknown outcome": kinds["unknown"],
        "longest wait, s": round(max((e["got"] - e["sent"] for e in awake), default=0.0), 3),
        "longest beyond its bound, s": round(
            max((e["got"] - e["sent"] - e["wait"] for e in awake), default=0.0), 3
        ),
        "longest time without a section, s": round(
            max((gap.total_seconds() for gap in gaps), default=0.0), 3
        ),
    }
