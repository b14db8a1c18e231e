"""Carrying a chunk of rows into the database by COPY: good ones to staging, refused ones to their
list.

Staging is a table of the transaction's own, so that nothing is left behind however it ends. In it a
phone number's first row of the chunk has turn 0, its second one 1, and so on: rows of one turn can
be merged at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
from psycopg.types.json import Jsonb
from sqlalchemy import text
from sqlalchemy.orm import Session

from pgsync.modules.contacts.consent import Consent
from pgsync.modules.contacts.rows import ContactRow, Reject

__all__ = ["Staging", "keep_rejects"]

_TABLE = """
CREATE TEMPORARY TABLE staged_contact (
    turn integer NOT NULL,
    row bigint NOT NULL,
    phone text COLLATE "C" NOT NULL,
    name text,
    email text,
    company text,
    notes text,
    tags text,
    custom jsonb,
    status text,
    opted_in boolean,
    consent_at timestamptz,
    consent_source text,
    consent_evidence text
) ON COMMIT DROP
"""
_INDEX = "CREATE INDEX ON staged_contact (turn, phone)"
_COPY = "COPY staged_contact FROM STDIN"
_COPY_REJECTS = (
    "COPY pgsync_modules.contact_import_rejects (import_id, row, reason, raw) FROM STDIN"
)

_LOCK_MERGES = text("SELECT pgsync_modules.lock_merges(:workspace_id)")
_ANY_MERGED = text("""
SELECT EXISTS (SELECT FROM pgsync_modules.contact AS c
               WHERE c.workspace_id = :workspace_id AND c.merged_into IS NOT NULL)
""")
_SURVIVORS = text("""
SELECT c.phone, s.phone AS surviving
FROM pgsync_modules.contact AS c
JOIN pgsync_modules.contact AS s ON s.id = c.merged_into
WHERE c.workspace_id = :workspace_id AND c.merged_into IS NOT NULL
  AND c.phone = ANY (CAST(:phones AS text[]))
""")


_SILENT = Consent(False)


class Staging:
    """The staged rows of one transaction.

    Until the transaction ends no contacts of the workspace are merged by others: a number that was
    merged into another contact's is staged as that one's.
    """

    def __init__(self, session: Session, workspace_id: int) -> None:
        self._session = session
        self._workspace_id = workspace_id
        self._driver = _driver(session)
        session.execute(_LOCK_MERGES, {"workspace_id": workspace_id})
        self._driver.execute(_TABLE)

    def add(self, rows: Sequence[ContactRow]) -> int:
        """Stage rows, and return how many turns it takes to merge them."""
        turns: defaultdict[str, int] = defaultdict(int)
        survivors = self._survivors(rows)
        with self._driver.cursor() as cursor, cursor.copy(_COPY) as copy:
            for row in rows:
                phone = survivors.get(row.phone, row.phone) if survivors else row.phone
                turn = turns[phone]
                turns[phone] = turn + 1
                consent = row.consent or _SILENT
                copy.write_row(
                    (
                        turn,
                        row.row,
                        phone,
                        row.name,
                        row.email,
                        row.company,
                        row.notes,
                        "\n".join(row.tags) or None,
                        Jsonb(row.custom) if row.custom else None,
                        row.status,
                        consent.opted_in,
                        consent.at,
                        consent.source,
                        consent.evidence,
                    )
                )
        return max(turns.values(), default=0)

    def finish(self) -> None:
        """Index the staged rows; unknown to the planner they are joined all with all."""
        self._driver.execute(_INDEX)
        self._driver.execute("ANALYZE staged_contact")

    def _survivors(self, rows: Sequence[ContactRow]) -> dict[str, str]:
        here = {"workspace_id": self._workspace_id}
        if not self._session.scalar(_ANY_MERGED, here):
            return {}
        phones = [row.phone for row in rows]
        found = self._session.execute(_SURVIVORS, {**here, "phones": phones})
        return {row.phone: row.surviving for row in found}


def keep_rejects(session: Session, import_id: int, rejects: Iterable[Reject]) -> None:
    """Put refused rows on the import's list."""
    with _driver(session).cursor() as cursor, cursor.copy(_COPY_REJECTS) as copy:
        for reject in rejects:
            copy.write_row((import_id, reject.row, reject.reason, Jsonb(reject.raw)))


def _driver(session: Session) -> psycopg.Connection[Any]:
    driver = session.connection().connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver
