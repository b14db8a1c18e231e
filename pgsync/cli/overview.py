"""``pgsync operations`` and ``pgsync workers``."""

from __future__ import annotations

import click

from pgsync.cli.output import dsn_option, fetch, json_option, show

__all__ = ["operations", "workers"]


@click.command()
@dsn_option
@json_option
def workers(dsn: str | None, as_json: bool) -> None:
    """The workers, what they claim, and when they were last heard of."""
    rows = fetch(
        dsn,
        "SELECT w.id, w.name, w.queues, w.state, w.running, w.concurrency, w.version, w.silence"
        " FROM pgsync.workers AS w ORDER BY w.id",
    )
    show(rows, as_json=as_json, empty="no workers")


@click.command()
@dsn_option
@json_option
@click.option("--operation", help="Only runs of this operation.")
@click.option("--most", type=click.IntRange(1), default=20, show_default=True)
def operations(dsn: str | None, as_json: bool, operation: str | None, most: int) -> None:
    """The latest runs of operations, refused ones too."""
    rows = fetch(
        dsn,
        "SELECT o.id, o.operation, o.key, o.state, o.actor, o.requested_at, o.duration, o.done,"
        " o.total, o.error, o.blocked_by FROM pgsync.operations AS o"
        " WHERE %(operation)s::text IS NULL OR o.operation = %(operation)s"
        " ORDER BY o.id DESC LIMIT %(most)s",
        {"operation": operation, "most": most},
    )
    show(rows, as_json=as_json, empty="no operation has run")
