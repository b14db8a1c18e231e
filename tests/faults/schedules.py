"""Schedules under faults: ``python -m tests.faults.schedules --minutes 2 --seed S``.

Daemons fire second-grained schedules while they are killed, frozen and started anew, their sessions
are ended, and the server is restarted. Then it is counted in SQL that every due time was enqueued,
and once only.
"""

from __future__ import annotations

import logging
import random
import sys

import click

from tests.faults.report import text_of
from tests.faults.schedule_run import ScheduleSettings, run

__all__ = ["main"]


@click.command(help=__doc__)
@click.option("--minutes", type=float, default=1.0, show_default=True, help="How long faults come.")
@click.option("--seed", help="A replayable fault order; a random one by default.")
@click.option("--daemons", type=click.IntRange(1), default=5, show_default=True)
@click.option("--schedules", type=click.IntRange(1), default=200, show_default=True)
def main(minutes: float, seed: str | None, daemons: int, schedules: int) -> None:
    """Run, print the figures, and exit with 1 where an invariant did not hold."""
    logging.disable(logging.WARNING)  # of the faults
    seed = seed or f"{random.SystemRandom().getrandbits(32):08x}"
    click.echo(f"seed {seed}, {minutes:g} minutes, {daemons} daemons, {schedules} schedules")
    report = run(ScheduleSettings(minutes * 60, seed, daemons, schedules))
    click.echo(text_of(report))
    sys.exit(1 if report.violations else 0)


if __name__ == "__main__":
    main()
