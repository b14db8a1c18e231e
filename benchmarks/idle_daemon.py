"""``python -m benchmarks.idle_daemon [--seconds 30] [--daemons 1]``: what idle daemons cost.

Each is a process of its own, as ``pgsync daemon`` is, with worker, scheduler, maintenance and the
health page. Statements are those in the server's log; CPU time is the daemon's own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from pgsync.database.embedded import EmbeddedServer
from pgsync.database.migrations import migrate

_APP = """
from pgsync import Coordinator
sync = Coordinator(app="idle")
@sync.task()
def nothing(): ...
@sync.schedule(3600)
def hourly(): ...
"""
_STATEMENT = re.compile(r"LOG:  (statement|execute )")
_LOGGING = {"log_statement": "all"}
_FIRST_SECONDS = 15.0


@click.command(help=__doc__)
@click.option("--seconds", type=float, default=30.0, show_default=True)
@click.option("--daemons", type=click.IntRange(1), default=1, show_default=True)
def main(seconds: float, daemons: int) -> None:
    with tempfile.TemporaryDirectory(prefix="pgsync-idle-") as name:
        folder = Path(name)
        (folder / "app.py").write_text(_APP)
        with EmbeddedServer(folder / "server", settings=_LOGGING) as server:
            migrate(server.dsn)
            running = [_start(server.dsn, folder) for _ in range(daemons)]
            try:
                time.sleep(_FIRST_SECONDS)  # declared, known, and all duties done once
                statements, cpu = _cost(folder / "server" / "server.log", running, seconds)
            finally:
                for daemon in running:
                    daemon.terminate()
                for daemon in running:
                    daemon.wait(30)
    click.echo(
        f"{daemons} idle: each {statements / seconds / daemons:.2f} statements a second and "
        f"{cpu / seconds / daemons:.2%} of a core, over {seconds:g} s"
    )


def _start(dsn: str, folder: Path) -> subprocess.Popen[bytes]:
    flags = ["daemon", "--app", "app:sync", "--health-port", "0", "--log-level", "error"]
    return subprocess.Popen(
        [sys.executable, "-c", "from pgsync.cli import main; main()", *flags],
        env={**os.environ, "PGSYNC_DSN": dsn},
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )


def _cost(log: Path, running: list[subprocess.Popen[bytes]], seconds: float) -> tuple[int, float]:
    read, spent = log.stat().st_size, sum(map(_cpu_seconds, running))
    time.sleep(seconds)
    spent = sum(map(_cpu_seconds, running)) - spent
    lines = log.read_bytes()[read:].decode(errors="replace").splitlines()
    return sum(_STATEMENT.search(line) is not None for line in lines), spent


def _cpu_seconds(daemon: subprocess.Popen[bytes]) -> float:
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
