"""Campaigns under faults: ``python -m tests.faults.campaigns --recipients 20000 --seed S``.

Workers send a campaign to a stand-in for the Graph API, which throttles and refuses, while they
are killed every few seconds and the server restarts once. Then webhooks tell what became of
those that are unknown, and a checker compares the rows with the stand-in's log.
"""

from __future__ import annotations

import logging
import random
import sys

import click

from tests.faults.campaign_ledger import CampaignSettings
from tests.faults.campaign_run import run
from tests.faults.report import text_of

__all__ = ["main"]


@click.command(help=__doc__)
@click.option("--recipients", type=click.IntRange(100), default=20_000, show_default=True)
@click.option("--seed", help="A replayable order of faults; a random one by default.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True)
@click.option("--pause", default=3.0, show_default=True, help="Seconds between two kills.")
def main(recipients: int, seed: str | None, workers: int, pause: float) -> None:
    """Run, print the figures, and exit with 1 where an invariant did not hold."""
    logging.disable(logging.ERROR)  # of the faults
    seed = seed or f"{random.SystemRandom().getrandbits(32):08x}"
    click.echo(f"seed {seed}, {recipients} recipients, {workers} workers")
    report = run(CampaignSettings(recipients, seed, workers, pause))
    click.echo(text_of(report))
    sys.exit(1 if report.violations else 0)


if __name__ == "__main__":
    main()
