"""The contacts' operations: an import, an export and a merge at a time for a workspace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from pgsync.coordinator import Coordinator
from pgsync.errors import InvalidArgument
from pgsync.modules.contacts.consent import Consent, ConsentChange, record_consent
from pgsync.modules.contacts.exporting import ExportRun
from pgsync.modules.contacts.importing import ImportRun, ImportSettings
from pgsync.modules.contacts.joining import join_contacts
from pgsync.modules.contacts.merging import OnDuplicate
from pgsync.modules.contacts.models import Contact
from pgsync.modules.contacts.phones import to_e164
from pgsync.modules.contacts.rehearsing import rehearse
from pgsync.modules.contacts.rejects import reject_lines, write_rejects
from pgsync.modules.guarding import guarded
from pgsync.modules.models import Workspace
from pgsync.operations import Operation, OperationRun

__all__ = ["Contacts"]


class Contacts:
    """Import and export of a workspace's contacts, declared on a coordinator.

    ``batch`` is how many rows are staged and merged in one transaction. Run them here
    (``contacts.contact_import(workspace_id=1, path="people.csv")``) or enqueue them for a worker
    that sees the same path (``contacts.contact_import.enqueue(...)``).
    """

    contact_import: Operation
    """``(workspace_id, path, **settings)``; see :class:`ImportSettings`"""

    contact_export: Operation
    """``(workspace_id, path, tags=None, statuses=None, form=None, custom=None)``"""

    contact_merge: Operation
    """``(workspace_id, keep, others)``, the contacts' ids; see :func:`join_contacts`"""

    def __init__(
        self, sync: Coordinator, sessions: sessionmaker[Session], *, batch: int = 10_000
    ) -> None:
        self.sessions = sessions
        self._batch = batch
        self.contact_import = sync.operation(
            "contact_import",
            lock="contact_import:workspace:{workspace_id}",
            ttl=600,
            auto_renew=True,
            queue="default",
            blocked="Contact import is already in progress",
        )(self._import)
        self.contact_export = sync.operation(
            "contact_export",
            lock="contact_export:workspace:{workspace_id}",
            ttl=300,
            auto_renew=True,
            queue="default",
            blocked="Contact export is already in progress",
        )(self._export)
        self.contact_merge = sync.operation(
            "contact_merge",
            lock="contact_merge:workspace:{workspace_id}",
            ttl=300,
            queue="default",
            blocked="Contact merge is already in progress",
        )(self._merge)

    def dry_run(
        self, workspace_id: int, path: str | Path, *, first: int = 5, **settings: Any
    ) -> dict[str, Any]:
        """What an import with these :class:`ImportSettings` would do; see :func:`rehearse`."""
        return rehearse(self.sessions, workspace_id, Path(path), ImportSettings(**settings), first)

    def rejects(self, import_id: int) -> Iterator[Sequence[str]]:
        """The rows that an import refused, with a header; see :func:`reject_lines`."""
        return reject_lines(self.sessions, import_id)

    def write_rejects(self, import_id: int, path: str | Path) -> dict[str, Any]:
        """The same to a CSV file, no cell of which is a formula; see :func:`write_rejects`."""
        return write_rejects(self.sessions, import_id, Path(path))

    @contextmanager
    def editing(self, workspace_id: int, phone: str) -> Iterator[Contact]:
        """A contact to change, in a transaction that commits when the block ends well.

        Its row is locked from the first look on, so that an import that meets it waits, and is
        merged with what is written here. Of a contact that was merged this is the one that is kept.

        Raises:
            InvalidArgument: if there is no such contact.
        """
        with self.sessions.begin() as session:
            number = _number(session, workspace_id, phone)
            kept = session.scalar(select(func.pgsync_modules.surviving_phone(workspace_id, number)))
            contact = session.scalar(
                select(Contact)
                .where(Contact.workspace_id == workspace_id, Contact.phone == kept)
                .with_for_update()
            )
            if contact is None:
                raise InvalidArgument(f"workspace {workspace_id} has no contact of that number")
            yield contact
            if session.is_modified(contact):
                contact.updated_at = func.clock_timestamp()

    def opt_in(
        self,
        workspace_id: int,
        phone: str,
        *,
        source: str,
        evidence: str,
        at: datetime | None = None,
    ) -> ConsentChange:
        """Record that a person opted in, at ``at`` (UTC) or now, and how that is known.

        This alone ends an opt-out, and only one that is older.

        Raises:
            InvalidArgument: if the source or the evidence is blank, or ``phone`` is no number.
        """
        return self._record(workspace_id, phone, Consent(True, at, source, evidence))

    def opt_out(
        self,
        workspace_id: int,
        phone: str,
        *,
        source: str,
        evidence: str | None = None,
        at: datetime | None = None,
    ) -> ConsentChange:
        """Record that a person opted out, at ``at`` (UTC) or now.

        Whoever is no contact becomes one. The first opt-out stands, and so does a block.

        Raises:
            InvalidArgument: if ``phone`` is no number.
        """
        return self._record(workspace_id, phone, Consent(False, at, source, evidence))

    def _record(self, workspace_id: int, phone: str, said: Consent) -> ConsentChange:
        with self.sessions.begin() as session:
            number = _number(session, workspace_id, phone)
            return record_consent(session, workspace_id, number, said)

    def _import(
        self,
        op: OperationRun,
        workspace_id: int,
        path: str,
        region: str | None = None,
        on_duplicate: OnDuplicate = "fill",
        mapping: dict[str, str | None] | None = None,
        keep_others: bool = False,
    ) -> dict[str, Any]:
        """Import a CSV or XLSX file of contacts into a workspace; see :class:`ImportSettings`."""
        settings = ImportSettings(region, on_duplicate, mapping, keep_others)
        return ImportRun(op, self.sessions, workspace_id, settings, self._batch).run(Path(path))

    def _export(
        self,
        op: OperationRun,
        workspace_id: int,
        path: str,
        tags: list[str] | None = None,
        statuses: list[str] | None = None,
        form: str | None = None,
        custom: list[str] | None = None,
    ) -> dict[str, Any]:
        """Export a workspace's contacts to a CSV or XLSX file; see :class:`ExportRun`."""
        filters = (tags or (), statuses or (), custom or ())
        return ExportRun(op, self.sessions, workspace_id, *filters).run(Path(path), form)

    def _merge(
        self, op: OperationRun, workspace_id: int, keep: int, others: list[int]
    ) -> dict[str, Any]:
        """Merge contacts that are one person; see :func:`join_contacts`."""
        with guarded(self.sessions, op) as session:
            return join_contacts(session, workspace_id, keep, others, op.actor)


def _number(session: Session, workspace_id: int, phone: str) -> str:
    """The number in E.164, by the workspace's country where it has none."""
    workspace = session.get(Workspace, workspace_id)
    if workspace is None:
        raise InvalidArgument(f"there is no workspace {workspace_id}")
    number = to_e164(phone, workspace.default_region)
    if number is None:
        raise InvalidArgument(f"{phone[:50]!r} is no phone number; write it as +4915123456789")
    return number
