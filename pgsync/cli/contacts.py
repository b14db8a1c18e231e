"""Contacts on the command line: files in and out, refused rows, consent, merges."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from pgsync.cli import exits
from pgsync.cli.modules import open_platform, print_result
from pgsync.cli.output import (
    direct_dsn_option,
    dsn_option,
    fetch,
    json_option,
    printable,
    show,
    show_one,
)
from pgsync.cli.progress import showing_progress
from pgsync.errors import InvalidArgument

__all__ = ["contacts"]


class _Moment(click.DateTime):
    """A day, or a time with its offset; UTC unless it says otherwise."""

    def __init__(self) -> None:
        super().__init__(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S%z"])

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        moment: datetime = super().convert(value, param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@click.group()
def contacts() -> None:
    """Contacts of a workspace."""


@contacts.command("import")
@dsn_option
@direct_dsn_option
@json_option
@click.option("--country", "--region", "region", help="Of numbers written without one, like DE.")
@click.option(
    "--merge",
    "--on-duplicate",
    "on_duplicate",
    type=click.Choice(["skip", "fill", "overwrite"]),
    default="fill",
    show_default=True,
    help="What becomes of contacts that are known already.",
)
@click.option(
    "--map",
    "mapped",
    multiple=True,
    metavar="COLUMN=FIELD",
    help="Which column is what; repeat. =FIELD takes the field from no column.",
)
@click.option("--keep-others", is_flag=True, help="Other columns become custom fields.")
@click.option("--dry-run", is_flag=True, help="Only tell what it would do.")
@click.argument("workspace_id", type=int)
@click.argument("path", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def import_(
    dsn: str | None,
    direct_dsn: str | None,
    as_json: bool,
    region: str | None,
    on_duplicate: str,
    mapped: tuple[str, ...],
    keep_others: bool,
    dry_run: bool,
    workspace_id: int,
    path: Path,
) -> None:
    """Import a CSV or XLSX file; exit 3 if an import of the workspace is in progress."""
    settings: dict[str, Any] = {
        "region": region,
        "on_duplicate": on_duplicate,
        "mapping": _mapping(mapped),
        "keep_others": keep_others,
    }
    with open_platform(dsn, direct_dsn) as platform:
        if dry_run:
            _show_rehearsal(platform.contacts.dry_run(workspace_id, path, **settings), as_json)
            return
        with showing_progress(platform.sync, "contact_import"):
            counts = platform.contacts.contact_import(
                workspace_id=workspace_id, path=str(path.resolve()), **settings
            )
        print_result(counts)


def _mapping(mapped: Sequence[str]) -> dict[str, str | None] | None:
    mapping: dict[str, str | None] = {}
    for each in mapped:
        # A header may have an equals sign, a field has none.
        column, mark, field = each.rpartition("=")
        if not mark or not field.strip():
            raise InvalidArgument(f"--map {each!r} is not COLUMN=FIELD, such as Handy=phone")
        mapping[field.strip()] = column.strip() or None
    return mapping or None


def _show_rehearsal(found: dict[str, Any], as_json: bool) -> None:
    """Counts and columns as lines, the first rows as they would become, and what to look at."""
    if as_json:
        print_result(found)
        return
    first, errors = found.pop("first"), found.pop("errors") + found.pop("repeats")
    fields = found.pop("fields")
    found["columns"] = "; ".join(f"{name}: {', '.join(fields[name])}" for name in fields)
    found["others"] = ", ".join(found["others"]) or None
    show_one(found, as_json=False)
    for row in first:
        click.echo(printable(json.dumps(row, ensure_ascii=False)))
    for error in errors:
        click.echo(error, err=True)


@contacts.command()
@dsn_option
@direct_dsn_option
@click.option("--tag", "tags", multiple=True, help="Contacts with one of these; all without.")
@click.option("--status", "statuses", multiple=True, help="Contacts with one of these.")
@click.option("--custom", multiple=True, help="A custom field to add as a column; repeat.")
@click.option("--format", "form", type=click.Choice(["csv", "xlsx"]), help="Not by the ending.")
@click.argument("workspace_id", type=int)
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
def export(
    dsn: str | None,
    direct_dsn: str | None,
    tags: tuple[str, ...],
    statuses: tuple[str, ...],
    custom: tuple[str, ...],
    form: str | None,
    workspace_id: int,
    path: Path,
) -> None:
    """Export to a CSV or XLSX file, by the name's ending."""
    with open_platform(dsn, direct_dsn) as platform:
        with showing_progress(platform.sync, "contact_export"):
            counts = platform.contacts.contact_export(
                workspace_id=workspace_id,
                path=str(path.resolve()),
                tags=list(tags),
                statuses=list(statuses),
                custom=list(custom),
                form=form,
            )
        print_result(counts)


@contacts.command()
@dsn_option
@json_option
@click.argument("workspace_id", type=int)
def imports(dsn: str | None, as_json: bool, workspace_id: int) -> None:
    """The newest imports of a workspace, and what became of their rows."""
    rows = fetch(
        dsn,
        "SELECT id, file_name, state, total, rows, imported, updated, duplicates, rejected,"
        " opt_outs_kept, resumed, started_at, finished_at, error"
        " FROM pgsync_modules.contact_import WHERE workspace_id = %(workspace)s"
        " ORDER BY id DESC LIMIT 50",
        {"workspace": workspace_id},
    )
    show(rows, as_json=as_json, empty="no imports; run pgsync contacts import")


@contacts.command()
@dsn_option
@direct_dsn_option
@click.argument("import_id", type=int)
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
def rejects(dsn: str | None, direct_dsn: str | None, import_id: int, path: Path) -> None:
    """Write the rows that an import refused to a CSV file (- is standard output).

    Each has its number in the file and the reason; put right, the file can be imported as it is.
    """
    with open_platform(dsn, direct_dsn) as platform:
        if str(path) != "-":
            print_result(platform.contacts.write_rejects(import_id, path.resolve()))
            return
        from pgsync.modules.contacts.sheets import csv_pieces

        for piece in csv_pieces(platform.contacts.rejects(import_id)):
            click.echo(piece, nl=False)


@contacts.command("show")
@dsn_option
@json_option
@click.argument("workspace_id", type=int)
@click.argument("phone")
@click.pass_context
def show_(
    context: click.Context, dsn: str | None, as_json: bool, workspace_id: int, phone: str
) -> None:
    """A contact by its number (E.164), with its history; exit 3 if there is none."""
    rows = fetch(
        dsn,
        "SELECT c.*, (SELECT coalesce(jsonb_agg(to_jsonb(e) - 'workspace_id' ORDER BY e.at), '[]')"
        "             FROM pgsync_modules.contact_event AS e WHERE e.contact_id = c.id) AS events"
        " FROM pgsync_modules.contact AS c"
        " WHERE c.workspace_id = %(workspace)s"
        " AND c.phone = pgsync_modules.surviving_phone(%(workspace)s, %(phone)s)",
        {"workspace": workspace_id, "phone": phone},
    )
    if not rows:
        click.echo(f"workspace {workspace_id} has no contact {phone}", err=True)
        context.exit(exits.NOTHING)
    if as_json:
        show_one(rows[0], as_json=True)
        return
    events = rows[0].pop("events")
    show_one(rows[0], as_json=False)
    names = ("at", "event", "phone", "source", "evidence", "actor")
    show([{name: event[name] for name in names} for event in events], as_json=False, empty="")


@contacts.command()
@dsn_option
@direct_dsn_option
@click.argument("workspace_id", type=int)
@click.argument("keep", type=int)
@click.argument("others", type=int, nargs=-1, required=True)
def merge(
    dsn: str | None,
    direct_dsn: str | None,
    workspace_id: int,
    keep: int,
    others: tuple[int, ...],
) -> None:
    """Merge contacts (ids) that are one person into KEEP; an opt-out of any holds."""
    with open_platform(dsn, direct_dsn) as platform:
        counts = platform.contacts.contact_merge(
            workspace_id=workspace_id, keep=keep, others=list(others)
        )
        print_result(counts)


def _consent_command(name: str, about: str, *, needs_evidence: bool) -> click.Command:
    @click.command(name.replace("_", "-"), help=about)
    @dsn_option
    @direct_dsn_option
    @click.option("--source", required=True, help="Where it came from, like form.")
    @click.option("--evidence", required=needs_evidence, help="What proves it.")
    @click.option("--at", type=_Moment(), help="When it was (UTC); now unless given.")
    @click.argument("workspace_id", type=int)
    @click.argument("phone")
    def record(
        dsn: str | None, direct_dsn: str | None, workspace_id: int, phone: str, **said: Any
    ) -> None:
        with open_platform(dsn, direct_dsn) as platform:
            change = getattr(platform.contacts, name)(workspace_id, phone, **said)
        print_result({**asdict(change), "at": change.at.isoformat() if change.at else None})

    return record


for _command in (
    _consent_command("opt_out", "Record that a person opted out.", needs_evidence=False),
    _consent_command(
        "opt_in",
        "Record that a person opted in; only this ends an opt-out, and only an older one.",
        needs_evidence=True,
    ),
):
    contacts.add_command(_command)
