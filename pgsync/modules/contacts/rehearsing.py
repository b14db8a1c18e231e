"""What an import would do, counted against the contacts as they are, and nothing written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from pgsync.errors import InvalidArgument
from pgsync.modules.contacts.errors import ERRORS_SHOWN, in_row
from pgsync.modules.contacts.headers import find_columns
from pgsync.modules.contacts.importing import ImportSettings
from pgsync.modules.contacts.lines import Lines
from pgsync.modules.contacts.merging import count_staged
from pgsync.modules.contacts.rows import ContactRow, Reject, read_contacts
from pgsync.modules.contacts.staging import Staging, redirect
from pgsync.modules.contacts.tables import Table, open_table
from pgsync.modules.models import Workspace

__all__ = ["rehearse"]

_CHUNK = 10_000
_REPEATS = text("""
SELECT f.row, f.first
FROM (SELECT s.row, min(s.row) OVER (PARTITION BY s.phone) AS first FROM staged_contact AS s) AS f
WHERE f.row <> f.first ORDER BY f.row LIMIT :most
""")


def rehearse(
    sessions: sessionmaker[Session],
    workspace_id: int,
    path: Path,
    settings: ImportSettings,
    first: int = 5,
) -> dict[str, Any]:
    """Read the whole file and count as an import would; its first rows as they would become.

    ``repeats`` are the first rows whose number stands in an earlier one.

    The rows are staged in a transaction that is taken back. Others may write contacts meanwhile;
    only merges of contacts wait for it.

    Raises:
        ContactFileError: if the file as a whole cannot be read.
        InvalidArgument: if the workspace is not there.
    """
    seen: list[ContactRow] = []
    errors: list[str] = []
    rejected = 0
    with sessions() as session, open_table(path) as table:
        workspace = session.get(Workspace, workspace_id)
        if workspace is None:
            raise InvalidArgument(f"there is no workspace {workspace_id}")
        region = settings.region or workspace.default_region
        staging = Staging(session)
        for chunk in _chunks(table, region, settings):
            rows = [row for row in chunk if isinstance(row, ContactRow)]
            rejects = [row for row in chunk if isinstance(row, Reject)]
            lines = Lines()
            lines.extend(rows)
            redirect(session, workspace_id, lines)
            staging.add(lines, ((index, 0) for index in range(len(lines))))
            seen += rows[: first - len(seen)] if len(seen) < first else []
            errors += [row.message for row in rejects[: ERRORS_SHOWN - len(errors)]]
            rejected += len(rejects)
        counts = count_staged(session, workspace_id, settings.on_duplicate)
        repeats = session.execute(_REPEATS, {"most": ERRORS_SHOWN}).all()
        session.rollback()
    columns = find_columns(table.headers, settings.mapping)
    rows_read = counts["imported"] + counts["updated"] + counts["duplicates"] + rejected
    return {
        "format": table.format,
        "region": region,
        "fields": {
            field: [table.headers[index] for index in indexes]
            for field, indexes in columns.by_field().items()
        },
        "others": [table.headers[index] for index in columns.others],
        "rows": rows_read,
        **counts,
        "rejected": rejected,
        "errors": errors,
        "repeats": [in_row(row, f"its number is that of row {first}") for row, first in repeats],
        "first": [_shown(row) for row in seen],
    }


def _chunks(
    table: Table, region: str, settings: ImportSettings
) -> Iterator[list[ContactRow | Reject]]:
    contacts = read_contacts(table, region, settings.mapping, keep_others=settings.keep_others)
    while chunk := list(islice(contacts, _CHUNK)):
        yield chunk


def _shown(row: ContactRow) -> dict[str, Any]:
    """The row as JSON, without what it does not say."""
    facts = row._asdict() | {"tags": list(row.tags), "consent": None}
    if row.consent is not None:
        at = row.consent.at.isoformat() if row.consent.at else None
        facts["consent"] = asdict(row.consent) | {"at": at}
    return {name: value for name, value in facts.items() if value}
