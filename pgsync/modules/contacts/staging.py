"""Carrying rows into the database by COPY: good ones to staging, refused ones to their list."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg
from psycopg.types.json import Jsonb
from sqlalchemy import Select, column, delete, table
from sqlalchemy.orm import Session

from pgsync.modules.contacts.rows import ContactRow, Reject

__all__ = ["discard_staging", "stage"]

_COPY_ROWS = """
COPY pgsync_modules.contact_import_row
    (import_id, row, phone, name, email, company, notes, tags, status) FROM STDIN
"""
_COPY_REJECTS = (
    "COPY pgsync_modules.contact_import_rejects (import_id, row, reason, raw) FROM STDIN"
)


def stage(session: Session, import_id: int, rows: Iterable[ContactRow | Reject]) -> None:
    """Add rows to an import, in the session's transaction."""
    driver = session.connection().connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    rejects: list[Reject] = []
    with driver.cursor() as cursor:
        with cursor.copy(_COPY_ROWS) as copy:
            for row in rows:
                if isinstance(row, Reject):
                    rejects.append(row)
                else:
                    copy.write_row(_staged(import_id, row))
        if not rejects:
            return
        with cursor.copy(_COPY_REJECTS) as copy:
            for reject in rejects:
                copy.write_row((import_id, reject.row, reject.reason, Jsonb(reject.raw)))


def _staged(import_id: int, row: ContactRow) -> tuple[int | str | None, ...]:
    return (
        import_id,
        row.row,
        row.phone,
        row.name,
        row.email,
        row.company,
        row.notes,
        "\n".join(row.tags) or None,
        row.status,
    )


def discard_staging(session: Session, import_ids: Select[int]) -> None:
    """Remove the staged rows of imports that need them no more."""
    staged = table("contact_import_row", column("import_id"), schema="pgsync_modules")
    session.execute(delete(staged).where(staged.c.import_id.in_(import_ids)))
