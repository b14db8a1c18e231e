"""``python -m benchmarks [SUBJECT]... [--rounds N] [--json]``: all subjects where none is named.

``PGSYNC_BENCH_DSN`` names a server other than a fresh embedded one, whose fsync is on.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import psycopg
from rich.console import Console
from rich.table import Table

from benchmarks import limits, locks, queues
from benchmarks.frame import Comparison
from pgsync.database.embedded import EmbeddedServer
from pgsync.database.migrations import migrate

SUBJECTS: dict[str, Callable[[str, int], Iterator[Comparison]]] = {
    "locks": locks.measure,
    "limits": limits.measure,
    "queues": queues.measure,
}


@click.command(help=__doc__)
@click.argument("subjects", nargs=-1, type=click.Choice(list(SUBJECTS)))
@click.option("--rounds", type=click.IntRange(3), default=7, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(subjects: tuple[str, ...], rounds: int, as_json: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="pgsync-bench-") as folder:
        if dsn := os.environ.get("PGSYNC_BENCH_DSN"):
            measured = _measure(dsn, subjects, rounds)
        else:
            with EmbeddedServer(Path(folder) / "server") as server:
                measured = _measure(server.dsn, subjects, rounds)
    if as_json:
        click.echo(json.dumps(measured))
    else:
        _print(measured)


def _measure(dsn: str, subjects: tuple[str, ...], rounds: int) -> dict[str, object]:
    migrate(dsn)
    with psycopg.connect(dsn) as connection:
        version = connection.info.server_version
    return {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "postgresql": version,
        "comparisons": [
            comparison.as_json()
            for subject in subjects or SUBJECTS
            for comparison in SUBJECTS[subject](dsn, rounds)
        ],
    }


def _print(measured: dict[str, object]) -> None:
    comparisons = measured["comparisons"]
    assert isinstance(comparisons, list)
    for comparison in comparisons:
        table = Table("", "a second", "quartiles", "ratio", title=comparison["title"], box=None)
        for result in comparison["results"]:
            table.add_row(
                result["name"],
                f"{result['median']:,.0f}",
                f"{result['lower']:,.0f} to {result['upper']:,.0f}",
                f"{result['ratio']:.2f}",
            )
        Console().print(table)


main()
