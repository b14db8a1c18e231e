"""Locks under faults: ``python -m tests.faults.locks --minutes 10 --seed S``.

Processes raise a counter under a lock while holders are killed, frozen past their ttl and woken,
sessions are ended, and the server is shut down. A checker reads the ledger afterwards.
"""

from __future__ import annotations

import random
import sys

import click

from tests.faults.lock_run import Settings, run
from tests.faults.report import text_of

__all__ = ["main"]


@click.command(help=__doc__)
@click.option("--minutes", type=float, default=1.0, show_default=True, help="How long faults come.")
@click.option("--seed", help="A replayable fault order; a random one by default.")
@click.option("--workers", type=click.IntRange(2), default=4, show_default=True, help="Processes.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="In each.")
@click.option("--ttl", type=float, default=0.5, show_default=True, help="The lock's, in seconds.")
@click.option("--wait", type=float, default=3.0, show_default=True, help="For it, in seconds.")
@click.option("--unguarded", is_flag=True, help="Leave the guard out, and see the hazard.")
def main(
    minutes: float,
    seed: str | None,
    workers: int,
    threads: int,
    ttl: float,
    wait: float,
    unguarded: bool,
) -> None:
    """Run, print the figures, and exit with 1 where an invariant did not hold."""
    seed = seed or f"{random.SystemRandom().getrandbits(32):08x}"
    guard = "without guard" if unguarded else "with guard"
    click.echo(f"seed {seed}, {minutes:g} minutes, {workers} x {threads} threads, {guard}")
    report = run(Settings(minutes * 60, seed, not unguarded, workers, threads, ttl, wait))
    click.echo(text_of(report))
    sys.exit(1 if report.violations else 0)


if __name__ == "__main__":
    main()
