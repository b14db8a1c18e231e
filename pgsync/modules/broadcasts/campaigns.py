"""The life of a campaign: its states, and who is to get its message.

Each change of state is one UPDATE that names the states it may start from, so that of two callers
one wins and the other is told.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, literal_column, select, text, update
from sqlalchemy.orm import Session, sessionmaker

from pgsync.errors import InvalidArgument, PgsyncError
from pgsync.modules.broadcasts.models import Campaign, CampaignRecipient

__all__ = ["CampaignStateError", "Campaigns"]

_STARTABLE = ("draft", "scheduled", "paused")
_CANCELLABLE = ("draft", "scheduled", "sending", "paused")

# Set-based, whatever their number; who opted out is left out here, and again when it is sent.
_ADD_CONTACTS = text(
    """
    INSERT INTO pgsync_modules.campaign_recipient (campaign_id, phone, parameters)
    SELECT :campaign_id, c.phone, jsonb_build_array(coalesce(nullif(c.name, ''), c.phone))
    FROM pgsync_modules.contact AS c
    WHERE c.workspace_id = (SELECT k.workspace_id FROM pgsync_modules.campaign AS k
                            WHERE k.id = :campaign_id)
      AND c.status = 'active' AND NOT c.do_not_contact
      AND (CAST(:tags AS text[]) IS NULL OR c.tags && CAST(:tags AS text[]))
    ORDER BY c.id
    ON CONFLICT (campaign_id, phone) DO NOTHING
    """
)

_ADD_PHONES = text(
    """
    INSERT INTO pgsync_modules.campaign_recipient (campaign_id, phone, parameters)
    SELECT :campaign_id, p.phone, jsonb_build_array(p.phone)
    FROM unnest(CAST(:phones AS text[])) WITH ORDINALITY AS p (phone, number)
    WHERE NOT EXISTS (
        SELECT FROM pgsync_modules.contact AS c
        JOIN pgsync_modules.campaign AS k ON k.workspace_id = c.workspace_id
        WHERE k.id = :campaign_id AND c.phone = p.phone
          AND (c.status <> 'active' OR c.do_not_contact))
    ORDER BY p.number
    ON CONFLICT (campaign_id, phone) DO NOTHING
    """
)

# What the contacts' table asks of a phone number, since who opts out becomes a contact.
_E164 = re.compile(r"\+[1-9][0-9]{2,14}")


class CampaignStateError(PgsyncError):
    """The campaign's state does not allow this."""


class Campaigns:
    """Makes campaigns, fills them and changes their states."""

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        self._sessions = sessions

    def create(
        self,
        *,
        workspace_id: int,
        connection_id: int,
        name: str,
        template_name: str,
        language: str,
    ) -> int:
        """Make a draft and return its number."""
        with self._sessions.begin() as session:
            campaign = Campaign(
                workspace_id=workspace_id,
                connection_id=connection_id,
                name=name,
                template_name=template_name,
                language=language,
            )
            session.add(campaign)
            session.flush()
            return campaign.id

    def add_contacts(self, campaign_id: int, *, tags: Sequence[str] | None = None) -> int:
        """Add the workspace's active contacts (with one of the tags) and return how many.

        Their name is the template's first parameter. Those who opted out are left out.

        Raises:
            CampaignStateError: if the campaign has begun.
        """
        with self._sessions.begin() as session:
            self._lock_draft(session, campaign_id)
            chosen = None if tags is None else list(tags)
            added: Any = session.execute(
                _ADD_CONTACTS, {"campaign_id": campaign_id, "tags": chosen}
            )
            return int(added.rowcount)

    def add_phones(self, campaign_id: int, phones: Sequence[str]) -> int:
        """Add phone numbers and return how many were new. Those who opted out are left out.

        Raises:
            InvalidArgument: if one is not in E.164.
            CampaignStateError: if the campaign has begun.
        """
        if wrong := [phone for phone in phones if not _E164.fullmatch(phone)]:
            raise InvalidArgument(
                f"{wrong[0][:50]!r} is no phone number in E.164, like +4930123456"
            )
        with self._sessions.begin() as session:
            self._lock_draft(session, campaign_id)
            added: Any = session.execute(
                _ADD_PHONES, {"campaign_id": campaign_id, "phones": list(phones)}
            )
            return int(added.rowcount)

    def state_of(self, campaign_id: int) -> str:
        """The campaign's state."""
        with self._sessions() as session:
            return self._state(session, campaign_id)

    def schedule(
        self, campaign_id: int, at: datetime | None = None, *, within: Session | None = None
    ) -> None:
        """Let it begin at ``at`` (aware), or as soon as a worker takes it.

        ``within`` makes it part of that session's transaction.

        Raises:
            CampaignStateError: unless it is a draft, scheduled or paused, and has recipients.
        """
        if within is None:
            with self._sessions.begin() as session:
                self.schedule(campaign_id, at, within=session)
            return
        if not self._has_recipients(within, campaign_id):
            raise CampaignStateError(f"campaign {campaign_id} has no recipients; add some first")
        self._change(
            within, campaign_id, _STARTABLE, "scheduled", scheduled_at=at, state_reason=None
        )

    def begin(self, campaign_id: int) -> bool:
        """Move it from scheduled, once its time has come, to sending; True where it is sending."""
        with self._sessions.begin() as session:
            recipients = select(func.count()).where(CampaignRecipient.campaign_id == campaign_id)
            idle = ("pending", "sending", "skipped")
            begun: Any = session.execute(
                update(Campaign)
                .where(
                    Campaign.id == campaign_id,
                    Campaign.state == "scheduled",
                    # A job of an earlier plan may come before the time of the present one.
                    func.coalesce(Campaign.scheduled_at <= func.clock_timestamp(), True),
                )
                .values(
                    state="sending",
                    state_reason=None,
                    started_at=func.coalesce(Campaign.started_at, func.clock_timestamp()),
                    processed_before=recipients.where(
                        CampaignRecipient.state.not_in(idle)
                    ).scalar_subquery(),
                    failed_before=recipients.where(
                        CampaignRecipient.state == "failed"
                    ).scalar_subquery(),
                )
            )
            return begun.rowcount == 1 or self._state(session, campaign_id) == "sending"

    def pause(self, campaign_id: int, reason: str) -> None:
        """Stop sending; messages under way are finished.

        Raises:
            CampaignStateError: unless it is sending.
        """
        with self._sessions.begin() as session:
            self._change(session, campaign_id, ("sending",), "paused", state_reason=reason)

    def cancel(self, campaign_id: int) -> None:
        """End it for good; messages under way are finished.

        Raises:
            CampaignStateError: if it has ended.
        """
        with self._sessions.begin() as session:
            self._change(
                session,
                campaign_id,
                _CANCELLABLE,
                "cancelled",
                finished_at=func.clock_timestamp(),
            )

    def complete(self, campaign_id: int) -> bool:
        """Complete it if nothing is left to send or under way; True where that is so."""
        with self._sessions.begin() as session:
            # Each state by itself has a small index; both in one condition would have none.
            pending, sending = (
                select(CampaignRecipient.id).where(
                    CampaignRecipient.campaign_id == campaign_id,
                    CampaignRecipient.state == literal_column(f"'{state}'"),
                )
                for state in ("pending", "sending")
            )
            done: Any = session.execute(
                update(Campaign)
                .where(
                    Campaign.id == campaign_id,
                    Campaign.state == "sending",
                    ~pending.exists(),
                    ~sending.exists(),
                )
                .values(state="completed", finished_at=func.clock_timestamp())
            )
            return bool(done.rowcount)

    def _lock_draft(self, session: Session, campaign_id: int) -> None:
        state = session.scalar(
            select(Campaign.state).where(Campaign.id == campaign_id).with_for_update()
        )
        if state != "draft":
            raise CampaignStateError(
                f"campaign {campaign_id} is {state or 'unknown'}: recipients are added to drafts"
            )

    def _change(
        self, session: Session, campaign_id: int, before: Sequence[str], after: str, **values: Any
    ) -> None:
        changed: Any = session.execute(
            update(Campaign)
            .where(Campaign.id == campaign_id, Campaign.state.in_(before))
            .values(state=after, **values)
        )
        if changed.rowcount == 0:
            state = self._state(session, campaign_id)
            raise CampaignStateError(
                f"campaign {campaign_id} is {state}; only one that is {' or '.join(before)} "
                f"can become {after}"
            )

    def _state(self, session: Session, campaign_id: int) -> str:
        state = session.scalar(select(Campaign.state).where(Campaign.id == campaign_id))
        if state is None:
            raise InvalidArgument(f"there is no campaign {campaign_id}")
        return state

    def _has_recipients(self, session: Session, campaign_id: int) -> bool:
        found = select(CampaignRecipient.id).where(CampaignRecipient.campaign_id == campaign_id)
        return session.scalar(found.limit(1)) is not None
