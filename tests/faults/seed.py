"""The seed's operations, twice at once: ``python -m tests.faults.seed --rounds 100``.

Two processes start the same template sync, contact import, contact export and campaign at the same
time. One is done, the other is refused in the seed's words or comes after it; nothing is doubled.
"""

from __future__ import annotations

import sys

import click

from pgsync.database.embedded import EmbeddedServer
from pgsync.database.migrations import migrate
from tests.faults.report import Report, run_folder, text_of
from tests.faults.seed_run import run

__all__ = ["main"]


@click.command(help=__doc__)
@click.option("--rounds", type=click.IntRange(1), default=100, show_default=True)
def main(rounds: int) -> None:
    """Run, print the figures, and exit with 1 where something was doubled."""
    with run_folder(Report()) as folder, EmbeddedServer(folder / "server") as server:
        migrate(server.dsn, modules=True)
        report = run(server.dsn, rounds)
    click.echo(text_of(report))
    sys.exit(1 if report.violations else 0)


if __name__ == "__main__":
    main()
