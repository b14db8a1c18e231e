"""Carrying a chunk of rows into the database by COPY: good ones to staging, refused ones to their
list.

Staging is a table of the transaction's own, so that nothing is left behind however it ends. In it a
phone number's first row of the chunk has turn 0, its second one 1, and so on: rows of one turn can
be merged at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import psycopg
from psycopg.types.json import Jsonb
from sqlalchemy.orm import Session

from pgsync.modules.contacts.rows import ContactRow, Reject

__all__ = ["stage"]

_TABLE = """
CREATE TEMPORARY TABLE staged_contact (
    turn integer NOT NULL,
    phone text COLLATE "C" NOT NULL,
    name text,
    email text,
    company text,
    notes text,
    tags text,
    custom jsonb,
    status text
) ON COMMIT DROP
"""
_INDEX = "CREATE INDEX ON staged_contact (turn, phone)"
_COPY = "COPY staged_contact FROM STDIN"
_COPY_REJECTS = (
    "COPY pgsync_modules.contact_import_rejects (import_id, row, reason, raw) FROM STDIN"
)


def stage(session: Session, import_id: int, rows: Iterable[ContactRow | Reject]) -> int:
    """Stage rows in the session's transaction, and return how many turns it takes to merge them."""
    driver = session.connection().connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    rejects: list[Reject] = []
    turns: defaultdict[str, int] = defaultdict(int)
    with driver.cursor() as cursor:
        cursor.execute(_TABLE)
        with cursor.copy(_COPY) as copy:
            for row in rows:
                if isinstance(row, Reject):
                    rejects.append(row)
                    continue
                turn = turns[row.phone]
                turns[row.phone] = turn + 1
                copy.write_row(
                    (
                        turn,
                        row.phone,
                        row.name,
                        row.email,
                        row.company,
                        row.notes,
                        "\n".join(row.tags) or None,
                        Jsonb(row.custom) if row.custom else None,
                        row.status,
                    )
                )
        cursor.execute(_INDEX)
        # Without its statistics a chunk is joined to the contacts by all with all.
        cursor.execute("ANALYZE staged_contact")
        if rejects:
            with cursor.copy(_COPY_REJECTS) as copy:
                for reject in rejects:
                    copy.write_row((import_id, reject.row, reject.reason, Jsonb(reject.raw)))
    return max(turns.values(), default=0)
