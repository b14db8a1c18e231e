"""What the modules' commands share, and template sync."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import click

from pgsync.cli.output import direct_dsn_option, dsn_option, fetch, json_option, show
from pgsync.cli.progress import showing_progress
from pgsync.coordinator import Coordinator
from pgsync.errors import InvalidArgument

if TYPE_CHECKING:
    from pgsync.modules.platform import Platform

__all__ = ["open_platform", "print_result", "templates"]


@contextmanager
def open_platform(dsn: str | None, direct_dsn: str | None) -> Iterator[Platform]:
    """The modules on a database whose schema is brought up to this version."""
    try:
        from pgsync.modules.platform import Platform
    except ModuleNotFoundError as error:
        raise InvalidArgument(
            f"the modules need {error.name}: pip install 'pgsync-coordination[modules]'"
        ) from None
    with Coordinator(dsn, direct_dsn) as sync:
        sync.migrate(modules=True)
        with closing(Platform(sync)) as platform:
            yield platform


def print_result(result: Any) -> None:
    """Print a result as JSON."""
    click.echo(json.dumps(result, ensure_ascii=False, indent=2))


@click.group()
def templates() -> None:
    """WhatsApp message templates."""


@templates.command("sync")
@dsn_option
@direct_dsn_option
@click.argument("connection_id", type=int)
def templates_sync(dsn: str | None, direct_dsn: str | None, connection_id: int) -> None:
    """Sync a connection's templates now; exit 3 if that is in progress or limited."""
    with open_platform(dsn, direct_dsn) as platform:
        with showing_progress(platform.sync, "template_sync"):
            counts = platform.whatsapp.template_sync(connection_id=connection_id)
        print_result(counts)


@templates.command("list")
@dsn_option
@json_option
@click.argument("connection_id", type=int)
def templates_list(dsn: str | None, as_json: bool, connection_id: int) -> None:
    """The templates of a connection, as they were last seen."""
    rows = fetch(
        dsn,
        "SELECT name, language, status, sendable, category, quality, stale, last_synced_at"
        " FROM pgsync_modules.templates WHERE connection_id = %(connection)s"
        " ORDER BY name, language",
        {"connection": connection_id},
    )
    show(rows, as_json=as_json, empty="no templates; run pgsync templates sync")
