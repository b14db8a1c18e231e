"""Processes that increment a counter under one lock, while everything is done to break it.

    python -m tests.faults.locks --minutes 10 --seed 7

Holders are killed with SIGKILL, frozen past their ttl with SIGSTOP and woken, their sessions ended,
and the server is shut down at once and restarted. The order of faults can be replayed by its seed;
PostgreSQL and the scheduler of the machine cannot. With ``--unguarded`` the writes are not guarded,
and the hazard shows. Exit 1 where a violation was found.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import click
import psycopg

from pgsync.database.embedded import EmbeddedServer
from pgsync.database.migrations import migrate
from tests.eventually import eventually
from tests.faults.ledger import Report, check

TTL = 0.8
WAIT = 8.0

# How often each fault comes, against the others.
FAULTS = {"kill": 3, "freeze": 4, "end lock session": 4, "end data session": 2, "crash": 1}


@dataclass
class Holder:
    """A process of the harness, and where it writes what it knows."""

    number: int
    process: subprocess.Popen[bytes]
    journal: Path
    wakes_at: float | None = None


@dataclass
class Harness:
    """Keeps the holders at work and breaks things, one fault after the other."""

    server: EmbeddedServer
    folder: Path
    seed: int
    guarded: bool = True
    processes: int = 4
    overrun: float = 0.002
    faults: Counter[str] = field(default_factory=Counter)
    frozen: list[tuple[int, float, float]] = field(default_factory=list)
    holders: list[Holder] = field(default_factory=list)
    started: int = 0
    dsn: str = ""

    def prepare(self) -> None:
        """Make the schema, the counter and the ledger."""
        self.dsn = self.server.dsn
        migrate(self.dsn)
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("CREATE TABLE counter (value bigint NOT NULL)")
            connection.execute("INSERT INTO counter VALUES (0)")
            connection.execute(
                "CREATE TABLE ledger (id bigint GENERATED ALWAYS AS IDENTITY, token bigint,"
                " holder integer, value bigint, entered timestamptz, left_at timestamptz)"
            )

    def run(self, seconds: float, *, crash_every: float = 15.0) -> Report:
        """Work and break for so long; then let all end, and read the ledger."""
        rng = random.Random(self.seed)
        until = time.monotonic() + seconds
        crash_at = time.monotonic() + crash_every / 2
        for _ in range(self.processes):
            self._start_holder()
        while time.monotonic() < until:
            time.sleep(rng.uniform(0.1, 0.5))
            self._wake()
            [fault] = rng.choices(list(FAULTS), list(FAULTS.values()))
            victim = rng.randrange(self.processes)
            if fault == "crash" and time.monotonic() < crash_at:
                fault = "kill"
            elif fault == "crash":
                crash_at = time.monotonic() + crash_every
            self._break(fault, self.holders[victim], rng)
        self._end()
        journals = [holder.journal for holder in self.holders]
        return check(self.dsn, journals, self.frozen, WAIT)

    def _start_holder(self) -> None:
        self.started += 1
        journal = self.folder / f"journal-{self.started}"
        settings = {
            "ttl": TTL,
            "wait": WAIT,
            "guarded": self.guarded,
            "overrun": self.overrun,
            "seed": self.seed,
        }
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.faults.lock_holder"),
                *(self.dsn, str(self.started), json.dumps(settings), str(journal)),
            ],
            stderr=(self.folder / "errors").open("a"),
        )
        self.holders.append(Holder(self.started, process, journal))
        # Who was replaced stays at the end of the list: its journal counts.
        self.holders.insert(0, self.holders.pop())

    def _break(self, fault: str, victim: Holder, rng: random.Random) -> None:
        self.faults[fault] += 1
        if fault == "kill":
            victim.process.kill()
            victim.process.wait()
            self.holders.remove(victim)
            self.holders.append(victim)
            self._start_holder()
        elif fault == "freeze" and victim.wakes_at is None:
            victim.process.send_signal(signal.SIGSTOP)
            victim.wakes_at = time.monotonic() + TTL * rng.uniform(1.1, 2.5)
            self.frozen.append((victim.number, time.monotonic(), victim.wakes_at))
        elif fault == "end lock session":
            self._end_session("pgsync %", rng)
        elif fault == "end data session":
            self._end_session("harness data", rng)
        elif fault == "crash":
            self._crash()

    def _crash(self) -> None:
        """Shut the server down at once: no checkpoint, all sessions thrown out; and start it."""
        pid = self.server.status().pid
        if pid is not None:
            os.kill(pid, signal.SIGQUIT)
            eventually(lambda: not self.server.status().running)
        self.server.start()

    def _end_session(self, application: str, rng: random.Random) -> None:
        try:
            with psycopg.connect(self.dsn, autocommit=True, connect_timeout=5) as connection:
                pids = connection.execute(
                    "SELECT pid FROM pg_stat_activity WHERE application_name LIKE %s"
                    " AND datname = current_database() ORDER BY pid",
                    [application],
                ).fetchall()
                if pids:
                    connection.execute("SELECT pg_terminate_backend(%s)", rng.choice(pids))
        except psycopg.OperationalError:
            pass  # The server has just been shut down.

    def _wake(self, *, all_of_them: bool = False) -> None:
        for holder in self.holders:
            if holder.wakes_at is None:
                continue
            if all_of_them or time.monotonic() >= holder.wakes_at:
                holder.process.send_signal(signal.SIGCONT)
                holder.wakes_at = None
                number, since, _ = next(f for f in reversed(self.frozen) if f[0] == holder.number)
                self.frozen.append((number, since, time.monotonic()))

    def _end(self) -> None:
        self._wake(all_of_them=True)
        for holder in self.holders:
            holder.process.kill()
            holder.process.wait()


@click.command(help=__doc__)
@click.option("--minutes", type=float, default=1.0, show_default=True)
@click.option("--seed", type=int, default=None, help="Of the order of faults; random by default.")
@click.option("--processes", type=click.IntRange(2), default=4, show_default=True)
@click.option("--unguarded", is_flag=True, help="Write without guard, to see the hazard.")
def main(minutes: float, seed: int | None, processes: int, unguarded: bool) -> None:
    seed = random.randrange(1 << 32) if seed is None else seed
    with tempfile.TemporaryDirectory(prefix="pgsync-faults-", dir=_memory()) as name:
        folder = Path(name)
        with EmbeddedServer(folder / "server") as server:
            harness = Harness(server, folder, seed, guarded=not unguarded, processes=processes)
            harness.prepare()
            report = harness.run(minutes * 60)
    click.echo(f"seed {seed}, {minutes:g} minutes, {processes} processes, guard {not unguarded}")
    click.echo(f"faults: {dict(sorted(harness.faults.items()))}")
    for line in report.lines():
        click.echo(line)
    sys.exit(1 if report.violations else 0)


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


if __name__ == "__main__":
    main()
