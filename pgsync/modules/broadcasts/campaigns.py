"""The life of a campaign: its states, and who is to get its message.

Each change of state is one UPDATE that names the states it may start from, so that of two callers
one wins and the other is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import TextClause, func, literal_column, select, text, update
from sqlalchemy.orm import Session, sessionmaker

from pgsync.database.json import to_json
from pgsync.errors import InvalidArgument, PgsyncError
from pgsync.modules.broadcasts.again import RETRY_FAILED, RETRY_UNKNOWN, copy_campaign
from pgsync.modules.broadcasts.audience import (
    Audience,
    add_contacts,
    add_phones,
    check_phone,
    check_variables,
)
from pgsync.modules.broadcasts.models import Campaign, CampaignRecipient
from pgsync.modules.broadcasts.quiet_hours import QuietHours
from pgsync.modules.models import Connection
from pgsync.modules.whatsapp.filling import Parameters
from pgsync.modules.whatsapp.slots import check_slots

__all__ = ["CampaignStateError", "Campaigns"]

_STARTABLE = ("draft", "scheduled", "paused", "failed")
_FAILING = ("scheduled", "sending")
_CANCELLABLE = ("draft", "scheduled", "sending", "paused", "failed")
_RETRIABLE = ("paused", "completed", "failed")

_AUDIT = text("SELECT pgsync.record_audit(:action, :campaign, :by)")


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
        audience: Audience | None = None,
        variables: Sequence[str] | Mapping[str, str] = ("name",),
        constants: Mapping[str, Any] | None = None,
        send_delay: float | None = None,
        quiet_hours: QuietHours | None = None,
    ) -> int:
        """Make a draft and return its number.

        ``audience`` is looked for when it is started. ``variables`` are the contacts' fields that
        fill those of the template's body, in order, or the slots that they are given by
        (``{"body.first_name": "name", "button.0": "custom.code"}``): name, phone, email, company or
        custom.FIELD; a missing name is filled with the phone number. ``constants`` fill, by slot,
        what a contact leaves empty, and what is the same for all: ``{"header": "https://..."}``
        is the medium of a header, by its link or by its id at the API. ``send_delay`` is in seconds
        between two messages.

        Raises:
            InvalidArgument: if the workspace has no such connection, a contact no such field, a
                template no such slot, or if the delay is not positive.
        """
        slots = list(variables) if isinstance(variables, Mapping) else None
        fields = list(variables.values()) if isinstance(variables, Mapping) else list(variables)
        for names in (slots or (), constants or {}):
            check_slots(names)
        if send_delay is not None and not 0 < send_delay <= 86400:
            raise InvalidArgument(f"send_delay must be from 0 to 86400 seconds, not {send_delay:g}")
        with self._sessions.begin() as session:
            connection = session.get(Connection, connection_id)
            if connection is None or connection.workspace_id != workspace_id:
                raise InvalidArgument(
                    f"workspace {workspace_id} has no connection {connection_id}; "
                    "a campaign is sent over one of its own"
                )
            campaign = Campaign(
                workspace_id=workspace_id,
                connection_id=connection_id,
                name=name,
                template_name=template_name,
                language=language,
                audience=None if audience is None else audience.as_json(),
                variables=check_variables(fields),
                slots=slots,
                constants=dict(constants or {}),
                send_delay=None if send_delay is None else timedelta(seconds=send_delay),
            )
            if quiet_hours is not None:
                campaign.quiet_from, campaign.quiet_until = quiet_hours.start, quiet_hours.end
                campaign.quiet_zone = quiet_hours.zone
            session.add(campaign)
            session.flush()
            return campaign.id

    def add_contacts(self, campaign_id: int, *, tags: Sequence[str] | None = None) -> int:
        """Add the workspace's active contacts (with one of the tags) now, and return how many.

        Those who opted out are left out.

        Raises:
            CampaignStateError: if the campaign has begun.
        """
        with self._sessions.begin() as session:
            self._lock_draft(session, campaign_id)
            return add_contacts(session, campaign_id, Audience(tags))

    def add_phones(
        self, campaign_id: int, phones: Sequence[str], parameters: Parameters | None = None
    ) -> int:
        """Add phone numbers and return how many were new. Those who opted out are left out.

        ``parameters`` fill the template: the variables of its body in order (by default the phone
        number itself), or all slots by name.

        Raises:
            InvalidArgument: if one is not in E.164, or a template has no such slot.
            CampaignStateError: if the campaign has begun.
        """
        for phone in phones:
            check_phone(phone)
        if isinstance(parameters, Mapping):
            check_slots(parameters)
            parameters = dict(parameters)
        elif parameters is not None:
            parameters = list(parameters)
        written = None if parameters is None else to_json(parameters, "parameters")
        with self._sessions.begin() as session:
            self._lock_draft(session, campaign_id)
            return add_phones(session, campaign_id, phones, written)

    def take_audience(self, campaign_id: int, within: Session) -> int:
        """Look for the campaign's audience, once, and return how many were added.

        Contacts that are made or changed later do not come in by themselves any more; who opts out
        is left out up to the moment of sending.
        """
        campaign = within.get(Campaign, campaign_id, with_for_update=True)
        if campaign is None:
            raise InvalidArgument(f"there is no campaign {campaign_id}")
        if campaign.audience is None or campaign.audience_taken_at is not None:
            return 0
        within.execute(
            update(Campaign)
            .where(Campaign.id == campaign_id)
            .values(audience_taken_at=func.clock_timestamp())
        )
        return add_contacts(within, campaign_id, Audience(**campaign.audience))

    def retry_failed(self, campaign_id: int, by: str | None = None) -> int:
        """Make those that failed pending again and return how many; start the campaign then.

        Who opted out stays failed. The campaign is paused where something is to be sent. ``by`` is
        for the audit trail.

        Raises:
            CampaignStateError: unless it is paused, completed or failed, and some have failed.
        """
        return self._retry(campaign_id, "failed", RETRY_FAILED, {}, by)

    def retry_unknown(
        self, campaign_id: int, age: timedelta = timedelta(days=7), by: str | None = None
    ) -> int:
        """Make those pending again whose outcome is unknown for so long, and return how many.

        It is for a person to choose: some of them may have the message, and get it a second time.
        The API tells of what it accepted for seven days at the longest. Start the campaign then:
        whom a status settles meanwhile is not sent to. ``by`` is for the audit trail.

        Raises:
            CampaignStateError: unless it is paused, completed or failed, and has such recipients.
        """
        return self._retry(campaign_id, "unknown", RETRY_UNKNOWN, {"age": age}, by)

    def _retry(
        self,
        campaign_id: int,
        state: str,
        statement: TextClause,
        given: dict[str, Any],
        by: str | None,
    ) -> int:
        with self._sessions.begin() as session:
            self._change(
                session,
                campaign_id,
                _RETRIABLE,
                "paused",
                state_reason=f"{state} messages are to be tried again",
                finished_at=None,
            )
            again: Any = session.execute(statement, {"campaign_id": campaign_id, **given})
            if again.rowcount == 0:
                raise CampaignStateError(f"campaign {campaign_id} has no {state} message to retry")
            self._audit(session, f"campaign.retry_{state}", campaign_id, by)
            return int(again.rowcount)

    def duplicate(self, campaign_id: int, name: str | None = None) -> int:
        """Make a draft with the same settings and return its number.

        An audience is looked for anew; recipients that were added by hand are added again, without
        who has opted out.
        """
        with self._sessions.begin() as session:
            return copy_campaign(session, campaign_id, name)

    def check_state(self, campaign_id: int, state: str) -> None:
        """Raise :class:`CampaignStateError` unless it is in this state."""
        if (found := self.state_of(campaign_id)) != state:
            raise CampaignStateError(f"campaign {campaign_id} is {found}, not {state}")

    def state_of(self, campaign_id: int) -> str:
        """The campaign's state."""
        with self._sessions() as session:
            return self._state(session, campaign_id)

    def schedule(
        self,
        campaign_id: int,
        at: datetime | None = None,
        *,
        by: str | None = None,
        within: Session | None = None,
    ) -> None:
        """Let it begin at ``at`` (aware), or as soon as a worker takes it.

        ``by`` is who wants it so, for the audit trail and the history of its runs; ``within`` makes
        it part of that session's transaction.

        Raises:
            CampaignStateError: unless it is a draft, scheduled, paused or failed, with recipients.
            InvalidArgument: if ``at`` has no offset.
        """
        if at is not None and at.tzinfo is None:
            raise InvalidArgument(f"a campaign begins at a time with an offset, not {at}")
        if within is None:
            with self._sessions.begin() as session:
                self.schedule(campaign_id, at, by=by, within=session)
            return
        if not self._has_recipients(within, campaign_id):
            raise CampaignStateError(f"campaign {campaign_id} has no recipients; add some first")
        self._change(
            within,
            campaign_id,
            _STARTABLE,
            "scheduled",
            by,
            scheduled_at=at,
            started_by=by,
            state_reason=None,
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
                    troubled_rounds=0,
                    processed_before=recipients.where(
                        CampaignRecipient.state.not_in(idle)
                    ).scalar_subquery(),
                    failed_before=recipients.where(
                        CampaignRecipient.state == "failed"
                    ).scalar_subquery(),
                )
            )
            return begun.rowcount == 1 or self._state(session, campaign_id) == "sending"

    def pause(self, campaign_id: int, reason: str, by: str | None = None) -> None:
        """Stop sending; messages under way are finished. ``by`` is for the audit trail.

        Raises:
            CampaignStateError: unless it is sending.
        """
        with self._sessions.begin() as session:
            self._change(session, campaign_id, ("sending",), "paused", by, state_reason=reason)

    def cancel(self, campaign_id: int, by: str | None = None) -> None:
        """End it for good; messages under way are finished. ``by`` is for the audit trail.

        Raises:
            CampaignStateError: if it has ended.
        """
        with self._sessions.begin() as session:
            self._change(
                session,
                campaign_id,
                _CANCELLABLE,
                "cancelled",
                by,
                finished_at=func.clock_timestamp(),
            )

    def fail(self, campaign_id: int, reason: str) -> None:
        """Give it up; it may be started again. One that has ended or is paused stays so."""
        with self._sessions.begin() as session:
            session.execute(
                update(Campaign)
                .where(Campaign.id == campaign_id, Campaign.state.in_(_FAILING))
                .values(state="failed", state_reason=reason[:1000])
            )

    def waits(self, campaign_id: int, reason: str | None) -> None:
        """Say what a campaign that is sending waits for; None: for nothing."""
        with self._sessions.begin() as session:
            session.execute(
                update(Campaign)
                .where(Campaign.id == campaign_id, Campaign.state == "sending")
                .values(state_reason=reason)
            )

    def met_trouble(self, campaign_id: int, rounds: int) -> None:
        """Keep how many of its runs in a row met an API in trouble."""
        with self._sessions.begin() as session:
            session.execute(
                update(Campaign)
                .where(Campaign.id == campaign_id, Campaign.troubled_rounds != rounds)
                .values(troubled_rounds=rounds)
            )

    def complete(self, campaign_id: int) -> bool:
        """Complete it if nothing is left to send or under way; True where that is so."""
        with self._sessions.begin() as session:
            # A webhook that makes one pending again holds this row until that is committed.
            session.get(Campaign, campaign_id, with_for_update={"key_share": True})
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
                .values(state="completed", state_reason=None, finished_at=func.clock_timestamp())
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
        self,
        session: Session,
        campaign_id: int,
        before: Sequence[str],
        after: str,
        by: str | None = None,
        **values: Any,
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
        self._audit(session, f"campaign.{after}", campaign_id, by)

    def _audit(self, session: Session, action: str, campaign_id: int, by: str | None) -> None:
        if by is not None:
            session.execute(_AUDIT, {"action": action, "campaign": str(campaign_id), "by": by})

    def _state(self, session: Session, campaign_id: int) -> str:
        state = session.scalar(select(Campaign.state).where(Campaign.id == campaign_id))
        if state is None:
            raise InvalidArgument(f"there is no campaign {campaign_id}")
        return state

    def _has_recipients(self, session: Session, campaign_id: int) -> bool:
        found = select(CampaignRecipient.id).where(CampaignRecipient.campaign_id == campaign_id)
        return session.scalar(found.limit(1)) is not None
