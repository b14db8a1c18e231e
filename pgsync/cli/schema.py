"""``pgsync migrate`` and ``pgsync doctor``: the schema, and whether the server is fit for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import psycopg

from pgsync.cli.output import direct_dsn_option, dsn_option
from pgsync.coordinator import Coordinator
from pgsync.database.dsn import check_server, connect, masked
from pgsync.database.migrations import check_schema, render
from pgsync.database.pooler import refuse_transaction_pooler
from pgsync.errors import PgsyncError

__all__ = ["doctor", "migrate"]

_UNHEALTHY = 4


@click.command()
@dsn_option
@direct_dsn_option
@click.option("--modules", is_flag=True, help="Also the tables of the modules (pgsync_modules).")
@click.option("--sql", "print_sql", is_flag=True, help="Print the SQL for psql; connect nowhere.")
def migrate(dsn: str | None, direct_dsn: str | None, modules: bool, print_sql: bool) -> None:
    """Bring the database's schema up to this version. Safe from many processes at once."""
    if print_sql:
        click.echo(render(modules=modules), nl=False)
        return
    with Coordinator(dsn, direct_dsn) as sync:
        applied = sync.migrate(modules=modules)
    for name in applied:
        click.echo(f"applied {name}")
    if not applied:
        click.echo("the schema is up to date")


@click.command()
@dsn_option
@direct_dsn_option
@click.option(
    "--snapshot-age",
    type=click.FloatRange(min=0),
    default=3600,
    show_default=True,
    help="Warn of a snapshot that is older than these seconds.",
)
@click.pass_context
def doctor(
    context: click.Context, dsn: str | None, direct_dsn: str | None, snapshot_age: float
) -> None:
    """Check the connection, the server, its settings and the schema. Exit 4 if one is not fit.

    Warns of what keeps dead rows from being vacuumed; a warning does not change the exit code.
    """
    with Coordinator(dsn, direct_dsn) as sync, connect(sync.direct_dsn) as connection:
        click.echo(f"ok    connected to {masked(sync.direct_dsn)}")
        healthy = True
        checks: dict[str, Callable[[], None]] = {
            "server": lambda: check_server(connection),
            "schema": lambda: check_schema(connection),
            "session of one's own": lambda: refuse_transaction_pooler(connection, sync.direct_dsn),
        }
        for what, check in checks.items():
            try:
                check()
                click.echo(f"ok    {what}")
            except PgsyncError as error:
                healthy = False
                click.echo(f"FAIL  {what}: {error}")
        if healthy:
            for warning in _old_snapshots(connection, snapshot_age):
                click.echo(f"warn  {warning}")
        row = connection.execute(
            "SELECT current_setting('server_version'),"
            " current_setting('max_locks_per_transaction')::int"
            " * (current_setting('max_connections')::int"
            "    + current_setting('max_prepared_transactions')::int)"
        ).fetchone()
    if row:
        click.echo(f"ok    PostgreSQL {row[0]}, room for about {row[1]} locks")
    context.exit(0 if healthy else _UNHEALTHY)


def _old_snapshots(connection: psycopg.Connection[Any], seconds: float) -> list[str]:
    """Who has pinned the vacuum horizon for so long, and what would end it."""
    if connection.execute("SELECT to_regclass('pgsync.oldest_snapshot')").fetchone() == (None,):
        return []
    rows = connection.execute(
        "SELECT concat_ws(' ', s.kind, s.pid::text, quote_literal(s.name), s.state),"
        " coalesce(date_trunc('second', s.age)::text, 'some time'), s.query, s.ended_by"
        " FROM pgsync.oldest_snapshot AS s"
        " WHERE s.age > make_interval(secs => %s)"
        " OR s.kind = 'replication slot' AND s.state = 'inactive'",
        [seconds],
    ).fetchall()
    return [
        f"vacuum held back for {age} by {who}{f': {query[:60]!r}' if query else ''}; end: {end}"
        for who, age, query, end in rows
    ]
