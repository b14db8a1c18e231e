"""The import of a file: chunk by chunk, each staged and merged in one transaction under the lock.

What a chunk did and how far it came is committed together. So an import that is cut off, by a
crash of anything, goes on behind its last chunk when the same file is imported again.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import dropwhile
from pathlib import Path
from typing import Any, get_args

from sqlalchemy import func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from pgsync.errors import InvalidArgument
from pgsync.modules.contacts.cells import clean
from pgsync.modules.contacts.chunks import Ahead, Arrival, Chunk
from pgsync.modules.contacts.errors import ERRORS_SHOWN, in_row
from pgsync.modules.contacts.merging import OnDuplicate
from pgsync.modules.contacts.models import ContactImport, ContactImportReject
from pgsync.modules.contacts.phones import check_region
from pgsync.modules.contacts.rows import read_contacts
from pgsync.modules.contacts.spooling import as_csv
from pgsync.modules.contacts.staging import keep_rejects
from pgsync.modules.contacts.surveying import Survey, digest_of, survey
from pgsync.modules.contacts.tables import Bounds, open_table
from pgsync.modules.guarding import guarded
from pgsync.modules.models import Workspace
from pgsync.operations import OperationRun

__all__ = ["ImportRun", "ImportSettings"]

_UNFINISHED = ("running", "failed")


@dataclass(frozen=True, slots=True)
class ImportSettings:
    """How a file is to be read; with other settings the same file is another import.

    ``region`` is the country of numbers written without one, the workspace's unless given.
    ``mapping`` is as in :func:`find_columns`; with ``keep_others`` the columns that are not
    understood become custom fields.
    """

    region: str | None = None
    on_duplicate: OnDuplicate = "fill"
    mapping: Mapping[str, str | None] | None = None
    keep_others: bool = False

    def __post_init__(self) -> None:
        if self.on_duplicate not in get_args(OnDuplicate):
            raise InvalidArgument(
                f"on_duplicate is {self.on_duplicate!r}; use one of {get_args(OnDuplicate)}"
            )
        object.__setattr__(self, "region", check_region(self.region))

    def as_json(self) -> dict[str, Any]:
        """What makes two imports of a file the same one."""
        return {
            "region": self.region,
            "on_duplicate": self.on_duplicate,
            "mapping": dict(self.mapping) if self.mapping else None,
            "keep_others": self.keep_others,
        }


@dataclass(slots=True)
class ImportRun:
    """One import at work, under its operation's lock.

    Each row of the file that is not blank is counted once: ``rejected``; ``imported``, if it made
    a contact; ``updated``, if its contact was known and changed; or ``duplicates``, if its number
    stood in an earlier row, or its contact was known and did not change. ``opt_outs_kept`` are rows
    that called somebody active or opted in who has opted out: no import takes that back.
    """

    op: OperationRun
    sessions: sessionmaker[Session]
    workspace_id: int
    settings: ImportSettings
    batch: int
    id: int = 0
    _met_known: bool = False

    def run(self, path: Path, bounds: Bounds | None = None) -> dict[str, Any]:
        """Import the file and return the counts, with the messages of the first refused rows.

        Raises:
            ContactFileError: if the file as a whole cannot be read; no contact is changed then.
            InvalidArgument: if the workspace or the region is not there.
            LockLost: if the operation's lock is lost; what is merged by then stays.
        """
        with as_csv(path, bounds) as readable:
            found = survey(readable, self.settings.mapping, bounds)
            through, region = self._begin(path, found)
            try:
                self._merge_file(readable, path.name, bounds, through, region)
                return self._finish()
            except BaseException as error:
                # What went wrong is told, even where the database cannot be told.
                with suppress(SQLAlchemyError):
                    self._fail(error)
                raise

    def _begin(self, path: Path, found: Survey) -> tuple[int, str]:
        """Record the import, or take up the one that was cut off; the last row done, the region."""
        digest = digest_of(path)
        with guarded(self.sessions, self.op) as session:
            workspace = session.get(Workspace, self.workspace_id)
            if workspace is None:
                raise InvalidArgument(f"there is no workspace {self.workspace_id}")
            region = self.settings.region or workspace.default_region
            settings = self.settings.as_json() | {"region": region}
            # The lock is ours, so that none of the workspace's imports runs any more.
            last = session.scalar(
                select(ContactImport)
                .where(ContactImport.workspace_id == self.workspace_id)
                .order_by(ContactImport.id.desc())
                .limit(1)
                .with_for_update()
            )
            if last is not None and last.state in _UNFINISHED:
                if (last.digest, last.settings) == (digest, settings):
                    last.state, last.error, last.finished_at = "running", None, None
                    last.resumed += 1
                    self.id = last.id
                    return last.through, region
                if last.state == "running":
                    last.state, last.finished_at = "abandoned", func.clock_timestamp()
            record = ContactImport(
                workspace_id=self.workspace_id,
                file_name=path.name,
                headers=[clean(header) or "" for header in found.headers],
                on_duplicate=self.settings.on_duplicate,
                digest=digest,
                settings=settings,
                total=found.rows,
            )
            session.add(record)
            session.flush()
            self.id = record.id
            return 0, region

    def _merge_file(
        self, readable: Path, file_name: str, bounds: Bounds | None, through: int, region: str
    ) -> None:
        with (
            open_table(readable, bounds) as table,
            ThreadPoolExecutor(1, thread_name_prefix="pgsync-read") as reader,
        ):
            rows = dropwhile(lambda row: row[0] <= through, table.rows)
            contacts = read_contacts(
                replace(table, rows=rows),
                region,
                self.settings.mapping,
                keep_others=self.settings.keep_others,
            )
            chunk = Ahead(contacts, self.batch).rest()
            while chunk is not None:
                chunk = self._merge_chunk(file_name, chunk, Ahead(contacts, self.batch), reader)

    def _merge_chunk(
        self, file_name: str, chunk: Chunk, ahead: Ahead, reader: ThreadPoolExecutor
    ) -> Chunk | None:
        """Merge a chunk, and return the next one, read while the database worked on this one."""
        with guarded(self.sessions, self.op) as session:
            # Who is known is asked for only once somebody was: most first imports meet nobody.
            arrival = Arrival(
                session, self.id, self.workspace_id, chunk.lines, lock_known=self._met_known
            )
            # In this thread: beside one that reads, each piece would wait for Python to be let go.
            arrival.copy_new(meanwhile=ahead.step)
            self._met_known |= arrival.met_known
            reading = reader.submit(ahead.rest)
            arrival.merge_others(file_name, self.settings.on_duplicate)
            if chunk.rejects:
                keep_rejects(session, self.id, chunk.rejects)
            done, total = session.execute(
                update(ContactImport)
                .where(ContactImport.id == self.id)
                .values(
                    rows=ContactImport.rows + chunk.rows,
                    rejected=ContactImport.rejected + len(chunk.rejects),
                    through=chunk.through,
                )
                .returning(ContactImport.rows, ContactImport.total)
            ).one()
        self.op.progress(done, total)
        return reading.result()

    def _finish(self) -> dict[str, Any]:
        with guarded(self.sessions, self.op) as session:
            record = session.get_one(ContactImport, self.id, with_for_update=True)
            record.state, record.finished_at = "completed", func.clock_timestamp()
            refused = session.execute(
                select(ContactImportReject.row, ContactImportReject.reason)
                .where(ContactImportReject.import_id == self.id)
                .order_by(ContactImportReject.row)
                .limit(ERRORS_SHOWN)
            )
            return {
                "import_id": record.id,
                "rows": record.rows,
                "imported": record.imported,
                "updated": record.updated,
                "duplicates": record.duplicates,
                "rejected": record.rejected,
                "opt_outs_kept": record.opt_outs_kept,
                "resumed": record.resumed,
                "errors": [in_row(row, reason) for row, reason in refused],
            }

    def _fail(self, error: BaseException) -> None:
        """Say so in its own row: an import of the same file goes on with it."""
        with self.sessions.begin() as session:
            session.execute(
                update(ContactImport)
                .where(ContactImport.id == self.id, ContactImport.state == "running")
                .values(
                    state="failed",
                    error=f"{type(error).__name__}: {error}",
                    finished_at=func.clock_timestamp(),
                )
            )
