"""The rows that an import refused, as a file: put right, it can be imported as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.orm import Session, sessionmaker

from pgsync.errors import InvalidArgument
from pgsync.modules.contacts.headers import REJECT_HEADERS
from pgsync.modules.contacts.models import ContactImport, ContactImportReject
from pgsync.modules.contacts.rows import label_columns
from pgsync.modules.contacts.sheets import replacing, write_rows

__all__ = ["reject_lines", "write_rejects"]

_CHUNK = 1_000
# Cells beyond the header's last, and all of an import that did not note its header.
_OTHER_COLUMNS = text("""
SELECT k.name
FROM pgsync_modules.contact_import_rejects AS r
CROSS JOIN LATERAL jsonb_object_keys(r.raw) AS k (name)
WHERE r.import_id = :import_id AND k.name <> ALL (CAST(:known AS text[]))
GROUP BY k.name ORDER BY length(k.name), k.name
""")


def reject_lines(sessions: sessionmaker[Session], import_id: int) -> Iterator[Sequence[str]]:
    """The header, then each refused row: its number, the reason, and its cells.

    They are fetched by the thousand, in transactions that end at once: who downloads slowly keeps
    nothing open.

    Raises:
        InvalidArgument: if there is no such import.
    """
    with sessions() as session:
        headers = session.scalar(select(ContactImport.headers).where(ContactImport.id == import_id))
        if headers is None:
            raise InvalidArgument(
                f"there is no import {import_id}; see pgsync_modules.contact_import"
            )
        columns = label_columns(headers)
        columns += session.scalars(_OTHER_COLUMNS, {"import_id": import_id, "known": columns})
    return _lines(sessions, import_id, columns)


def _lines(
    sessions: sessionmaker[Session], import_id: int, columns: list[str]
) -> Iterator[Sequence[str]]:
    # Those of a file that was such a file itself are told anew.
    columns = [column for column in columns if column not in REJECT_HEADERS]
    yield (*REJECT_HEADERS, *columns)
    after = 0
    while True:
        with sessions() as session:
            chunk = session.execute(
                select(ContactImportReject.row, ContactImportReject.reason, ContactImportReject.raw)
                .where(ContactImportReject.import_id == import_id, ContactImportReject.row > after)
                .order_by(ContactImportReject.row)
                .limit(_CHUNK)
            ).all()
        for row, reason, raw in chunk:
            yield (str(row), reason, *(raw.get(column, "") for column in columns))
        if len(chunk) < _CHUNK:
            return
        after = chunk[-1].row


def write_rejects(sessions: sessionmaker[Session], import_id: int, path: Path) -> dict[str, Any]:
    """Write the refused rows to a CSV file and return how many there are.

    Raises:
        InvalidArgument: if there is no such import.
        ContactFileError: if the file cannot be written.
    """
    lines = reject_lines(sessions, import_id)
    with replacing(path) as part:
        rows = write_rows(part, "csv", lines)
    return {"rows": rows - 1, "path": str(path)}
