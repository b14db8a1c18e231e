"""The whole under faults: ``python -m tests.faults.everything --minutes 10 --seed S``.

Lock users, job workers, daemons with schedules, a campaign, imports and limits work together on a
primary with a synchronous standby, behind a proxy. Meanwhile processes are killed, frozen and
started with wrong clocks; the primary is killed, restarted and promoted over; connections stall,
drop and half-open; the disk, the connections and the locks of the server are used up. Then all that
was begun is ended in calm, and one checker reads every ledger.
"""

from __future__ import annotations

import logging
import random
import sys

import click

from tests.faults.everything_run import EverythingSettings, run
from tests.faults.report import text_of

__all__ = ["main"]


@click.command(help=__doc__)
@click.option("--minutes", type=float, default=1.0, show_default=True, help="How long faults come.")
@click.option("--seed", help="A replayable fault order; a random one by default.")
def main(minutes: float, seed: str | None) -> None:
    """Run, print the figures, and exit with 1 where a promise was broken."""
    logging.disable(logging.ERROR)  # of the faults
    seed = seed or f"{random.SystemRandom().getrandbits(32):08x}"
    click.echo(f"seed {seed}, {minutes:g} minutes")
    report = run(EverythingSettings(minutes * 60, seed))
    click.echo(text_of(report))
    sys.exit(1 if report.violations else 0)


if __name__ == "__main__":
    main()
