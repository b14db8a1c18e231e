"""Tenants and their connections: what all modules stand on."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import FetchedValue, ForeignKey, Identity
from sqlalchemy.orm import Mapped, mapped_column

from pgsync.modules.database import Base

__all__ = ["Connection", "Workspace"]


class Workspace(Base):
    """A tenant."""

    __tablename__ = "workspace"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str]
    default_region: Mapped[str] = mapped_column(default="US")
    created_at: Mapped[datetime] = mapped_column(server_default=FetchedValue())


class Connection(Base):
    """A WhatsApp business account and phone number of a workspace."""

    __tablename__ = "connection"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("pgsync_modules.workspace.id"))
    name: Mapped[str]
    waba_id: Mapped[str]
    phone_number_id: Mapped[str]
    token: Mapped[str]
    calls_per_minute: Mapped[int] = mapped_column(default=100)
    portfolio: Mapped[str | None]
    daily_limit: Mapped[int | None]
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=FetchedValue())

    def __repr__(self) -> str:
        return f"<Connection {self.id} {self.name!r}>"
