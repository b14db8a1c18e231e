"""Staging: rows on their way to a merge, in a table of the transaction's own.

So nothing is left behind, however it ends. Rows come with a turn: a number is once in a turn, whose
rows can be merged at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg.types.json import Jsonb
from sqlalchemy import text
from sqlalchemy.orm import Session

from pgsync.modules.contacts.lines import Lines
from pgsync.modules.contacts.rows import Reject

__all__ = ["Staging", "driver_of", "keep_rejects", "redirect"]

_TABLE = """
CREATE TEMPORARY TABLE staged_contact (
    turn integer NOT NULL,
    phone text COLLATE "C" NOT NULL,
    name text,
    email text,
    company text,
    notes text,
    tags text[] NOT NULL,
    custom jsonb NOT NULL,
    status text NOT NULL,
    row bigint NOT NULL,
    calls_active boolean NOT NULL,
    opted_in boolean,
    consent_at timestamptz,
    consent_source text,
    consent_evidence text
) ON COMMIT DROP
"""
_COPY = "COPY staged_contact FROM STDIN"
_INDEX = "CREATE INDEX ON staged_contact (turn, phone)"
# Unknown to the planner they are joined all with all.
_ANALYZE = "ANALYZE staged_contact (turn, phone)"
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


def redirect(session: Session, workspace_id: int, lines: Lines) -> None:
    """Give rows of a number that was merged into another contact's that one's number.

    Until the transaction ends no contacts of the workspace are merged by others.
    """
    here = {"workspace_id": workspace_id}
    session.execute(_LOCK_MERGES, here)
    if session.scalar(_ANY_MERGED, here):
        found = session.execute(_SURVIVORS, {**here, "phones": lines.phones})
        lines.renumber({row.phone: row.surviving for row in found})


class Staging:
    """The staged rows of one transaction."""

    def __init__(self, session: Session) -> None:
        self._driver = driver_of(session)
        self._driver.execute(_TABLE)

    def add(self, lines: Lines, turns: Iterable[tuple[int, int]]) -> None:
        """Stage rows: of each its index and its turn."""
        staged = [f"{turn}\t{lines.cells[i]}\t{lines.told(i)}\n" for i, turn in turns]
        with self._driver.cursor() as cursor, cursor.copy(_COPY) as copy:
            copy.write("".join(staged))

    def index(self) -> None:
        """Make the rows of each of several turns quick to find."""
        self._driver.execute(_INDEX)
        self._driver.execute(_ANALYZE)


def keep_rejects(session: Session, import_id: int, rejects: Iterable[Reject]) -> None:
    """Put refused rows on the import's list."""
    with driver_of(session).cursor() as cursor, cursor.copy(_COPY_REJECTS) as copy:
        for reject in rejects:
            copy.write_row((import_id, reject.row, reject.reason, Jsonb(reject.raw)))


def driver_of(session: Session) -> psycopg.Connection[Any]:
    """The session's own connection, for what SQLAlchemy has no words for."""
    driver = session.connection().connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver
