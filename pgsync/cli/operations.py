"""``pgsync operations``: what ran, who started it, and who was in the way; starts and cancels."""

from __future__ import annotations

import json
from typing import Any

import click

from pgsync.cli import exits
from pgsync.cli.apps import open_app
from pgsync.cli.output import (
    by_option,
    direct_dsn_option,
    dsn_option,
    fetch,
    json_option,
    show,
    show_one,
)
from pgsync.coordinator import Coordinator
from pgsync.errors import InvalidArgument

__all__ = ["operations"]


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
@click.option("--state", help="running, completed, failed, cancelled, blocked, and so on.")
@click.option("--before", type=int, help="Only those with a lower id: the next page.")
@click.option("--most", type=click.IntRange(1), default=20, show_default=True)
def operations_list(dsn: str | None, as_json: bool, **wanted: Any) -> None:
    """The latest runs of operations, refused ones too."""
    show(_runs(dsn, wanted), as_json=as_json, empty="no operation has run")


def _runs(dsn: str | None, wanted: dict[str, Any]) -> Any:
    return fetch(
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


@operations.command("history")
@dsn_option
@json_option
@click.option("--before", type=int, help="Only those with a lower id: the next page.")
@click.option("--most", type=click.IntRange(1), default=20, show_default=True)
@click.argument("operation")
@click.argument("key", required=False)
def operations_history(dsn: str | None, as_json: bool, **wanted: Any) -> None:
    """The runs of one operation, of all keys or one: who started it, and who was refused why."""
    rows = _runs(dsn, {"state": None, **wanted})
    show(rows, as_json=as_json, empty=f"{wanted['operation']} has not run")


@operations.command("status")
@dsn_option
@json_option
@click.argument("operation")
@click.argument("key")
@click.pass_context
def operations_status(
    context: click.Context, dsn: str | None, as_json: bool, operation: str, key: str
) -> None:
    """The run that goes on, or else the last; exit 3 where there was none."""
    rows = fetch(
        dsn,
        "SELECT * FROM pgsync.operation_status(%(operation)s, %(key)s)",
        {"operation": operation, "key": key},
    )
    if not rows:
        click.echo(f"{operation} has not run on {key}", err=True)
        context.exit(exits.NOTHING)
    show_one(rows[0], as_json=as_json)


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


@operations.command("start")
@dsn_option
@direct_dsn_option
@click.option(
    "--app",
    envvar="PGSYNC_APP",
    help="package.module:coordinator, which declares it; or PGSYNC_APP.",
)
@by_option("Who starts it, for its history")
@click.option("--now", is_flag=True, help="Run it here, rather than by a worker.")
@click.argument("operation")
@click.argument("arguments", nargs=-1, metavar="[NAME=VALUE]...")
def operations_start(
    dsn: str | None,
    direct_dsn: str | None,
    app: str | None,
    by: str,
    now: bool,
    operation: str,
    arguments: tuple[str, ...],
) -> None:
    """Start an operation, with its arguments as JSON or text; prints the job, or the result.

    With --now exit 3 where it is in progress, or limited.
    """
    sync = open_app(app, dsn, direct_dsn)
    if not isinstance(sync, Coordinator):
        raise InvalidArgument(f"--app: {app} is a {type(sync).__name__}, not a Coordinator")
    with sync:
        known = sync.operations.get(operation)
        if known is None:
            names = ", ".join(sorted(sync.operations)) or "none"
            raise InvalidArgument(f"{app} has no operation {operation!r}; it has {names}")
        started = known.by(by)
        given = dict(map(_argument, arguments))
        if now:
            click.echo(json.dumps(started(**given), ensure_ascii=False, indent=2))
        else:
            click.echo(f"job {started.enqueue(**given).id}")


def _argument(given: str) -> tuple[str, Any]:
    name, equals, value = given.partition("=")
    if not equals:
        raise click.UsageError(f"{given!r} must be NAME=VALUE, like connection_id=7")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


@operations.command("cancel")
@dsn_option
@by_option("Who does it, for the audit trail")
@click.argument("run_id", type=int)
@click.pass_context
def operations_cancel(context: click.Context, dsn: str | None, by: str, run_id: int) -> None:
    """Cancel the job of a run; exit 3 where it has ended, or was called directly."""
    (row,) = fetch(
        dsn,
        "SELECT pgsync.cancel_operation(%(run)s, %(by)s) AS answer",
        {"run": run_id, "by": by},
    )
    if row["answer"] is None:
        click.echo(
            f"run {run_id} has ended, or has no job: one that was called directly ends with its"
            " lock (pgsync locks release)",
            err=True,
        )
        context.exit(exits.NOTHING)
    click.echo("asked to stop" if row["answer"] == "running" else row["answer"])
