"""Templates as SQLAlchemy knows them; ``sql/modules/0002_whatsapp.sql``."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import FetchedValue, ForeignKey, Identity, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, Session, mapped_column

from pgsync.modules.database import Base

__all__ = ["Template", "TemplateEvent", "find_template"]


class Template(Base):
    """A message template as the Graph API last listed it."""

    __tablename__ = "template"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    connection_id: Mapped[int] = mapped_column(ForeignKey("pgsync_modules.connection.id"))
    remote_id: Mapped[str]
    name: Mapped[str]
    language: Mapped[str]
    category: Mapped[str | None]
    status: Mapped[str]
    components: Mapped[list[Any]] = mapped_column(JSONB, default=list)
    parameter_format: Mapped[str | None]
    quality_score: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    rejected_reason: Mapped[str | None]
    remotely_deleted_at: Mapped[datetime | None]
    sendable: Mapped[bool] = mapped_column(server_default=FetchedValue())
    last_synced_at: Mapped[datetime]
    last_error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=FetchedValue())

    def __repr__(self) -> str:
        return f"<Template {self.name} ({self.language}) {self.status}>"


class TemplateEvent(Base):
    """A change: of ``status``, ``quality`` or ``category``, or ``deleted`` or ``restored``.

    ``said_at`` is when it came about by the webhook that told of it.
    """

    __tablename__ = "template_event"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    template_id: Mapped[int] = mapped_column(ForeignKey("pgsync_modules.template.id"))
    event: Mapped[str]
    before: Mapped[str | None]
    after: Mapped[str | None]
    at: Mapped[datetime] = mapped_column(server_default=FetchedValue())
    said_at: Mapped[datetime | None]


def find_template(
    session: Session, connection_id: int, name: str, language: str
) -> Template | None:
    """The template of this name and language that is there, as it was last seen."""
    return session.scalar(
        select(Template).where(
            Template.connection_id == connection_id,
            Template.name == name,
            Template.language == language,
            Template.remotely_deleted_at.is_(None),
        )
    )
