"""A large import: ``python -m tests.faults.imports --rows 1000000``.

Beside COPY of the same file, with its memory beside that of a tenth of the rows; and once more,
killed half-way in the transaction of a chunk and resumed: the same contacts, none twice.
"""

from __future__ import annotations

import sys

import click

from tests.faults.import_run import run
from tests.faults.report import text_of

__all__ = ["main"]


@click.command(help=__doc__)
@click.option("--rows", type=click.IntRange(2_000), default=1_000_000, show_default=True)
def main(rows: int) -> None:
    """Run, print the figures, and exit with 1 where something was lost or doubled."""
    report = run(rows)
    click.echo(text_of(report))
    sys.exit(1 if report.violations else 0)


if __name__ == "__main__":
    main()
