"""``python -m benchmarks [SUBJECT]... [--rounds N] [--quick] [--full] [--json]``; all by default.

What is done is told on standard error. ``python -m benchmarks.publish`` makes a page of the JSON.

Peers take part where their library is installed, those on Redis where ``redis-server`` is; it is
started for the run, without persistence, while PostgreSQL keeps its durability.
``PGSYNC_BENCH_DSN`` names a server other than a fresh embedded one, whose fsync is on.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import psycopg
from rich.console import Console
from rich.table import Column, Table

from benchmarks import contacts, flatness, limits, locks, queues
from benchmarks.frame import Comparison, Pace
from benchmarks.machine import machine
from benchmarks.peers import Peers, found_peers
from pgsync.database.embedded import EmbeddedServer
from pgsync.database.migrations import migrate

SUBJECTS: dict[str, Callable[[str, Pace, Peers], Iterator[Comparison]]] = {
    module.__name__.rpartition(".")[2]: module.measure
    for module in (locks, limits, queues, flatness, contacts)
}


@click.command(help=__doc__)
@click.argument("subjects", nargs=-1, type=click.Choice(list(SUBJECTS)))
@click.option("--rounds", type=click.IntRange(3), default=7, show_default=True)
@click.option("--quick", is_flag=True, help="A hundredth of the work: shows that it runs, no more.")
@click.option("--full", is_flag=True, help="With a history of 10,000,000 jobs, not 1,000,000.")
@click.option("--peers/--no-peers", default=True, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(
    subjects: tuple[str, ...], rounds: int, quick: bool, full: bool, peers: bool, as_json: bool
) -> None:
    pace = Pace(rounds, 0.01 if quick else 1.0, full)
    with ExitStack() as stack:
        found = stack.enter_context(found_peers()) if peers else Peers()
        dsn = os.environ.get("PGSYNC_BENCH_DSN")
        if dsn is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pgsync-bench-"))
            dsn = stack.enter_context(EmbeddedServer(Path(folder) / "server")).dsn
        measured = _measure(dsn, subjects, pace, found)
    if as_json:
        click.echo(json.dumps(measured))
    else:
        _print(measured)


def _measure(dsn: str, subjects: tuple[str, ...], pace: Pace, peers: Peers) -> dict[str, Any]:
    migrate(dsn)
    with psycopg.connect(dsn) as connection:
        version = connection.execute("SHOW server_version").fetchone()[0]
        fsync = connection.execute("SHOW fsync").fetchone()[0]
    return {
        "machine": machine(),
        "postgresql": {"version": version, "fsync": fsync},
        "redis": {"version": peers.redis, "persistence": "none"} if peers.socket else None,
        "missing": list(peers.missing),
        "pace": asdict(pace),
        "comparisons": list(_comparisons(dsn, subjects or tuple(SUBJECTS), pace, peers)),
    }


def _comparisons(
    dsn: str, subjects: tuple[str, ...], pace: Pace, peers: Peers
) -> Iterator[dict[str, Any]]:
    began = time.monotonic()
    for subject in subjects:
        for comparison in SUBJECTS[subject](dsn, pace, peers):
            click.echo(f"{time.monotonic() - began:5.0f} s  {comparison.title}", err=True)
            yield {"subject": subject, **comparison.as_json()}


def _print(measured: dict[str, Any]) -> None:
    click.echo("PostgreSQL {version}, fsync {fsync}.".format(**measured["postgresql"]))
    if measured["redis"]:
        click.echo("Redis {version}, persistence {persistence}.".format(**measured["redis"]))
    for peer in measured["missing"]:
        click.echo(f"Missing: {peer}.")
    for comparison in measured["comparisons"]:
        columns = (Column(no_wrap=True), "a second", "quartiles", "ratio", "further")
        table = Table(*columns, title=comparison["title"], box=None)
        for result in comparison["results"]:
            table.add_row(
                result["name"],
                f"{result['median']:,.0f}",
                f"{result['lower']:,.0f} to {result['upper']:,.0f}",
                f"{result['ratio']:.3f}",
                ", ".join(f"{name} {figure:,.4g}" for name, figure in result["extras"].items()),
            )
        Console().print(table)


if __name__ == "__main__":
    main()
