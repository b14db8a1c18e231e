"""Jobs under faults: ``python -m tests.faults.jobs --minutes 10 --seed S``.

Processes enqueue and work through a proxy, while they are killed and frozen, their sessions are
ended, their connections reset and stalled, answers lost, and the server is shut down. Then all is
worked off, and a checker compares what was acknowledged, what the history says, and which effects
there are.
"""

from __future__ import annotations

import logging
import random
import sys

import click

from tests.faults.job_run import JobSettings, run
from tests.faults.report import text_of

__all__ = ["main"]


@click.command(help=__doc__)
@click.option("--minutes", type=float, default=1.0, show_default=True, help="How long faults come.")
@click.option("--seed", help="A replayable fault order; a random one by default.")
@click.option("--processes", type=click.IntRange(2), default=3, show_default=True)
@click.option("--unguarded", is_flag=True, help="Complete by returning, and see the hazard.")
def main(minutes: float, seed: str | None, processes: int, unguarded: bool) -> None:
    """Run, print the figures, and exit with 1 where an invariant did not hold."""
    logging.disable(logging.WARNING)  # of the faults
    seed = seed or f"{random.SystemRandom().getrandbits(32):08x}"
    click.echo(f"seed {seed}, {minutes:g} minutes, {processes} processes")
    report = run(JobSettings(minutes * 60, seed, not unguarded, processes))
    click.echo(text_of(report))
    sys.exit(1 if report.violations else 0)


if __name__ == "__main__":
    main()
