"""One run of the jobs' fault harness: a server of its own, processes, a storm, and the verdict."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from pgsync import Coordinator
from pgsync.database.embedded import EmbeddedServer
from pgsync.database.migrations import migrate
from tests.eventually import eventually
from tests.faults.crew import Crew
from tests.faults.job_ledger import check_jobs, create_effects
from tests.faults.job_worker import JobOrders, declare
from tests.faults.ledger import events
from tests.faults.proxy import Proxy
from tests.faults.report import Report, run_folder
from tests.faults.storm import Fault, Storm, acts_on, plan

__all__ = ["JOB_FAULTS", "JobSettings", "JobStorm", "drain", "run", "task_names"]

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
            **acts_on(proxy),
        }


def run(settings: JobSettings) -> Report:
    """Kill workers and see their jobs run again; blow; let all end; and check."""
    report = Report()
    with (
        run_folder(report) as folder,
        # Durable, since it is shut down without mercy.
        EmbeddedServer(folder / "server") as server,
        Proxy(server.dsn) as proxy,
    ):
        migrate(server.dsn)
        create_effects(server.dsn)
        orders = JobOrders(dsn=proxy.dsn, seed=settings.seed, guarded=settings.guarded)
        crew = Crew("tests.faults.job_worker", orders, folder, settings.processes)
        storm = JobStorm(server, proxy, crew, plan(settings.seed, 1.0, JOB_FAULTS))
        report.faults = storm.done
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
        report.violations += drain(server.dsn, guarded=settings.guarded)
        violations, report.figures = check_jobs(
            server.dsn, events(folder), task_names(server.dsn), guarded=settings.guarded
        )
        report.violations += violations
        report.figures["rescues, s"] = ", ".join(f"{seconds:.2f}" for seconds in rescues)
        if max(rescues, default=0.0) > _RESCUE_SECONDS:
            report.violations.append(f"a killed worker's jobs waited for {max(rescues):.1f} s")
    return report


def task_names(dsn: str) -> list[str]:
    """The names of the harness's tasks."""
    with Coordinator(dsn) as sync:
        return [task.name for task in declare(sync, dsn, guarded=True)]


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


def drain(dsn: str, *, guarded: bool = True) -> list[str]:
    """Work until nothing of ours is left: also what waits for its next attempt."""
    with Coordinator(dsn) as sync:
        declare(sync, dsn, guarded=guarded)
        until = time.monotonic() + _DRAIN_SECONDS
        while time.monotonic() < until:
            sync.run_worker(drain=True, concurrency=8)
            if not _left(dsn):
                # The dead that nobody has looked at yet.
                sync.database.run(_rescue())
                return []
            time.sleep(0.2)
    return [f"{_left(dsn)} jobs were left after {_DRAIN_SECONDS:g} s of work"]


def _left(dsn: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as connection:
        live = "SELECT count(*) FROM pgsync.jobs WHERE queue = 'default'"
        return int((connection.execute(live).fetchone() or (0,))[0])


def _rescue() -> Any:
    from pgsync.database.calls import Call, scalar

    return Call("SELECT pgsync.rescue_jobs()", {}, scalar)
