"""The export of a workspace's contacts to a file, streamed by a server-side cursor."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Row, Select, literal, select
from sqlalchemy.orm import Session, sessionmaker

from pgsync.errors import InvalidArgument
from pgsync.modules.contacts.cells import join_tags
from pgsync.modules.contacts.headers import EXPORT_HEADERS
from pgsync.modules.contacts.models import Contact
from pgsync.modules.contacts.rows import STATUSES
from pgsync.modules.contacts.sheets import FORMATS, Format, replacing, write_rows
from pgsync.modules.guarding import check
from pgsync.modules.models import Workspace
from pgsync.operations import OperationRun

__all__ = ["ExportRun"]

_CHUNK = 500


@dataclass(slots=True)
class ExportRun:
    """One export at work, under its operation's lock.

    A contact must have one of ``tags`` and one of ``statuses``, where they are given; each of
    ``custom`` is a custom field that becomes a column of its name behind the others.
    """

    op: OperationRun
    sessions: sessionmaker[Session]
    workspace_id: int
    tags: Sequence[str] = ()
    statuses: Sequence[str] = ()
    custom: Sequence[str] = ()
    rows: int = 0

    def __post_init__(self) -> None:
        if unknown := set(self.statuses) - set(STATUSES):
            raise InvalidArgument(f"no status {sorted(unknown)}; use some of {STATUSES}")

    def run(self, path: Path, form: str | None = None) -> dict[str, Any]:
        """Write the contacts, by phone number, and return how many.

        ``form`` defaults to the path's suffix. The file is replaced when all is written.

        Raises:
            InvalidArgument: if the workspace or the format is not there.
            ContactFileError: if the file cannot be written.
            LockLost, CancelJob, ReleaseJob: if it may not go on; the old file stays.
        """
        chosen = _format(path, form)
        with self.sessions() as session, replacing(path) as part:
            if session.get(Workspace, self.workspace_id) is None:
                raise InvalidArgument(f"there is no workspace {self.workspace_id}")
            write_rows(part, chosen, self._lines(session))
            check(self.op)
        return {"rows": self.rows, "path": str(path), "format": chosen}

    def _lines(self, session: Session) -> Iterator[Sequence[str]]:
        yield (*EXPORT_HEADERS, *self.custom)
        for row in session.execute(self._query()):
            yield (*_line(row), *(_custom(row.custom.get(field)) for field in self.custom))
            self.rows += 1
            if self.rows % _CHUNK == 0:
                check(self.op)
                self.op.progress(self.rows)
        self.op.progress(self.rows, self.rows)

    def _query(self) -> Select[*tuple[Any, ...]]:
        query = select(
            Contact.phone,
            Contact.name,
            Contact.email,
            Contact.company,
            Contact.status,
            Contact.tags,
            Contact.notes,
            Contact.created_at,
            Contact.custom if self.custom else literal(None).label("custom"),
        ).where(Contact.workspace_id == self.workspace_id, Contact.merged_into.is_(None))
        if self.tags:
            query = query.where(Contact.tags.overlap(list(self.tags)))
        if self.statuses:
            query = query.where(Contact.status.in_(self.statuses))
        return query.order_by(Contact.phone).execution_options(yield_per=_CHUNK)


def _format(path: Path, form: str | None) -> Format:
    wanted = (form or path.suffix.removeprefix(".")).casefold()
    for known in FORMATS:
        if known == wanted:
            return known
    raise InvalidArgument(f"no export format {wanted!r}; use one of {FORMATS}")


def _custom(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _line(row: Row[*tuple[Any, ...]]) -> Sequence[str]:
    return (
        row.phone[1:],
        row.name or "",
        row.email or "",
        row.phone,
        row.company or "",
        row.status,
        join_tags(row.tags),
        row.notes or "",
        row.created_at.isoformat(),
    )
