"""``pgsync maintenance``: the duties that daemons do, and what came of them."""

from __future__ import annotations

import click

from pgsync.cli import exits
from pgsync.cli.output import dsn_option, fetch, json_option, show

__all__ = ["maintenance"]


@click.command()
@dsn_option
@json_option
def maintenance(dsn: str | None, as_json: bool) -> None:
    """Each duty's last run; exit 4 where the last run of one failed."""
    rows = fetch(
        dsn,
        "SELECT m.duty, m.outcome, m.last_run_at, m.duration, m.rows, m.done_total, m.failures,"
        " m.by, m.error FROM pgsync.maintenance AS m ORDER BY m.outcome = 'failed' DESC, m.duty",
    )
    show(rows, as_json=as_json, empty="")
    if any(row["outcome"] == "failed" for row in rows):
        click.get_current_context().exit(exits.UNHEALTHY)
