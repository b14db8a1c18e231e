"""``pgsync locks``: who holds what, taking a lock from its holder, running a command under one."""

from __future__ import annotations

import subprocess
from dataclasses import asdict

import click

from pgsync.cli import exits
from pgsync.cli.output import direct_dsn_option, dsn_option, fetch, json_option, show, show_one
from pgsync.coordinator import Coordinator

__all__ = ["locks"]


@click.group()
def locks() -> None:
    """Locks that are held now."""


@locks.command("list")
@dsn_option
@json_option
def locks_list(dsn: str | None, as_json: bool) -> None:
    """Each lock, its holder, its age and its deadline."""
    rows = fetch(
        dsn,
        "SELECT l.name, l.mode, l.owner, l.host, l.token, l.age, l.remaining, l.waiting,"
        " array_to_string(l.waiters, ', ') AS waiters, l.pid"
        " FROM pgsync.locks AS l ORDER BY l.acquired_at",
    )
    show(rows, as_json=as_json, empty="no lock is held")


@locks.command("show")
@dsn_option
@json_option
@click.argument("name")
def locks_show(dsn: str | None, as_json: bool, name: str) -> None:
    """Who holds the lock NAME, who waits for it, and what would free it."""
    with Coordinator(dsn) as sync:
        explained = asdict(sync.explain_lock(name))
    if not as_json:
        explained["waiters"] = ", ".join(explained["waiters"]) or None
    show_one(explained, as_json=as_json)


@locks.command("ask")
@dsn_option
@click.option("--by", help="Who asks; this host and process by default.")
@click.option("--why", help="What the holders and the audit trail are told.")
@click.argument("name")
@click.pass_context
def locks_ask(
    context: click.Context, dsn: str | None, by: str | None, why: str | None, name: str
) -> None:
    """Ask the holders of the lock NAME to finish; exit 3 if nobody holds it."""
    with Coordinator(dsn) as sync:
        asked = sync.ask_to_release(name, by=by, why=why)
    click.echo(f"asked {asked} holder(s)" if asked else "nobody holds it")
    context.exit(0 if asked else exits.NOTHING)


@locks.command("release")
@dsn_option
@click.argument("name")
@click.option("--by", help="Who does it; this host and process by default.")
@click.option("--why", help="Why, for the audit trail.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def locks_release(dsn: str | None, name: str, by: str | None, why: str | None, yes: bool) -> None:
    """Take a lock from its holder, by ending the session that carries it."""
    holders = fetch(
        dsn,
        "SELECT l.owner, (SELECT count(*) FROM pgsync.locks AS o WHERE o.pid = l.pid) AS carried"
        " FROM pgsync.locks AS l WHERE l.name = %(name)s",
        {"name": name},
    )
    if not holders:
        click.echo("nobody holds it")
        return
    owner, carried = holders[0]["owner"], holders[0]["carried"]
    if not yes:
        click.confirm(f"End the session of {owner}, which carries {carried} lock(s)?", abort=True)
    with Coordinator(dsn) as sync:
        released = sync.force_release(name, by=by, why=why)
    click.echo("released" if released else "it was released meanwhile")


@locks.command("run", context_settings={"ignore_unknown_options": True})
@dsn_option
@direct_dsn_option
@click.option("--ttl", type=float, default=300.0, show_default=True, help="Seconds, renewed.")
@click.option("--wait", type=float, default=0.0, show_default=True, help="Seconds to wait for it.")
@click.argument("name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def locks_run(
    context: click.Context,
    dsn: str | None,
    direct_dsn: str | None,
    ttl: float,
    wait: float,
    name: str,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND under the lock NAME; exit 3 if somebody else holds it.

    The command is ended if the lock is lost.
    """
    with Coordinator(dsn, direct_dsn) as sync:
        process: subprocess.Popen[bytes] | None = None

        def end(reason: str) -> None:
            click.echo(f"lock {name!r} was lost: {reason}", err=True)
            if process is not None:
                process.terminate()

        with sync.lock(name, ttl=ttl, wait=wait, auto_renew=True, on_lost=end):
            process = subprocess.Popen(command)
            code = process.wait()
    context.exit(code if code >= 0 else 128 - code)
