"""``pgsync workers``."""

from __future__ import annotations

import click

from pgsync.cli.output import dsn_option, fetch, json_option, show

__all__ = ["workers"]


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
