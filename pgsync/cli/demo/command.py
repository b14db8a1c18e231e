"""The command ``pgsync demo``."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from pgsync.cli.demo.screen import Screen
from pgsync.cli.output import direct_dsn_option, dsn_option
from pgsync.coordinator import Coordinator
from pgsync.database.dsn import masked
from pgsync.errors import InvalidArgument

__all__ = ["demo"]


@click.command()
@dsn_option
@direct_dsn_option
@click.option("--once", is_flag=True, help="End after one round, with a summary.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
@click.option("--templates", type=click.IntRange(1, 5000), default=350, show_default=True)
@click.option("--rows", type=click.IntRange(10, 1_000_000), default=5000, show_default=True)
def demo(
    dsn: str | None, direct_dsn: str | None, once: bool, as_json: bool, templates: int, rows: int
) -> None:
    """Sync templates, import contacts and send a campaign: each started twice at once.

    Everything is real: PostgreSQL, HTTP (to a stand-in for the Graph API on this machine), files.
    """
    try:
        from pgsync.cli.demo.scenario import Scenario
    except ModuleNotFoundError as error:
        raise InvalidArgument(
            f"the demo needs {error.name}: pip install 'pgsync-coordination[embedded,modules]'"
        ) from None
    screen = Screen(quiet=as_json)
    began = time.monotonic()
    screen.say("Starting PostgreSQL..." if dsn is None else "Connecting...")
    with Coordinator(dsn, direct_dsn) as sync:
        sync.migrate(modules=True)
        with Scenario(sync, screen, templates=templates, rows=rows) as scenario:
            scenario.run_once()
            figures = scenario.figures()
            figures["seconds"] = round(time.monotonic() - began, 1)
            if as_json:
                click.echo(json.dumps(figures, ensure_ascii=False))
            else:
                _summarise(screen, figures)
            if not once:
                _suggest(screen, dsn)
                scenario.keep_running()


def _summarise(screen: Screen, figures: dict[str, Any]) -> None:
    screen.say("")
    for name in ("templates", "contacts", "campaign", "jobs"):
        words = ", ".join(f"{value} {key}" for key, value in figures[name].items())
        screen.say(f"[bold]{name:<10}[/] {words}")
    for blocked in figures["blocked"]:
        screen.say(f"[bold]{'blocked':<10}[/] {blocked['key']}: {blocked['message']}")
    screen.say(f"[bold]{'seconds':<10}[/] {figures['seconds']}")


def _suggest(screen: Screen, dsn: str | None) -> None:
    program = "pgsync db psql" if dsn is None else f'psql "{masked(dsn)}"'
    screen.say("")
    screen.say(f"Small syncs go on until Ctrl-C. Look at them meanwhile, with {program}:")
    for query in (
        "SELECT operation, key, state, blocked_by FROM pgsync.operations ORDER BY id DESC;",
        "SELECT name, owner, token, remaining FROM pgsync.locks;",
        "SELECT name, available, running, workers FROM pgsync.queues;",
        'SELECT "row", reason FROM pgsync_modules.contact_import_rejects LIMIT 10;',
    ):
        screen.say(f"    {query}")
