"""Broadcasts on a coordinator: sending a campaign, and recording what became of its messages."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from pgsync.coordinator import Coordinator
from pgsync.errors import ConnectionFailed, InvalidArgument, LockLost, OutcomeUnknown
from pgsync.modules.broadcasts.audience import check_phone
from pgsync.modules.broadcasts.campaigns import Campaigns, CampaignStateError
from pgsync.modules.broadcasts.dispatch import Dispatcher
from pgsync.modules.broadcasts.models import Campaign
from pgsync.modules.broadcasts.pacing import Caps, Pace
from pgsync.modules.broadcasts.quota import Quota, forget_users
from pgsync.modules.broadcasts.reaping import Reaper
from pgsync.modules.broadcasts.recipients import Recipients
from pgsync.modules.broadcasts.rehearsal import Preflight, PreflightFailed, preflight, previews
from pgsync.modules.broadcasts.sending import Sender, Verdict
from pgsync.modules.broadcasts.statuses import Statuses
from pgsync.modules.broadcasts.trouble import Trouble
from pgsync.modules.models import Connection
from pgsync.modules.whatsapp import ConnectionDisabled, TemplateStopped, WhatsApp
from pgsync.modules.whatsapp.filling import Filling, Parameters
from pgsync.operations import Operation, OperationFailure, OperationRun, Release
from pgsync.queues import ReleaseJob, current_job

__all__ = ["Broadcasts"]

logger = logging.getLogger("pgsync.modules.broadcasts")

_AWAY_SECONDS = 5.0
_PATIENCE = 0.5
"""Seconds that a claimed recipient waits for the connection's budget; then it is pending again."""


class Broadcasts:
    """Campaigns, declared on a coordinator.

    ``senders`` is how many calls of the API a campaign has under way at once. Twice as many
    recipients are claimed at most, and that many a crash can leave ``unknown``. ``caps`` are how
    fast campaigns send. A campaign's run ends after ``slice_seconds`` and goes on in a next job, so
    that the campaigns of other workspaces have their turn. Of one workspace ``campaigns_at_once``
    are sent side by side, over all workers; the others wait.
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
        caps: Caps | None = None,
        slice_seconds: float = 60.0,
        campaigns_at_once: int = 4,
    ) -> None:
        self._sync = sync
        self._caps = caps if caps is not None else Caps()
        self._slice_seconds = slice_seconds
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
            # Neither a day of trouble nor workers that are killed again and again, each of which
            # spends an attempt, must leave it without a job.
            max_attempts=1000,
            backoff=[2, 5, 10],
            # The arguments do not tell the workspace: _job does.
            key="campaign:{campaign_id}",
            max_running_per_key=campaigns_at_once,
            blocked=Release(after=10, message="Campaign sending is already in progress"),
            on_failure=self._given_up,
        )(self._send)
        self.campaign_status_update = sync.operation(
            "campaign_status_update",
            lock="campaign_status_update:{message_id}",
            ttl=30,
            queue="webhooks",
            blocked=Release(after=1, message="This message's status is being updated"),
        )(self._update_status)
        self._reaper = Reaper(sessions, "campaigns", self.campaign_sending.name)
        sync.schedule(60, name="campaign_reaping", queue="sync")(self.reap)
        sync.schedule(3600, name="messaged_users_forgetting", queue="sync")(self._forget_users)

    def start(self, campaign_id: int, at: datetime | None = None, by: str | None = None) -> int:
        """Schedule a campaign and enqueue its sending, in one transaction; returns the job.

        It begins at ``at`` (aware), or as soon as a worker takes it. Its audience is taken now.
        ``by`` is who starts it, for the audit trail and the history of all its runs.

        Raises:
            CampaignStateError: unless it is a draft, scheduled or paused.
            PreflightFailed: if its connection, template or recipients are not fit.
        """
        with self._sessions.begin() as session:
            self.campaigns.take_audience(campaign_id, session)
            self.campaigns.schedule(campaign_id, at, by=by, within=session)
            report = preflight(session, campaign_id)
            if not report.ok:
                raise PreflightFailed(campaign_id, report)
            job = self._job(session, campaign_id, run_at=at)
            return int(job.enqueue(within=session, campaign_id=campaign_id).id)

    def preflight(self, campaign_id: int) -> Preflight:
        """What would keep a campaign from starting; nothing changes by it.

        Where its audience is not looked for yet, this is done for the report, and undone.
        """
        with self._sessions() as session:
            self.campaigns.take_audience(campaign_id, session)
            return preflight(session, campaign_id)

    def dry_run(self, campaign_id: int, most: int = 5) -> dict[str, Any]:
        """The preflight, and the first messages as they would read; nothing is sent or changed."""
        with self._sessions() as session:
            self.campaigns.take_audience(campaign_id, session)
            report = preflight(session, campaign_id)
            return {**report.as_json(), "messages": previews(session, campaign_id, most)}

    def test_send(self, campaign_id: int, phone: str, parameters: Parameters = ()) -> str:
        """Send a campaign's message once to a number of one's own; returns the message's id.

        It is no recipient, and counts nowhere but in the connection's budget.

        Raises:
            GraphError: as the API says; it is not tried again.
            TemplateStopped: if the API does not send its template.
        """
        check_phone(phone)
        with self._sessions() as session:
            campaign = session.get_one(Campaign, campaign_id)
        connection = self.whatsapp.connections.find(campaign.connection_id)
        filling = self._filling(campaign)
        sent = self.whatsapp.connections.graph(connection).send_template(
            connection.phone_number_id,
            to=phone,
            template=campaign.template_name,
            language=campaign.language,
            components=filling.components(parameters, campaign.constants),
            callback_data=f"test-{campaign_id}",
        )
        return sent.message_id

    def _job(self, session: Session, campaign_id: int, **options: Any) -> Any:
        """The task of a campaign's sending, on behalf of who started it, where that was said.

        It takes turns with those of other workspaces.
        """
        workspace_id, by = session.execute(
            select(Campaign.workspace_id, Campaign.started_by).where(Campaign.id == campaign_id)
        ).one()
        whose = f"workspace:{workspace_id}"
        operation = self.campaign_sending if by is None else self.campaign_sending.by(by)
        return operation.options(tenant=whose, key=f"campaigns:{whose}", **options)

    def _forget_users(self) -> None:
        """Remove from the messaging limit who counts no more."""
        forget_users(self._sessions)

    def reap(self) -> list[int]:
        """Enqueue again the campaigns that are to send and have no job; returns which.

        Recipients whose sender was lost, of campaigns that were stopped, become unknown. Daemons do
        this each minute.
        """
        self._reaper.expire()
        stranded = self._reaper.stranded()
        for campaign_id in stranded:
            logger.warning("campaign %s had no job and gets a new one", campaign_id)
            with self._sessions() as session:
                job = self._job(session, campaign_id, unique_key=f"reaped campaign:{campaign_id}")
            job.enqueue(campaign_id=campaign_id)
        return stranded

    def _given_up(self, failure: OperationFailure) -> None:
        """The campaign's job is discarded: say so, or the campaign would seem to send for ever."""
        if failure.job_id is not None:
            self.campaigns.fail(
                failure.args["campaign_id"], f"its sending was given up: {failure.error}"
            )

    def _send(self, op: OperationRun, campaign_id: int) -> dict[str, Any]:
        """Send a campaign's message to all that are pending, a few at a time."""
        try:
            return self._send_slice(op, campaign_id)
        except (OperationalError, ConnectionFailed, LockLost, OutcomeUnknown) as error:
            if current_job() is None:
                raise
            # The server restarts: nothing is wrong with the campaign, and no attempt is spent, or
            # after many of them it would wait for an hour.
            raise ReleaseJob(_AWAY_SECONDS, f"the database was away: {error}") from error

    def _send_slice(self, op: OperationRun, campaign_id: int) -> dict[str, Any]:
        if not self.campaigns.begin(campaign_id):
            return {"state": self.campaigns.state_of(campaign_id)}
        campaign, connection = self._find(campaign_id)
        recipients = Recipients(self._sessions, campaign_id, quota=Quota(connection))
        # This run has the campaign's lock: whoever claimed before is dead, or about to hear.
        lost = recipients.expire()
        if lost:
            op.note("lost", recipients=lost)
        budget = self.whatsapp.connections.budget(connection)
        pace = Pace(self._sync, self._caps, campaign, connection, budget)
        trouble = Trouble(self._senders, campaign.troubled_rounds)
        resume_in = None
        try:
            sender = self._sender(campaign, pace)
        except (ConnectionDisabled, InvalidArgument, TemplateStopped) as error:
            self._pause(campaign_id, str(error))
        else:
            dispatcher = Dispatcher(
                op,
                recipients,
                sender,
                self.statuses,
                pace,
                trouble=trouble,
                senders=self._senders,
                slice_seconds=self._slice_seconds,
            )
            stop = dispatcher.run()
            resume_in = dispatcher.resume_in
            self.campaigns.met_trouble(campaign_id, trouble.rounds)
            if stop is not None:
                self._heed(connection.id, campaign_id, stop)
        return self._end(op, campaign_id, recipients, resume_in, trouble)

    def _find(self, campaign_id: int) -> tuple[Campaign, Connection]:
        with self._sessions() as session:
            campaign = session.get_one(Campaign, campaign_id)
            return campaign, session.get_one(Connection, campaign.connection_id)

    def _sender(self, campaign: Campaign, pace: Pace) -> Sender:
        connection = self.whatsapp.connections.find(campaign.connection_id)
        filling = self._filling(campaign)
        graph = self.whatsapp.connections.graph(connection, patience=_PATIENCE)
        return Sender(graph, campaign, filling, connection.phone_number_id, pace)

    def _filling(self, campaign: Campaign) -> Filling:
        # The API may have stopped the template while the campaign waited for its time.
        template = self.whatsapp.sendable_template(
            campaign.connection_id, campaign.template_name, campaign.language
        )
        return Filling(template.components, template.parameter_format)

    def _heed(self, connection_id: int, campaign_id: int, verdict: Verdict) -> None:
        reason = str(verdict.stop)
        if verdict.disable_connection:
            self.whatsapp.connections.disable(connection_id, reason)
        self._pause(campaign_id, reason)

    def _pause(self, campaign_id: int, reason: str) -> None:
        logger.error("campaign %s is paused: %s", campaign_id, reason)
        try:
            self.campaigns.pause(campaign_id, reason)
        except CampaignStateError:
            logger.info("campaign %s was stopped meanwhile", campaign_id)

    def _end(
        self,
        op: OperationRun,
        campaign_id: int,
        recipients: Recipients,
        resume_in: float | None,
        trouble: Trouble,
    ) -> dict[str, Any]:
        done, total, seconds = recipients.progress()
        op.progress(done, total)
        completed = self.campaigns.complete(campaign_id)
        if not completed and self.campaigns.state_of(campaign_id) == "sending":
            # Some may wait for their time, or for the end of a lost sender's lease.
            delay = max(1.0, seconds or 0.0)
            held_up = recipients.held_up()
            if trouble.reason is not None:
                held_up = f"waits: the API is in trouble: {trouble.reason}"[:1000], trouble.wait
                delay = held_up[1]
            elif held_up is not None:
                delay = min(held_up[1], delay) if delay > 1.0 else held_up[1]
            elif resume_in is not None:
                delay = resume_in
            self.campaigns.waits(campaign_id, None if held_up is None else held_up[0])
            # No unique key: the job that runs this may hold it, and then none would come after it.
            with self._sessions() as session:
                job = self._job(session, campaign_id, delay=delay)
            job.enqueue(campaign_id=campaign_id)
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
