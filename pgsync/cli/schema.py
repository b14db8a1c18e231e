"""``pgsync migrate`` and ``pgsync doctor``: the schema, and whether the server is fit for it."""

from __future__ import annotations

from dataclasses import asdict

import click

from pgsync.cli import exits
from pgsync.cli.output import direct_dsn_option, dsn_option, json_option, printable, show
from pgsync.coordinator import Coordinator
from pgsync.database.dsn import connect, masked
from pgsync.database.migrations import migrate as apply
from pgsync.database.migrations import render
from pgsync.doctor import Finding, examine

__all__ = ["doctor", "migrate"]


@click.command()
@dsn_option
@direct_dsn_option
@click.option("--modules", is_flag=True, help="Also the tables of the modules (pgsync_modules).")
@click.option(
    "--roles",
    is_flag=True,
    help="Create pgsync_reader, pgsync_worker and pgsync_admin, and keep their rights from now on.",
)
@click.option(
    "--patience",
    type=click.FloatRange(min=0),
    default=300,
    show_default=True,
    help="Seconds to try again while somebody uses a table that is to change.",
)
@click.option("--sql", "print_sql", is_flag=True, help="Print the SQL for psql; connect nowhere.")
def migrate(
    dsn: str | None,
    direct_dsn: str | None,
    modules: bool,
    roles: bool,
    patience: float,
    print_sql: bool,
) -> None:
    """Bring the database's schema up to this version. Safe from many processes at once.

    Safe while apps and daemons go on, too: it waits for each table but a moment, and tries again.
    """
    if print_sql:
        click.echo(render(modules=modules, roles=roles), nl=False)
        return
    with Coordinator(dsn, direct_dsn) as sync:
        applied = apply(
            sync.direct_dsn,
            modules=modules,
            roles=roles,
            told=lambda name: click.echo(f"applied {name}"),
            patience=patience,
        )
    if roles:
        click.echo("pgsync_reader, pgsync_worker and pgsync_admin have their rights here")
    elif not applied:
        click.echo("the schema is up to date")


@click.command()
@dsn_option
@direct_dsn_option
@json_option
@click.option(
    "--snapshot-age",
    type=click.FloatRange(min=0),
    default=3600,
    show_default=True,
    help="Warn of a snapshot that is older than these seconds.",
)
@click.pass_context
def doctor(
    context: click.Context,
    dsn: str | None,
    direct_dsn: str | None,
    as_json: bool,
    snapshot_age: float,
) -> None:
    """Check the connection, the server, the schema, and that the work is done.

    Each finding comes with its remedy. Exit 4 if there is a failure; a warning does not change the
    exit code.
    """
    findings = []
    with Coordinator(dsn, direct_dsn) as sync, connect(sync.direct_dsn) as connection:
        if not as_json:
            click.echo(f"ok    connected to {masked(sync.direct_dsn)}")
        for finding in examine(connection, sync.direct_dsn, snapshot_age=snapshot_age):
            findings.append(finding)
            if not as_json:
                _say(finding)
    if as_json:
        show([asdict(finding) for finding in findings], as_json=True, empty="")
    failed = any(finding.level == "failure" for finding in findings)
    context.exit(exits.UNHEALTHY if failed else 0)


_WORDS = {"ok": "ok  ", "warning": "warn", "failure": "FAIL"}
_COLOURS = {"warning": "yellow", "failure": "red"}


def _say(finding: Finding) -> None:
    word = click.style(_WORDS[finding.level], fg=_COLOURS.get(finding.level))
    # Names and queries of others may hold control characters that a terminal would obey.
    click.echo(f"{word}  {finding.check}: {printable(finding.found)}")
    if finding.remedy:
        click.echo(f"      do: {printable(finding.remedy)}")
