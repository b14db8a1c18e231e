"""The import of a file: read and stage it in chunks, then merge it in batches under the lock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from sqlalchemy import func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from pgsync.errors import InvalidArgument
from pgsync.modules.contacts.merging import OnDuplicate, merge_batch
from pgsync.modules.contacts.models import ContactImport
from pgsync.modules.contacts.phones import check_region
from pgsync.modules.contacts.rows import ContactRow, Reject, read_contacts
from pgsync.modules.contacts.staging import discard_staging, stage
from pgsync.modules.contacts.tables import Bounds, open_table
from pgsync.modules.guarding import guarded
from pgsync.modules.models import Workspace
from pgsync.operations import OperationRun

__all__ = ["ImportRun"]

_ERRORS_SHOWN = 20
_RUNNING = ("reading", "merging")


@dataclass(slots=True)
class ImportRun:
    """One import at work, under its operation's lock.

    Each row of the file that is not blank is counted once: ``rejected``; ``imported``, if it made
    a contact; ``updated``, if its contact was known and changed; or ``duplicates``, if its number
    stood in an earlier row, or its contact was known and did not change.
    """

    op: OperationRun
    sessions: sessionmaker[Session]
    workspace_id: int
    on_duplicate: OnDuplicate
    batch: int
    id: int = 0
    rows: int = 0
    rejected: int = 0
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.on_duplicate not in get_args(OnDuplicate):
            raise InvalidArgument(
                f"on_duplicate is {self.on_duplicate!r}; use one of {get_args(OnDuplicate)}"
            )

    def run(
        self,
        path: Path,
        region: str | None,
        mapping: Mapping[str, str | None] | None,
        bounds: Bounds | None = None,
    ) -> dict[str, Any]:
        """Import the file and return the counts, with the messages of the first refused rows.

        Raises:
            ContactFileError: if the file as a whole cannot be read; no contact is changed then.
            InvalidArgument: if the workspace or the region is not there.
            LockLost: if the operation's lock is lost; what is merged by then stays.
        """
        home = self._begin(path)
        try:
            with open_table(path, bounds) as table:
                self._stage(read_contacts(table, check_region(region) or home, mapping))
            self._merge()
            return self._finish()
        except BaseException as error:
            # What went wrong is told, even where the database cannot be told.
            with suppress(SQLAlchemyError):
                self._fail(error)
            raise

    def _begin(self, path: Path) -> str:
        """Record the import, clear away what dead ones left; returns the workspace's region."""
        with guarded(self.sessions, self.op) as session:
            workspace = session.get(Workspace, self.workspace_id)
            if workspace is None:
                raise InvalidArgument(f"there is no workspace {self.workspace_id}")
            # The lock is ours, so that none of the workspace's imports runs any more.
            here = ContactImport.workspace_id == self.workspace_id
            discard_staging(session, select(ContactImport.id).where(here))
            session.execute(
                update(ContactImport)
                .where(here, ContactImport.state.in_(_RUNNING))
                .values(state="abandoned", finished_at=func.clock_timestamp())
            )
            record = ContactImport(
                workspace_id=self.workspace_id,
                file_name=path.name,
                on_duplicate=self.on_duplicate,
            )
            session.add(record)
            session.flush()
            self.id = record.id
            return workspace.default_region

    def _stage(self, contacts: Iterator[ContactRow | Reject]) -> None:
        while chunk := list(islice(contacts, self.batch)):
            with self.sessions.begin() as session:
                stage(session, self.id, chunk)
                self.rows += len(chunk)
                self._count_rejects(chunk)
                self._record(session, rows=self.rows, rejected=self.rejected)
            self.op.progress(self.rows)

    def _count_rejects(self, chunk: list[ContactRow | Reject]) -> None:
        messages = [row.message for row in chunk if isinstance(row, Reject)]
        self.rejected += len(messages)
        self.errors += messages[: _ERRORS_SHOWN - len(self.errors)]

    def _merge(self) -> None:
        with guarded(self.sessions, self.op) as session:
            self._record(session, state="merging")
        after, done = "", self.rejected
        while True:
            with guarded(self.sessions, self.op) as session:
                merged = merge_batch(
                    session, self.id, self.workspace_id, self.on_duplicate, after, self.batch
                )
            if merged is None:
                return
            after, done = merged.until, done + merged.rows
            self.op.progress(done, self.rows)

    def _finish(self) -> dict[str, Any]:
        with guarded(self.sessions, self.op) as session:
            discard_staging(session, select(ContactImport.id).where(ContactImport.id == self.id))
            self._record(session, state="completed", finished_at=func.clock_timestamp())
            record = session.get_one(ContactImport, self.id)
            return {
                "import_id": record.id,
                "rows": record.rows,
                "imported": record.imported,
                "updated": record.updated,
                "duplicates": record.duplicates,
                "rejected": record.rejected,
                "errors": self.errors,
            }

    def _fail(self, error: BaseException) -> None:
        """Say so in its own row; staging is left for a look, until the next import."""
        with self.sessions.begin() as session:
            message = f"{type(error).__name__}: {error}"
            self._record(session, state="failed", error=message, finished_at=func.clock_timestamp())

    def _record(self, session: Session, **values: Any) -> None:
        session.execute(update(ContactImport).where(ContactImport.id == self.id).values(**values))
