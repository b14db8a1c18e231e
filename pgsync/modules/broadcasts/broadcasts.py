"""Broadcasts on a coordinator: sending a campaign, and recording what became of its messages."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session, sessionmaker

from pgsync.coordinator import Coordinator
from pgsync.modules.broadcasts.campaigns import Campaigns, CampaignStateError
from pgsync.modules.broadcasts.dispatch import Dispatcher
from pgsync.modules.broadcasts.models import Campaign
from pgsync.modules.broadcasts.reaping import Reaper
from pgsync.modules.broadcasts.recipients import Recipients
from pgsync.modules.broadcasts.sending import Sender, Verdict
from pgsync.modules.broadcasts.statuses import Statuses
from pgsync.modules.whatsapp import ConnectionDisabled, TemplateStopped, WhatsApp
from pgsync.operations import Operation, OperationRun, Release

__all__ = ["Broadcasts"]

logger = logging.getLogger("pgsync.modules.broadcasts")


class Broadcasts:
    """Campaigns, declared on a coordinator.

    ``senders`` is how many calls of the API a campaign has under way at once. Twice as many
    recipients are claimed at most, and that many a crash can leave ``unknown``.
    """

    campaign_sending: Operation
    """``campaign_sending(campaign_id)``: sends what is pending; returns what it did."""

    campaign_status_update: Operation
    """``campaign_status_update(message_id, status, at, callback_data, error_code)``"""

    def __init__(
        self,
        sync: Coordinator,
        sessions: sessionmaker[Session],
        whatsapp: WhatsApp,
        *,
        senders: int = 8,
    ) -> None:
        self._sessions = sessions
        self.whatsapp = whatsapp
        self._senders = senders
        self.campaigns = Campaigns(sessions)
        self.statuses = Statuses(sessions)
        self.campaign_sending = sync.operation(
            "campaign_sending",
            lock="campaign_send:{campaign_id}",
            ttl=60,
            auto_renew=True,
            queue="campaigns",
            # A day of trouble with the database or the network must not leave it without a job.
            max_attempts=25,
            blocked=Release(after=10, message="Campaign sending is already in progress"),
        )(self._send)
        self.campaign_status_update = sync.operation(
            "campaign_status_update",
            lock="campaign_status_update:{message_id}",
            ttl=30,
            queue="webhooks",
            blocked=Release(after=1, message="This message's status is being updated"),
        )(self._update_status)
        self._reaper = Reaper(sessions, "campaigns", self.campaign_sending.name)
        sync.schedule(60, name="campaign_reaping", queue="campaigns")(self.reap)

    def start(self, campaign_id: int, at: datetime | None = None) -> int:
        """Schedule a campaign and enqueue its sending, in one transaction; returns the job.

        It begins at ``at`` (aware), or as soon as a worker takes it.

        Raises:
            CampaignStateError: unless it is a draft, scheduled or paused, and has recipients.
        """
        job = self.campaign_sending.options(run_at=at)
        with self._sessions.begin() as session:
            self.campaigns.schedule(campaign_id, at, within=session)
            return job.enqueue(within=session, campaign_id=campaign_id).id

    def reap(self) -> list[int]:
        """Enqueue again the campaigns that are to send and have no job; returns which.

        Daemons do this each minute.
        """
        stranded = self._reaper.stranded()
        for campaign_id in stranded:
            logger.warning("campaign %s had no job and gets a new one", campaign_id)
            job = self.campaign_sending.options(unique_key=f"reaped campaign:{campaign_id}")
            job.enqueue(campaign_id=campaign_id)
        return stranded

    def _send(self, op: OperationRun, campaign_id: int) -> dict[str, Any]:
        """Send a campaign's message to all that are pending, a few at a time."""
        if not self.campaigns.begin(campaign_id):
            return {"state": self.campaigns.state_of(campaign_id)}
        recipients = Recipients(self._sessions, campaign_id)
        # This run has the campaign's lock, so whoever claimed before is dead or has lost it.
        lost = recipients.expire()
        if lost:
            op.note("lost", recipients=lost)
        try:
            sender = self._sender(campaign_id)
        except (ConnectionDisabled, TemplateStopped) as error:
            self._pause(campaign_id, str(error))
        else:
            dispatcher = Dispatcher(op, recipients, sender, self.statuses, senders=self._senders)
            stop = dispatcher.run()
            if stop is not None:
                self._heed(campaign_id, stop)
        return self._end(op, campaign_id, recipients)

    def _sender(self, campaign_id: int) -> Sender:
        with self._sessions() as session:
            campaign = session.get_one(Campaign, campaign_id)
        connection = self.whatsapp.connections.find(campaign.connection_id)
        # The API may have stopped it while the campaign waited for its time.
        self.whatsapp.check_template(connection.id, campaign.template_name, campaign.language)
        graph = self.whatsapp.connections.graph(connection)
        return Sender(graph, campaign, connection.phone_number_id)

    def _heed(self, campaign_id: int, verdict: Verdict) -> None:
        reason = str(verdict.stop)
        if verdict.disable_connection:
            with self._sessions() as session:
                connection_id = session.get_one(Campaign, campaign_id).connection_id
            self.whatsapp.connections.disable(connection_id, reason)
        self._pause(campaign_id, reason)

    def _pause(self, campaign_id: int, reason: str) -> None:
        logger.error("campaign %s is paused: %s", campaign_id, reason)
        try:
            self.campaigns.pause(campaign_id, reason)
        except CampaignStateError:
            logger.info("campaign %s was stopped meanwhile", campaign_id)

    def _end(self, op: OperationRun, campaign_id: int, recipients: Recipients) -> dict[str, Any]:
        done, total, seconds = recipients.progress()
        op.progress(done, total)
        completed = self.campaigns.complete(campaign_id)
        if not completed and self.campaigns.state_of(campaign_id) == "sending":
            # Some wait for their time, or for the end of a lost sender's lease: look again then.
            # No unique key: the job that runs this may hold it, and then none would come after it.
            later = self.campaign_sending.options(delay=max(1.0, seconds or 0.0))
            later.enqueue(campaign_id=campaign_id)
        return {"state": self.campaigns.state_of(campaign_id), "done": done, "total": total}

    def _update_status(
        self,
        op: OperationRun,
        message_id: str,
        status: str,
        at: float,
        callback_data: str | None = None,
        error_code: int | None = None,
    ) -> dict[str, Any]:
        """Record what the API says became of a message."""
        op.check()
        outcome = self.statuses.record(message_id, status, at, callback_data, error_code)
        return {"outcome": outcome}
