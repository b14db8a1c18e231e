"""Contacts, their history and their imports, as SQLAlchemy knows them; ``sql/modules/``."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import FetchedValue, ForeignKey, Identity, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.mutable import MutableDict, MutableList
from sqlalchemy.orm import Mapped, mapped_column

from pgsync.modules.database import Base

__all__ = ["Contact", "ContactEvent", "ContactImport", "ContactImportReject"]


class Contact(Base):
    """A person whom a workspace may write to; one for a phone number (E.164) in a workspace.

    One that is ``merged_into`` another keeps nothing but its number. ``tags`` and ``custom`` may be
    changed in place.
    """

    __tablename__ = "contact"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("pgsync_modules.workspace.id"))
    phone: Mapped[str]
    name: Mapped[str | None]
    email: Mapped[str | None]
    company: Mapped[str | None]
    notes: Mapped[str | None]
    tags: Mapped[list[str]] = mapped_column(MutableList.as_mutable(ARRAY(Text)), default=list)
    custom: Mapped[dict[str, Any]] = mapped_column(MutableDict.as_mutable(JSONB()), default=dict)
    status: Mapped[str] = mapped_column(default="active")
    do_not_contact: Mapped[bool] = mapped_column(default=False)
    opted_out_at: Mapped[datetime | None]
    opted_in_at: Mapped[datetime | None]
    consent_source: Mapped[str | None]
    consent_evidence: Mapped[str | None]
    merged_into: Mapped[int | None] = mapped_column(ForeignKey("pgsync_modules.contact.id"))
    import_id: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=FetchedValue())
    updated_at: Mapped[datetime] = mapped_column(server_default=FetchedValue())

    def __repr__(self) -> str:
        return f"<Contact {self.id} of workspace {self.workspace_id}>"


class ContactEvent(Base):
    """An opt-in, an opt-out or a merge, kept for good; written by the database itself."""

    __tablename__ = "contact_event"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    workspace_id: Mapped[int]
    contact_id: Mapped[int]
    phone: Mapped[str]
    event: Mapped[str]
    at: Mapped[datetime]
    source: Mapped[str | None]
    evidence: Mapped[str | None]
    actor: Mapped[str | None]
    detail: Mapped[dict[str, Any] | None]
    recorded_at: Mapped[datetime] = mapped_column(server_default=FetchedValue())

    def __repr__(self) -> str:
        return f"<ContactEvent {self.id} {self.event} of contact {self.contact_id}>"


class ContactImport(Base):
    """An import of a file: how far it came, and what became of its rows."""

    __tablename__ = "contact_import"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("pgsync_modules.workspace.id"))
    file_name: Mapped[str]
    on_duplicate: Mapped[str]
    digest: Mapped[str | None]
    settings: Mapped[dict[str, Any]] = mapped_column(default=dict)
    headers: Mapped[list[str]] = mapped_column(default=list)
    state: Mapped[str] = mapped_column(default="running")
    total: Mapped[int | None]
    rows: Mapped[int] = mapped_column(default=0)
    imported: Mapped[int] = mapped_column(default=0)
    updated: Mapped[int] = mapped_column(default=0)
    duplicates: Mapped[int] = mapped_column(default=0)
    rejected: Mapped[int] = mapped_column(default=0)
    opt_outs_kept: Mapped[int] = mapped_column(default=0)
    through: Mapped[int] = mapped_column(default=0)
    resumed: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None]
    started_at: Mapped[datetime] = mapped_column(server_default=FetchedValue())
    finished_at: Mapped[datetime | None]

    def __repr__(self) -> str:
        return f"<ContactImport {self.id} {self.state} of workspace {self.workspace_id}>"


class ContactImportReject(Base):
    """A row that an import refused, with the reason; ``row`` counts the header as 1."""

    __tablename__ = "contact_import_rejects"

    import_id: Mapped[int] = mapped_column(
        ForeignKey("pgsync_modules.contact_import.id"), primary_key=True
    )
    row: Mapped[int] = mapped_column(primary_key=True)
    reason: Mapped[str]
    raw: Mapped[dict[str, Any]]
