"""``pgsync queues``: their depth, their pauses and their limits."""

from __future__ import annotations

from typing import Unpack

import click

from pgsync.cli.limits import LIMIT
from pgsync.cli.output import dsn_option, fetch, json_option, show, show_one
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
    """Each queue with its depth, counted to 10,000, and its oldest job's wait."""
    rows = fetch(
        dsn,
        "SELECT n.name, q.paused_at IS NOT NULL AS paused, coalesce(d.available, 0) AS available,"
        " coalesce(d.scheduled, 0) AS scheduled, coalesce(d.running, 0) AS running,"
        " coalesce(d.waiting, 0) AS waiting, d.oldest_ready AS oldest_wait,"
        " (SELECT count(*) FROM pgsync.worker AS w"
        "  WHERE n.name = ANY (w.queues) OR '*' = ANY (w.queues)) AS workers"
        " FROM pgsync.queues_now() AS d"
        " FULL JOIN pgsync.queue AS q ON q.name = d.queue"
        " FULL JOIN (SELECT DISTINCT u.name FROM pgsync.worker AS w CROSS JOIN unnest(w.queues)"
        "  AS u (name) WHERE u.name <> '*') AS w ON w.name = coalesce(d.queue, q.name)"
        " CROSS JOIN LATERAL (SELECT coalesce(d.queue, q.name, w.name) AS name) AS n"
        " ORDER BY n.name",
    )
    show(rows, as_json=as_json, empty="no queue has jobs or workers")


@queues.command("show")
@dsn_option
@json_option
@click.argument("queue")
def queues_show(dsn: str | None, as_json: bool, queue: str) -> None:
    """One queue: its depth, its pause, its limits and whether they bind, retention, weights."""
    rows = fetch(
        dsn,
        "SELECT n.name, coalesce(d.available, 0) AS available,"
        " coalesce(d.scheduled, 0) AS scheduled, coalesce(d.waiting, 0) AS waiting,"
        " coalesce(d.running, 0) AS running, d.oldest_ready AS oldest_wait,"
        " q.paused_at, q.paused_by, q.max_running, q.max_running_per_key,"
        " q.max_starts, q.starts_per, q.max_starts_per_key, q.starts_per_key,"
        " f.detail AS full, f.until AS full_until, q.retention,"
        " (SELECT jsonb_object_agg(t.tenant, t.weight) FROM pgsync.tenant_weight AS t"
        "  WHERE t.queue = n.name) AS weights,"
        " (SELECT count(*) FROM pgsync.live_workers(n.name)) AS workers"
        " FROM (VALUES (%(queue)s)) AS n (name)"
        " LEFT JOIN pgsync.queues_now() AS d ON d.queue = n.name"
        " LEFT JOIN pgsync.queue AS q ON q.name = n.name"
        " CROSS JOIN LATERAL pgsync.queue_fullness(n.name) AS f",
        {"queue": queue},
    )
    show_one(rows[0], as_json=as_json)


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
@click.option("--by", help="Who does it, for the audit trail.")
@click.argument("queue")
def queues_resume(dsn: str | None, by: str | None, queue: str) -> None:
    """End a queue's pause."""
    with Coordinator(dsn) as sync:
        click.echo("resumed" if sync.resume_queue(queue, by) else "it was not paused")


@queues.command("limit")
@dsn_option
@click.option("--max-running", type=click.IntRange(1), help="Jobs at once, over all workers.")
@click.option("--max-running-per-key", type=click.IntRange(1), help="Jobs of one key at once.")
@click.option("--max-starts", type=LIMIT, help="Jobs that start in a time: 100/60 in 60 s.")
@click.option("--max-starts-per-key", type=LIMIT, help="The same, of one key.")
@click.option("--by", help="Who does it, for the audit trail.")
@click.argument("queue")
def queues_limit(
    dsn: str | None, queue: str, by: str | None, **limits: Unpack[QueueLimits]
) -> None:
    """Set the limits of a queue; those not named are removed."""
    with Coordinator(dsn) as sync:
        sync.limit_queue(queue, by=by, **limits)
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
