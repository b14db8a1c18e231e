"""The contacts' operations: an import and an export at a time for a workspace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session, sessionmaker

from pgsync.coordinator import Coordinator
from pgsync.modules.contacts.exporting import ExportRun
from pgsync.modules.contacts.importing import ImportRun, ImportSettings
from pgsync.modules.contacts.merging import OnDuplicate
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
    """``(workspace_id, path, tags=None, statuses=None, form=None)``"""

    def __init__(
        self, sync: Coordinator, sessions: sessionmaker[Session], *, batch: int = 10_000
    ) -> None:
        self._sessions = sessions
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
            queue="default",
            blocked="Contact export is already in progress",
        )(self._export)

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
        return ImportRun(op, self._sessions, workspace_id, settings, self._batch).run(Path(path))

    def _export(
        self,
        op: OperationRun,
        workspace_id: int,
        path: str,
        tags: list[str] | None = None,
        statuses: list[str] | None = None,
        form: str | None = None,
    ) -> dict[str, Any]:
        """Export a workspace's contacts to a CSV or XLSX file; see :class:`ExportRun`."""
        run = ExportRun(op, self._sessions, workspace_id, tags or (), statuses or ())
        return run.run(Path(path), form)
