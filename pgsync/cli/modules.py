"""The modules on the command line: template sync, campaigns, contact import and export."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgsync.cli.output import direct_dsn_option, dsn_option, fetch, json_option, show
from pgsync.cli.progress import showing_progress
from pgsync.coordinator import Coordinator
from pgsync.errors import InvalidArgument

if TYPE_CHECKING:
    from pgsync.modules.platform import Platform

__all__ = ["campaigns", "contacts", "templates"]


@contextmanager
def _platform(dsn: str | None, direct_dsn: str | None) -> Iterator[Platform]:
    try:
        from pgsync.modules.platform import Platform
    except ModuleNotFoundError as error:
        raise InvalidArgument(
            f"the modules need {error.name}: pip install 'pgsync-coordination[modules]'"
        ) from None
    with Coordinator(dsn, direct_dsn) as sync:
        sync.migrate(modules=True)
        yield Platform(sync)


def _print(result: Any) -> None:
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
    with _platform(dsn, direct_dsn) as platform:
        with showing_progress(platform.sync, "template_sync"):
            counts = platform.whatsapp.template_sync(connection_id=connection_id)
        _print(counts)


@templates.command("list")
@dsn_option
@json_option
@click.argument("connection_id", type=int)
def templates_list(dsn: str | None, as_json: bool, connection_id: int) -> None:
    """The templates of a connection, as they were last seen."""
    rows = fetch(
        dsn,
        "SELECT t.name, t.language, t.status, t.category, t.remotely_deleted_at, t.last_synced_at"
        " FROM pgsync_modules.template AS t WHERE t.connection_id = %(connection)s"
        " ORDER BY t.name, t.language",
        {"connection": connection_id},
    )
    show(rows, as_json=as_json, empty="no templates; run pgsync templates sync")


@click.group()
def contacts() -> None:
    """Contacts of a workspace."""


@contacts.command("import")
@dsn_option
@direct_dsn_option
@click.option("--region", help="Country of numbers written without one, like DE.")
@click.option(
    "--on-duplicate",
    type=click.Choice(["skip", "fill", "overwrite"]),
    default="fill",
    show_default=True,
    help="What becomes of contacts that are known already.",
)
@click.argument("workspace_id", type=int)
@click.argument("path", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def contacts_import(
    dsn: str | None,
    direct_dsn: str | None,
    region: str | None,
    on_duplicate: str,
    workspace_id: int,
    path: Path,
) -> None:
    """Import a CSV or XLSX file; exit 3 if an import of the workspace is in progress."""
    with _platform(dsn, direct_dsn) as platform:
        with showing_progress(platform.sync, "contact_import"):
            counts = platform.contacts.contact_import(
                workspace_id=workspace_id,
                path=str(path.resolve()),
                region=region,
                on_duplicate=on_duplicate,
            )
        _print(counts)


@contacts.command("export")
@dsn_option
@direct_dsn_option
@click.argument("workspace_id", type=int)
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
def contacts_export(dsn: str | None, direct_dsn: str | None, workspace_id: int, path: Path) -> None:
    """Export to a CSV or XLSX file, by the name's ending."""
    with _platform(dsn, direct_dsn) as platform:
        with showing_progress(platform.sync, "contact_export"):
            counts = platform.contacts.contact_export(
                workspace_id=workspace_id, path=str(path.resolve())
            )
        _print(counts)


@click.group()
def campaigns() -> None:
    """Campaigns: messages to many recipients."""


@campaigns.command("list")
@dsn_option
@json_option
def campaigns_list(dsn: str | None, as_json: bool) -> None:
    """Each campaign, its state, and how many of its messages went where."""
    rows = fetch(
        dsn,
        "SELECT c.id, c.name, c.state, count(r.id) AS recipients,"
        " count(r.id) FILTER (WHERE r.state IN ('sent', 'delivered', 'read')) AS sent,"
        " count(r.id) FILTER (WHERE r.state = 'failed') AS failed,"
        " count(r.id) FILTER (WHERE r.state = 'unknown') AS unknown"
        " FROM pgsync_modules.campaign AS c"
        " LEFT JOIN pgsync_modules.campaign_recipient AS r ON r.campaign_id = c.id"
        " GROUP BY c.id ORDER BY c.id DESC LIMIT 50",
    )
    show(rows, as_json=as_json, empty="no campaigns")
