"""``pgsync workers`` and ``pgsync audit``."""

from __future__ import annotations

from typing import Any

import click

from pgsync.cli.output import dsn_option, fetch, json_option, show

__all__ = ["audit", "workers"]


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


@click.command()
@dsn_option
@json_option
@click.option("--subject", help="Only what was done to this lock, queue, schedule or key.")
@click.option("--actor", help="Only what this one did.")
@click.option("--before", type=int, help="Only entries with a lower id: the next page.")
@click.option("--most", type=click.IntRange(1), default=20, show_default=True)
def audit(dsn: str | None, as_json: bool, **wanted: Any) -> None:
    """Who did what, and why; the newest first."""
    rows = fetch(
        dsn,
        "SELECT a.id, a.at, a.actor, a.action, a.subject, a.detail FROM pgsync.audit AS a"
        " WHERE (%(subject)s::text IS NULL OR a.subject = %(subject)s)"
        " AND (%(actor)s::text IS NULL OR a.actor = %(actor)s)"
        " AND (%(before)s::bigint IS NULL OR a.id < %(before)s)"
        " ORDER BY a.id DESC LIMIT %(most)s",
        wanted,
    )
    show(rows, as_json=as_json, empty="nobody has done anything yet")
