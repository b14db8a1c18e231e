"""Template sync: fetch all pages first, then one transaction with a savepoint for each template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from pgsync.coordinator import Coordinator
from pgsync.errors import InvalidArgument, PgsyncError
from pgsync.limits import Limit
from pgsync.modules.guarding import guarded
from pgsync.modules.models import Connection
from pgsync.modules.whatsapp.answers import Answer
from pgsync.modules.whatsapp.connections import Connections
from pgsync.modules.whatsapp.errors import GraphRefused
from pgsync.modules.whatsapp.listing import BadTemplate, columns_of, remote_id_of
from pgsync.modules.whatsapp.models import Template, TemplateEvent, find_template
from pgsync.modules.whatsapp.notices import Notices
from pgsync.operations import Operation, OperationRun, Release

__all__ = ["SYNC_LIMIT", "TemplateStopped", "WhatsApp"]

SYNC_LIMIT = Limit(10, per=60)
"""Requests of template syncs a minute, for each connection."""

_PAGE_SIZE = 100
_HOUR = 3600


class TemplateStopped(PgsyncError):
    """The API does not send this template: it is not approved, or no longer."""


class WhatsApp:
    """Template sync on a coordinator, and the clients that other modules send with.

    ``graph_url`` and ``graph_version`` default to the environment's ``PGSYNC_GRAPH_URL`` and
    ``PGSYNC_GRAPH_VERSION``.
    """

    template_sync: Operation
    """``template_sync(connection_id)``: returns created, updated, missing, errors, total."""

    template_notice: Operation
    """``template_notice(waba_id, remote_id, kind, value, at)``: what a webhook tells of one."""

    def __init__(
        self,
        sync: Coordinator,
        sessions: sessionmaker[Session],
        *,
        graph_url: str | None = None,
        graph_version: str | None = None,
        sync_limit: Limit = SYNC_LIMIT,
        page_size: int = _PAGE_SIZE,
    ) -> None:
        self._sessions = sessions
        self._page_size = page_size
        self.connections = Connections(
            sync, sessions, graph_url=graph_url, graph_version=graph_version
        )
        self.template_sync = sync.operation(
            "template_sync",
            lock="template_sync:connection:{connection_id}",
            ttl=300,
            limit=sync_limit,
            queue="sync",
            blocked="Template sync is already in progress",
            limited="Rate limit: Maximum {max} sync requests per minute. "
            "Please wait {retry_after} seconds.",
        )(self._sync)
        self.notices = Notices(sessions)
        self.template_notice = sync.operation(
            "template_notice",
            lock="template_notice:{remote_id}",
            ttl=30,
            queue="webhooks",
            blocked=Release(after=1, message="This template's notices are being recorded"),
        )(self._notice)
        sync.schedule(_HOUR, name="template_sync_hourly", queue="sync", jitter=300, misfire="once")(
            self.sync_all
        )

    def sync_all(self) -> int:
        """Enqueue a sync for each connection that works; returns how many. Daemons do it hourly."""
        with self._sessions() as session:
            connections = session.execute(
                select(Connection.id, Connection.workspace_id)
                .where(Connection.disabled_at.is_(None))
                .order_by(Connection.id)
            ).all()
        for connection_id, workspace_id in connections:
            job = self.template_sync.options(
                unique_key=f"template_sync:{connection_id}", tenant=f"workspace:{workspace_id}"
            )
            job.enqueue(connection_id=connection_id)
        return len(connections)

    def sendable_template(self, connection_id: int, name: str, language: str) -> Template:
        """The template, as it was last seen.

        Raises:
            TemplateStopped: if the API does not send it, or it is not known.
        """
        with self._sessions() as session:
            known = find_template(session, connection_id, name, language)
        if known is None:
            raise TemplateStopped(
                f"template {name} ({language}) is not known; sync the connection's templates"
            )
        if not known.sendable:
            raise TemplateStopped(f"template {name} ({language}) is {known.status}")
        return known

    def _notice(
        self, op: OperationRun, waba_id: str, remote_id: str, kind: str, value: str, at: float
    ) -> dict[str, Any]:
        """Record what a webhook tells of a template."""
        op.check()
        return {"outcome": self.notices.record(waba_id, remote_id, kind, value, at)}

    def _sync(self, op: OperationRun, connection_id: int) -> dict[str, Any]:
        """Bring a connection's templates up to the Graph API's listing."""
        connection = self.connections.find(connection_id)
        with self._sessions() as session:
            began = session.execute(select(func.clock_timestamp())).scalar_one()
        try:
            listed = self._fetch(op, connection)
        except GraphRefused as error:
            if error.answer is Answer.DISABLE_CONNECTION:
                self.connections.disable(connection_id, str(error))
            raise
        with guarded(self._sessions, op) as session:
            return _Merge(session, connection_id, began).run(listed, op.progress)

    def _fetch(self, op: OperationRun, connection: Any) -> list[Mapping[str, Any]]:
        graph = self.connections.graph(connection)
        listed: list[Mapping[str, Any]] = []
        for page in graph.template_pages(connection.waba_id, page_size=self._page_size):
            listed.extend(page.templates)
            op.progress(len(listed))
            if not page.last:
                # The run began with a permit for the first page; each further one takes its own,
                # and waits for the window while the lock lasts.
                op.permit()
        return listed


class _Merge:
    """One connection's templates against a complete listing, inside one transaction.

    ``began`` is when the listing was first asked for: what a webhook has told of later stays.
    """

    def __init__(self, session: Session, connection_id: int, began: datetime) -> None:
        self._session = session
        self._connection_id = connection_id
        self._now: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
        # Locked in one order, so that two merges of overlapping sets cannot deadlock.
        known = session.scalars(
            select(Template)
            .where(Template.connection_id == connection_id)
            .order_by(Template.id)
            .with_for_update()
        )
        self._known = {template.remote_id: template for template in known}
        told = session.execute(_told_since(connection_id, began))
        self._told = {(template_id, event) for template_id, event in told}
        self._errors: list[dict[str, str]] = []

    def run(
        self, listed: Sequence[Mapping[str, Any]], progress: Callable[[int, int], None]
    ) -> dict[str, Any]:
        seen = {remote_id_of(each) for each in listed}
        # Those gone free their names before others take them. A listing with an entry that has no
        # id proves nobody gone: it may be any of them.
        missing = 0 if "" in seen else self._mark_missing(seen)
        created = updated = 0
        for number, each in enumerate(listed, 1):
            progress(number, len(listed))
            is_new = remote_id_of(each) not in self._known
            if self._take(each):
                created += is_new
                updated += not is_new
        return {
            "created": created,
            "updated": updated,
            "missing": missing,
            "errors": self._errors,
            "total": len(listed),
        }

    def _take(self, listed: Mapping[str, Any]) -> bool:
        remote_id = remote_id_of(listed)
        known = self._known.get(remote_id)
        try:
            if not remote_id:
                raise BadTemplate("it has no id")
            columns = columns_of(listed)
            with self._session.begin_nested():
                self._known[remote_id] = self._upsert(known, remote_id, columns)
        except (BadTemplate, DBAPIError, InvalidArgument) as error:
            reason = str(error.orig) if isinstance(error, DBAPIError) else str(error)
            name = str(listed.get("name") or remote_id or "?")[:200]
            self._errors.append({"template": name, "error": reason.splitlines()[0][:500]})
            if known is not None:
                self._session.refresh(known)
                known.last_error = reason[:500]
                self._session.flush()
            return False
        return True

    def _upsert(
        self, known: Template | None, remote_id: str, columns: Mapping[str, Any]
    ) -> Template:
        if known is None:
            known = Template(
                connection_id=self._connection_id,
                remote_id=remote_id,
                last_synced_at=self._now,
                **columns,
            )
            self._session.add(known)
        else:
            columns = {
                name: value
                for name, value in columns.items()
                if (known.id, _EVENT_OF.get(name)) not in self._told
            }
            self._note_changes(known, columns)
            for name, value in columns.items():
                setattr(known, name, value)
            known.remotely_deleted_at = None
            known.last_error = None
            known.last_synced_at = self._now
        self._session.flush()
        return known

    def _note_changes(self, known: Template, columns: Mapping[str, Any]) -> None:
        if known.remotely_deleted_at is not None:
            self._note(known, "restored", None, columns.get("status", known.status))
        for name, event in _EVENT_OF.items():
            if name in columns:
                before, after = (_word(value) for value in (getattr(known, name), columns[name]))
                if before != after:
                    self._note(known, event, before, after)

    def _mark_missing(self, seen: set[str]) -> int:
        gone = [
            template
            for template in self._known.values()
            if template.remote_id not in seen and template.remotely_deleted_at is None
        ]
        for template in gone:
            template.remotely_deleted_at = self._now
            self._note(template, "deleted", template.status, None)
        self._session.flush()
        return len(gone)

    def _note(self, template: Template, event: str, before: str | None, after: str | None) -> None:
        self._session.add(
            TemplateEvent(template_id=template.id, event=event, before=before, after=after)
        )


_EVENT_OF = {"status": "status", "category": "category", "quality_score": "quality"}


def _told_since(connection_id: int, began: datetime) -> Select[int, str]:
    """Of which templates, and what of them, webhooks have told that came about since."""
    return (
        select(TemplateEvent.template_id, TemplateEvent.event)
        .join(Template, Template.id == TemplateEvent.template_id)
        # The API tells of whole seconds.
        .where(Template.connection_id == connection_id)
        .where(TemplateEvent.said_at >= func.date_trunc("second", began))
        # Nothing comes about tomorrow: such a moment must not keep syncs out for good.
        .where(TemplateEvent.said_at < began + timedelta(hours=1))
    )


def _word(value: Mapping[str, Any] | str | None) -> str | None:
    """A status or a category as it is, of a quality its score."""
    if isinstance(value, Mapping):
        return str(value["score"]) if "score" in value else None
    return value
