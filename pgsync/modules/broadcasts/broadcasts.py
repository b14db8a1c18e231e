"""Broadcasts on a coordinator: sending a campaign, and recording what became of its messages."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy.orm import Session, sessionmaker

from pgsync.coordinator import Coordinator
from pgsync.modules.broadcasts.campaigns import Campaigns, CampaignStateError
from pgsync.modules.broadcasts.models import Campaign
from pgsync.modules.broadcasts.recipients import Recipients
from pgsync.modules.broadcasts.sending import Sender, Verdict
from pgsync.modules.broadcasts.statuses import Statuses
from pgsync.modules.whatsapp import WhatsApp
from pgsync.operations import Operation, OperationRun, Release

__all__ = ["Broadcasts"]

logger = logging.getLogger("pgsync.modules.broadcasts")


class Broadcasts:
    """Campaigns, declared on a coordinator.

    ``senders`` is how many calls of the API a campaign has under way at once; ``batch`` how many
    recipients are claimed at a time.
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
        batch: int = 200,
    ) -> None:
        self._sessions = sessions
        self._whatsapp = whatsapp
        self._senders = senders
        self._batch = batch
        self.campaigns = Campaigns(sessions)
        self.statuses = Statuses(sessions)
        self.campaign_sending = sync.operation(
            "campaign_sending",
            lock="campaign_send:{campaign_id}",
            ttl=60,
            auto_renew=True,
            queue="campaigns",
            blocked=Release(after=10, message="Campaign sending is already in progress"),
        )(self._send)
        self.campaign_status_update = sync.operation(
            "campaign_status_update",
            lock="campaign_status_update:{message_id}",
            ttl=30,
            queue="webhooks",
            blocked=Release(after=1, message="This message's status is being updated"),
        )(self._update_status)

    def start(self, campaign_id: int) -> int:
        """Schedule a campaign and enqueue its sending, in one transaction; returns the job.

        Raises:
            CampaignStateError: unless it is a draft, scheduled or paused, and has recipients.
        """
        self.campaigns.schedule(campaign_id)
        return self.campaign_sending.enqueue(campaign_id=campaign_id).id

    def _send(self, op: OperationRun, campaign_id: int) -> dict[str, Any]:
        """Send a campaign's message to all that are pending, in batches."""
        if not self.campaigns.begin(campaign_id):
            return {"state": self.campaigns.state_of(campaign_id)}
        recipients = Recipients(self._sessions, campaign_id)
        # This run has the campaign's lock, so whoever claimed before is dead or has lost it.
        lost = recipients.expire()
        if lost:
            op.note("lost", recipients=lost)
        sender = self._sender(campaign_id)
        with ThreadPoolExecutor(self._senders, thread_name_prefix="pgsync-send") as pool:
            while self.campaigns.state_of(campaign_id) == "sending":
                op.check()
                claims = recipients.claim(self._batch)
                if not claims:
                    break
                verdicts = list(pool.map(lambda claim: sender.send(claim, recipients), claims))
                self.statuses.unpark()
                done, total, _ = recipients.progress()
                op.progress(done, total)
                self._heed(campaign_id, verdicts)
        return self._end(op, campaign_id, recipients)

    def _sender(self, campaign_id: int) -> Sender:
        with self._sessions() as session:
            campaign = session.get_one(Campaign, campaign_id)
        connection = self._whatsapp.connections.find(campaign.connection_id)
        graph = self._whatsapp.connections.graph(connection)
        return Sender(graph, campaign, connection.phone_number_id)

    def _heed(self, campaign_id: int, verdicts: Sequence[Verdict]) -> None:
        stopping = next((verdict for verdict in verdicts if verdict.stop), None)
        if stopping is None or stopping.stop is None:
            return
        logger.error("campaign %s is paused: %s", campaign_id, stopping.stop)
        if stopping.disable_connection:
            with self._sessions() as session:
                connection_id = session.get_one(Campaign, campaign_id).connection_id
            self._whatsapp.connections.disable(connection_id, stopping.stop)
        try:
            self.campaigns.pause(campaign_id, stopping.stop)
        except CampaignStateError:
            logger.info("campaign %s was stopped meanwhile", campaign_id)

    def _end(self, op: OperationRun, campaign_id: int, recipients: Recipients) -> dict[str, Any]:
        if not self.campaigns.complete(campaign_id):
            _, _, seconds = recipients.progress()
            if self.campaigns.state_of(campaign_id) == "sending":
                # Some wait for their time, or for a sender that lives still: look again then.
                delay = max(1.0, seconds or 60.0)
                self.campaign_sending.options(
                    delay=delay, unique_key=f"campaign_send:{campaign_id}:later"
                ).enqueue(campaign_id=campaign_id)
        done, total, _ = recipients.progress()
        op.progress(done, total)
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
