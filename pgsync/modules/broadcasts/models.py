"""Campaigns and their recipients as SQLAlchemy knows them; ``sql/modules/0004`` and later."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from typing import Any

from sqlalchemy import FetchedValue, ForeignKey, Identity
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from pgsync.modules.database import Base

__all__ = ["Campaign", "CampaignRecipient"]


class Campaign(Base):
    """A template message to many recipients."""

    __tablename__ = "campaign"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("pgsync_modules.workspace.id"))
    connection_id: Mapped[int] = mapped_column(ForeignKey("pgsync_modules.connection.id"))
    name: Mapped[str]
    template_name: Mapped[str]
    language: Mapped[str]
    state: Mapped[str] = mapped_column(default="draft")
    state_reason: Mapped[str | None]
    scheduled_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    started_by: Mapped[str | None]
    finished_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=FetchedValue())
    processed_before: Mapped[int] = mapped_column(default=0)
    failed_before: Mapped[int] = mapped_column(default=0)
    troubled_rounds: Mapped[int] = mapped_column(default=0)
    audience: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    audience_taken_at: Mapped[datetime | None]
    variables: Mapped[list[str]]
    slots: Mapped[list[str] | None]
    constants: Mapped[dict[str, Any]] = mapped_column(JSONB, default=dict)
    send_delay: Mapped[timedelta | None]
    quiet_from: Mapped[time | None]
    quiet_until: Mapped[time | None]
    quiet_zone: Mapped[str] = mapped_column(default="UTC")


class CampaignRecipient(Base):
    """One phone number of a campaign, and what became of its message."""

    __tablename__ = "campaign_recipient"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("pgsync_modules.campaign.id"))
    phone: Mapped[str]
    parameters: Mapped[list[Any] | dict[str, Any]] = mapped_column(JSONB, default=list)
    state: Mapped[str] = mapped_column(default="pending")
    attempt: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    send_after: Mapped[datetime | None]
    lease_until: Mapped[datetime | None]
    message_id: Mapped[str | None]
    error_code: Mapped[int | None]
    error: Mapped[str | None]
    sent_at: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]
    read_at: Mapped[datetime | None]
    failed_at: Mapped[datetime | None]
    unknown_at: Mapped[datetime | None]
