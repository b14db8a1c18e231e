"""``pgsync operations`` and ``pgsync workers``."""

from __future__ import annotations

from typing import Any

import click

from pgsync.cli.output import dsn_option, fetch, json_option, show, show_one
from pgsync.errors import InvalidArgument

__all__ = ["operations", "workers"]


@click.command()
@dsn_option
@json_option
def workers(dsn: str | None, as_json: bool) -> None:
    """The processes that work: what they do and claim, and when they were last heard of."""
    rows = fetch(
        dsn,
        "SELECT w.id, w.name, w.kinds, w.queues, w.state, w.running, w.concurrency, w.version,"
        " w.silence"
        " FROM pgsync.workers AS w ORDER BY w.id",
    )
    show(rows, as_json=as_json, empty="no workers")


class _Listing(click.Group):
    """A noun that means ``list`` where no verb follows."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Listing)
def operations() -> None:
    """Sync operations: runs, refused tries, and who was in the way. Lists them without a verb."""


@operations.command("list")
@dsn_option
@json_option
@click.option("--operation", help="Only runs of this operation.")
@click.option("--key", help="Only those on this key, the lock's name.")
@click.option("--state", help="running, completed, failed, blocked, released, limited, abandoned.")
@click.option("--before", type=int, help="Only those with a lower id: the next page.")
@click.option("--most", type=click.IntRange(1), default=20, show_default=True)
def operations_list(dsn: str | None, as_json: bool, **wanted: Any) -> None:
    """The latest runs of operations, refused ones too."""
    rows = fetch(
        dsn,
        "SELECT o.id, o.operation, o.key, o.state, o.actor, o.requested_at, o.duration, o.done,"
        " o.total, o.error, o.blocked_by FROM pgsync.operations AS o"
        " WHERE (%(operation)s::text IS NULL OR o.operation = %(operation)s)"
        " AND (%(key)s::text IS NULL OR o.key = %(key)s)"
        " AND (%(state)s::text IS NULL OR o.state = %(state)s)"
        " AND (%(before)s::bigint IS NULL OR o.id < %(before)s)"
        " ORDER BY o.id DESC LIMIT %(most)s",
        wanted,
    )
    show(rows, as_json=as_json, empty="no operation has run")


@operations.command("show")
@dsn_option
@json_option
@click.argument("run_id", type=int)
def operations_show(dsn: str | None, as_json: bool, run_id: int) -> None:
    """One run: its arguments, its outcome, and what happened in it."""
    rows = fetch(
        dsn,
        "SELECT o.id, o.operation, o.key, o.state, o.actor, o.requested_at, o.finished_at,"
        " o.duration, o.done, o.total, o.args, o.outcome, o.error, o.blocked_by, o.job_id,"
        " o.lock_name, o.lock_token,"
        " (SELECT jsonb_agg(jsonb_build_object('at', e.at, 'event', e.event, 'detail', e.detail)"
        "  ORDER BY e.id) FROM pgsync.operation_events AS e WHERE e.run_id = o.id) AS events"
        " FROM pgsync.operations AS o WHERE o.id = %(run)s",
        {"run": run_id},
    )
    if not rows:
        raise InvalidArgument(f"there is no run {run_id}; it may have been pruned")
    (run,) = rows
    if as_json:
        show_one(run, as_json=True)
        return
    events = run.pop("events") or []
    show_one(run, as_json=False)
    if events:
        click.echo()
        show(events, as_json=False, empty="")
