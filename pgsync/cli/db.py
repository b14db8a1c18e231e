"""``pgsync db``: the embedded PostgreSQL server, started and stopped by hand."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pgsync.cli import exits
from pgsync.database.binaries import BinariesMissing, find_binaries
from pgsync.database.embedded import EmbeddedServer
from pgsync.errors import PgsyncError

__all__ = ["db"]


def _data_dir(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="The server's folder, instead of PGSYNC_DATA_DIR or your own data folder.",
    )(command)


@click.group()
def db() -> None:
    """The embedded PostgreSQL server, for machines that have no other."""


@db.command()
@_data_dir
def start(data_dir: Path | None) -> None:
    """Start the server, print its DSN, and let it run until `pgsync db stop`."""
    server = EmbeddedServer(data_dir)
    click.echo(server.start(persistent=True))
    server.release()


@db.command()
@_data_dir
def stop(data_dir: Path | None) -> None:
    """Stop the server, even where other processes use it."""
    server = EmbeddedServer(data_dir)
    click.echo("stopped" if server.stop() else "it did not run")


@db.command()
@_data_dir
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def status(context: click.Context, data_dir: Path | None, as_json: bool) -> None:
    """Say whether the server runs: exit 0 if it does, 4 if not."""
    found = EmbeddedServer(data_dir).status()
    facts = dataclasses.asdict(found)
    if as_json:
        click.echo(json.dumps(facts, default=str))
    else:
        for name, value in facts.items():
            click.echo(f"{name:<11}{_word(value)}")
    context.exit(0 if found.running else exits.UNHEALTHY)


@db.command()
@_data_dir
def path(data_dir: Path | None) -> None:
    """Print the server's folder, which holds its data and its log."""
    click.echo(EmbeddedServer(data_dir).path)


@db.command(context_settings={"ignore_unknown_options": True})
@_data_dir
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def psql(data_dir: Path | None, arguments: tuple[str, ...]) -> None:
    """Open psql on the server, with ARGUMENTS for psql; starts the server where needed."""
    program = _psql()
    server = EmbeddedServer(data_dir)
    dsn = server.start()
    # psql takes this process's place, and with it its hold on the server.
    os.set_inheritable(server.hold_descriptor(), True)
    os.execv(program, [program, f"--dbname={dsn}", *arguments])  # noqa: S606


def _psql() -> str:
    try:
        beside = find_binaries().program("psql")
    except PgsyncError:
        beside = None  # a server that runs already can do without binaries here
    program = str(beside) if beside else shutil.which("psql")
    if program is None:
        raise BinariesMissing(
            "no psql is installed here; install your system's postgresql-client (Debian, Ubuntu) "
            "or libpq (Homebrew), or use any other client on the DSN that pgsync db start prints"
        )
    return program


def _word(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
