"""``pgsync queues``: their depth, their pauses and their limits."""

from __future__ import annotations

from typing import Unpack

import click

from pgsync.cli.limits import LIMIT
from pgsync.cli.output import dsn_option, fetch, json_option, show
from pgsync.coordinator import Coordinator
from pgsync.queues import QueueLimits

__all__ = ["queues"]


@click.group()
def queues() -> None:
    """Queues, their depth and their pauses."""


@queues.command("list")
@dsn_option
@json_option
def queues_list(dsn: str | None, as_json: bool) -> None:
    """Each queue with its depth and its oldest job's wait."""
    rows = fetch(
        dsn,
        "SELECT q.name, q.paused, q.available, q.scheduled, q.running, q.waiting, q.oldest_wait,"
        " q.workers FROM pgsync.queues AS q ORDER BY q.name",
    )
    show(rows, as_json=as_json, empty="no queue has jobs or workers")


@queues.command("pause")
@dsn_option
@click.option("--by", help="Who pauses it.")
@click.argument("queue")
def queues_pause(dsn: str | None, by: str | None, queue: str) -> None:
    """Stop claims from a queue; jobs that run go on."""
    with Coordinator(dsn) as sync:
        click.echo(f"{queue} is paused since {sync.pause_queue(queue, by):%Y-%m-%d %H:%M:%S}")


@queues.command("resume")
@dsn_option
@click.argument("queue")
def queues_resume(dsn: str | None, queue: str) -> None:
    """End a queue's pause."""
    with Coordinator(dsn) as sync:
        click.echo("resumed" if sync.resume_queue(queue) else "it was not paused")


@queues.command("limit")
@dsn_option
@click.option("--max-running", type=click.IntRange(1), help="Jobs at once, over all workers.")
@click.option("--max-running-per-key", type=click.IntRange(1), help="Jobs of one key at once.")
@click.option("--max-starts", type=LIMIT, help="Jobs that start in a time: 100/60 in 60 s.")
@click.option("--max-starts-per-key", type=LIMIT, help="The same, of one key.")
@click.argument("queue")
def queues_limit(dsn: str | None, queue: str, **limits: Unpack[QueueLimits]) -> None:
    """Set the limits of a queue; those not named are removed."""
    with Coordinator(dsn) as sync:
        sync.limit_queue(queue, **limits)
    said = ", ".join(f"{name} {limit}" for name, limit in limits.items() if limit is not None)
    click.echo(f"{queue}: {said.replace('_', ' ') or 'no limits'}")


@queues.command("retain")
@dsn_option
@click.option("--days", type=click.FloatRange(0, min_open=True), help="Left out: as others.")
@click.argument("queue")
def queues_retain(dsn: str | None, days: float | None, queue: str) -> None:
    """Set how long the ended jobs of a queue are kept."""
    with Coordinator(dsn) as sync:
        sync.retain_queue(queue, None if days is None else days * 86_400)
    click.echo(f"{queue}: its ended jobs are kept for {f'{days:g}' if days else '7'} days")


@queues.command("weigh")
@dsn_option
@click.argument("queue")
@click.argument("tenant")
@click.argument("weight", type=click.IntRange(1, 100))
def queues_weigh(dsn: str | None, queue: str, tenant: str, weight: int) -> None:
    """Give a tenant so many jobs a turn in a queue; 1, as all others, takes that back."""
    with Coordinator(dsn) as sync:
        sync.weigh_tenant(queue, tenant, weight)
    click.echo(f"{queue}: {tenant} has {weight} a turn")
