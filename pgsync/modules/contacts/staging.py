"""Carrying a chunk of rows into the database by COPY: good ones to staging, refused ones to their
list.

Staging is a table of the transaction's own, so that nothing is left behind however it ends. In it
turn 0 are the first rows of numbers that are no contacts yet, turn 1 those of known ones and the
second rows of the others, and so on: a number is once in a turn, whose rows can be merged at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.types.json import Jsonb
from sqlalchemy import text
from sqlalchemy.orm import Session

from pgsync.modules.contacts.consent import Consent
from pgsync.modules.contacts.merging import lock_known
from pgsync.modules.contacts.rows import ContactRow, Reject

__all__ = ["Lines", "Staging", "keep_rejects"]

_TABLE = """
CREATE TEMPORARY TABLE staged_contact (
    turn integer NOT NULL,
    phone text COLLATE "C" NOT NULL,
    row bigint NOT NULL,
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

_NULL = "\\N"
_ESCAPES = (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r"))
_SILENT = "\t".join((_NULL,) * 4)


@dataclass(slots=True)
class Lines:
    """Rows as COPY takes them: the numbers, and for each what follows it in its line."""

    phones: list[str] = field(default_factory=list)
    rest: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.phones)

    def extend(self, rows: Sequence[ContactRow]) -> None:
        """Add rows; made column by column, which costs a third of row by row."""
        if not rows:
            return
        numbers, phones, *texts, tags, statuses, customs, consents = zip(*rows, strict=True)
        joined = {its: _escaped("\n".join(its)) or _NULL for its in set(tags)}
        columns = (
            map(str, numbers),
            *map(_column, texts),
            [joined[its] for its in tags],
            [_escaped(json.dumps(custom)) if custom else _NULL for custom in customs],
            [status or _NULL for status in statuses],
            [_consent(consent) if consent else _SILENT for consent in consents],
        )
        self.phones += phones
        self.rest += map("\t".join, zip(*columns, strict=True))


def _column(texts: Sequence[str | None]) -> list[str]:
    together = "".join(filter(None, texts))
    if any(mark in together for mark, _ in _ESCAPES):
        return [_escaped(text) if text else _NULL for text in texts]
    return [text or _NULL for text in texts]


def _consent(consent: Consent) -> str:
    at = consent.at.isoformat() if consent.at else _NULL
    told = [_escaped(text) if text else _NULL for text in (consent.source, consent.evidence)]
    return "\t".join(("t" if consent.opted_in else "f", at, *told))


def _escaped(text: str) -> str:
    for mark, escape in _ESCAPES:
        text = text.replace(mark, escape)
    return text


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

    def add(self, lines: Lines, *, lock: bool = False) -> int:
        """Stage rows, and return how many turns it takes to merge them.

        With ``lock``, as for a merge, those who are contacts already are locked.
        """
        if not lines:
            return 0
        phones = self._surviving(lines.phones)
        known = lock_known(self._session, self._workspace_id, phones) if lock else ()
        coming = dict.fromkeys(known, 1)
        turns = []
        for phone in phones:
            turns.append(turn := coming.get(phone, 0))
            coming[phone] = turn + 1
        staged = zip(map(str, turns), phones, lines.rest, strict=True)
        with self._driver.cursor() as cursor, cursor.copy(_COPY) as copy:
            copy.write("\n".join(map("\t".join, staged)))
        return max(turns) + 1

    def _surviving(self, phones: Sequence[str]) -> Sequence[str]:
        here = {"workspace_id": self._workspace_id}
        if not self._session.scalar(_ANY_MERGED, here):
            return phones
        found = self._session.execute(_SURVIVORS, {**here, "phones": list(phones)})
        survivors = {row.phone: row.surviving for row in found}
        return [survivors.get(phone, phone) for phone in phones]


def keep_rejects(session: Session, import_id: int, rejects: Iterable[Reject]) -> None:
    """Put refused rows on the import's list."""
    with _driver(session).cursor() as cursor, cursor.copy(_COPY_REJECTS) as copy:
        for reject in rejects:
            copy.write_row((import_id, reject.row, reject.reason, Jsonb(reject.raw)))


def _driver(session: Session) -> psycopg.Connection[Any]:
    driver = session.connection().connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver
