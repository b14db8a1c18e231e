"""One run of the jobs' fault harness: a server of its own, processes, a storm, and the verdict."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from pgsync import Coordinator
from pgsync.database.embedded import EmbeddedServer
from pgsync.database.migrations import migrate
from tests.eventually import eventually
from tests.faults.crew import Crew
from tests.faults.job_worker import JobOrders, declare
from tests.faults.ledger import events
from tests.faults.lock_run import Report, new_folder
from tests.faults.proxy import COMMITTED, Proxy
from tests.faults.storm import Fault, Storm, plan

__all__ = ["JOB_FAULTS", "JobSettings", "run"]

JOB_FAULTS = {
    "kill a worker": 3,
    "freeze a worker": 3,
    "end a worker's session": 4,
    "end a record's session": 2,
    "end any session": 4,
    "kill -9 a backend": 0.5,
    "immediate shutdown": 0.5,
    "reset a connection": 4,
    "stall a connection": 3,
    "swallow an answer": 2,
    "swallow the answer to a commit": 2,
}
"""How often each kind comes, beside the others."""

_DRAIN_SECONDS = 120.0
_RESCUE_SECONDS = 2.0


@dataclass(frozen=True)
class JobSettings:
    """``seconds`` is how long the storm lasts; unguarded handlers complete by returning."""

    seconds: float
    seed: str
    guarded: bool = True
    processes: int = 3
    kills: int = 3


class JobStorm(Storm):
    """A storm among workers, and on their way to the server."""

    def __init__(
        self, server: EmbeddedServer, proxy: Proxy, crew: Crew, faults: Iterator[Fault]
    ) -> None:
        super().__init__(server, crew, faults)
        self.acts |= {
            "end a worker's session": lambda fault: self.end("pgsync worker", fault),
            "end a record's session": lambda fault: self.end("pgsync worker records", fault),
            "end any session": lambda fault: self.end("%", fault),
            "reset a connection": lambda fault: proxy.reset(fault.pick),
            "stall a connection": lambda fault: proxy.stall(fault.pick, fault.length),
            "swallow an answer": lambda _: proxy.swallow(b"", 3.0),
            "swallow the answer to a commit": lambda _: proxy.swallow(COMMITTED, 3.0),
        }


def run(settings: JobSettings) -> Report:
    """Kill workers and see their jobs run again; blow; let all end; and check."""
    folder = new_folder()
    # Durable, since it is shut down without mercy.
    with EmbeddedServer(folder / "server") as server, Proxy(server.dsn) as proxy:
        migrate(server.dsn)
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute("CREATE TABLE effect (job bigint, attempt integer)")
        orders = JobOrders(proxy.dsn, "", "", settings.seed, settings.guarded)
        crew = Crew("tests.faults.job_worker", orders, folder, settings.processes)
        storm = JobStorm(server, proxy, crew, plan(settings.seed, 1.0, JOB_FAULTS))
        report = Report(faults=storm.done)
        rescues: list[float] = []
        try:
            for place in range(crew.count):
                crew.start(place)
            eventually(lambda: _count(server.dsn, "effect") > 50, within=60)
            for number in range(settings.kills):
                rescues.append(_kill(crew, number % crew.count, server.dsn))
            storm.blow(settings.seconds)
        except AssertionError as error:
            report.violations.append(f"it did not come so far: {error!r}")
        finally:
            # One that enqueues just then may wait for a connection, at most 30 s.
            crew.stop(within=45)
        report.violations += [f"a process died: {death}" for death in crew.died]
        report.violations += _drain(server.dsn, settings)
        _judge(report, server.dsn, folder, rescues, settings)
    shutil.rmtree(folder / "server", ignore_errors=True)
    if report.violations:
        report.folder = folder
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return report


def _count(dsn: str, table: str) -> int:
    statement = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(*table.split(".")))
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(statement).fetchone()
    assert row is not None
    count: int = row[0]
    return count


def _kill(crew: Crew, place: int, dsn: str) -> float:
    """Kill a worker, and say after how many seconds its number is gone, and so its jobs rescued."""
    eventually(lambda: _count(dsn, "pgsync.worker") == crew.count, within=60)
    with psycopg.connect(dsn, autocommit=True) as connection:
        before = {row[0] for row in connection.execute("SELECT id FROM pgsync.worker")}
        began = time.monotonic()
        crew.kill(place)

        def gone() -> bool:
            left = {row[0] for row in connection.execute("SELECT id FROM pgsync.worker")}
            return not before <= left

        eventually(gone, within=20)
        return time.monotonic() - began


def _drain(dsn: str, settings: JobSettings) -> list[str]:
    """Work until nothing is left: also what waits for its next attempt."""
    with Coordinator(dsn) as sync:
        declare(sync, dsn, guarded=settings.guarded)
        until = time.monotonic() + _DRAIN_SECONDS
        while time.monotonic() < until:
            sync.run_worker(drain=True, concurrency=8)
            if not _count(dsn, "pgsync.jobs"):
                # The dead that nobody has looked at yet.
                sync.database.run(_rescue())
                return []
            time.sleep(0.2)
    return [f"{_count(dsn, 'pgsync.jobs')} jobs were left after {_DRAIN_SECONDS:g} s of work"]


def _rescue() -> Any:
    from pgsync.database.calls import Call, scalar

    return Call("SELECT pgsync.rescue_jobs()", {}, scalar)


def _judge(
    report: Report, dsn: str, folder: Path, rescues: list[float], settings: JobSettings
) -> None:
    history = events(folder)
    acknowledged = [event["job"] for event in history if event["event"] == "acknowledged"]
    with psycopg.connect(dsn, autocommit=True) as connection:
        ended = connection.execute("SELECT id, state FROM pgsync.job_history").fetchall()
        effects = Counter(row[0] for row in connection.execute("SELECT job FROM effect"))
        left = connection.execute(
            "SELECT (SELECT count(*) FROM pgsync.job_keys),"
            " (SELECT coalesce(sum(taken), 0) FROM pgsync.queue_slots),"
            " (SELECT count(*) FROM pgsync.worker)"
        ).fetchone()
    completed = {job for job, state in ended if state == "completed"}
    lost = set(acknowledged) - completed
    several = {job: n for job, n in effects.items() if n > 1}
    report.violations += [
        text
        for wrong, text in (
            (lost, f"{len(lost)} acknowledged jobs were not completed: {sorted(lost)[:10]}"),
            (len(ended) - len(completed), "jobs ended twice, or otherwise than completed"),
            (completed - effects.keys(), "completed jobs had no effect"),
            (effects.keys() - completed, "jobs had an effect and were not completed"),
            (several, f"{len(several)} effects happened more than once"),
            (left != (0, 0, 0), f"keys, slots of queues and workers left: {left}"),
            (
                max(rescues, default=0.0) > _RESCUE_SECONDS,
                f"a killed worker's jobs waited for {max(rescues, default=0.0):.1f} s",
            ),
        )
        if wrong
    ]
    kinds = Counter(event["event"] for event in history)
    report.figures = {
        "jobs acknowledged": len(acknowledged),
        "jobs completed": len(completed),
        "enqueues of unknown outcome": kinds["unknown"],
        "enqueues that failed": kinds["failed"],
        "rescues, s": ", ".join(f"{seconds:.2f}" for seconds in rescues),
    }
