"""Campaigns that stop by themselves: by errors, with their template, and without a job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from pgsync import Coordinator
from pgsync.modules.broadcasts import Broadcasts, webhook_app
from pgsync.modules.broadcasts.error_rate import ErrorRate
from pgsync.modules.broadcasts.recipients import Recipients
from pgsync.modules.models import Connection
from pgsync.modules.whatsapp import WhatsApp
from pgsync.modules.whatsapp.standin import GraphStandin
from tests.eventually import eventually
from tests.modules.broadcasts.looking import states_of
from tests.serving import serving

NewCampaign = Callable[[int], int]


@pytest.fixture
def receiver(broadcasts: Broadcasts, standin: GraphStandin) -> Iterator[None]:
    """Lets the stand-in's webhooks come to the endpoint."""
    app = webhook_app(broadcasts, app_secret=standin.app_secret, verify_token="shake")
    with serving(app) as url:
        standin.webhooks.url = f"{url}/"
        yield


@pytest.fixture
def remote_id(
    new_campaign: NewCampaign, whatsapp: WhatsApp, connection: Connection, database: Any
) -> str:
    """The id of the campaigns' template, which is synced."""
    whatsapp.template_sync(connection_id=connection.id)
    row = database.execute("SELECT remote_id FROM pgsync_modules.template WHERE name = 'hello'")
    return str(row.fetchone()[0])


def _state(database: Any, campaign: int) -> tuple[str, str | None]:
    row = database.execute(
        "SELECT state, state_reason FROM pgsync_modules.campaign WHERE id = %s", [campaign]
    ).fetchone()
    return row[0], row[1]


def _count(database: Any, state: str) -> int:
    row = database.execute(
        "SELECT count(*) FROM pgsync_modules.campaign_recipient WHERE state = %s", [state]
    ).fetchone()
    return int(row[0])


def test_a_campaign_pauses_where_a_fifth_of_its_messages_fail(
    broadcasts: Broadcasts, new_campaign: NewCampaign, standin: GraphStandin, database: Any
) -> None:
    campaign = new_campaign(200)
    for number in range(0, 200, 4):
        standin.inject("error", to=f"+4915112{number:06d}", path="messages", code=131026)
    broadcasts.campaigns.schedule(campaign)
    assert broadcasts.campaign_sending(campaign_id=campaign)["state"] == "paused"
    state, reason = _state(database, campaign)
    assert state == "paused"
    assert reason is not None
    assert "messages failed" in reason
    # It looked at 20 before it judged, and at no more than were under way then.
    assert 20 <= 200 - _count(database, "pending") <= 40
    # Who starts it again knows of the failures so far: it counts from there.
    standin.clear_faults()
    broadcasts.campaigns.schedule(campaign)
    assert broadcasts.campaign_sending(campaign_id=campaign)["state"] == "completed"


def test_few_failures_pause_nothing(
    broadcasts: Broadcasts, new_campaign: NewCampaign, standin: GraphStandin, database: Any
) -> None:
    campaign = new_campaign(50)
    # So far apart that never four are among the first twenty: sixteen are under way at once.
    for number in range(0, 50, 15):
        standin.inject("error", to=f"+4915112{number:06d}", path="messages", code=131026)
    broadcasts.campaigns.schedule(campaign)
    assert broadcasts.campaign_sending(campaign_id=campaign)["state"] == "completed"
    assert _count(database, "failed") == 4


def test_a_failure_that_is_seen_before_it_is_counted_counts_once(
    new_campaign: NewCampaign, sessions: sessionmaker[Session], database: Any
) -> None:
    campaign = new_campaign(20)
    rate = ErrorRate(Recipients(sessions, campaign))
    for _ in range(18):
        rate.count("sent")
    database.execute(
        "UPDATE pgsync_modules.campaign_recipient SET state = 'failed'"
        " WHERE id IN (SELECT id FROM pgsync_modules.campaign_recipient LIMIT 2)"
    )
    rate.look()
    rate.count("failed")
    rate.count("failed")
    assert rate.reason is None
    rate.count("failed")
    rate.count("failed")
    assert rate.reason is None  # 4 of 22
    rate.count("failed")
    assert rate.reason == "5 of 23 messages failed"


@pytest.mark.parametrize("event", ["PAUSED", "DISABLED"])
@pytest.mark.usefixtures("receiver")
def test_a_webhook_that_stops_a_template_pauses_the_campaigns_that_use_it(
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    remote_id: str,
    standin: GraphStandin,
    sync: Coordinator,
    database: Any,
    event: str,
) -> None:
    sending, scheduled = new_campaign(3), new_campaign(3)
    broadcasts.campaigns.schedule(sending)
    broadcasts.campaigns.begin(sending)
    # The API sends it again until it is answered, each time with the moment of the event.
    again = standin._world.template_webhook(
        remote_id, "message_template_status_update", {"event": event, "reason": "NONE"}
    )
    for _ in range(2):
        assert standin.webhooks.post(again) == 200
    sync.run_worker(queues=["webhooks"], drain=True)
    assert _state(database, sending) == ("paused", f"template hello (de) is {event}")
    # One that has not begun is paused when its time comes.
    broadcasts.campaigns.schedule(scheduled)
    assert broadcasts.campaign_sending(campaign_id=scheduled)["state"] == "paused"
    assert standin.log.accepted == {}
    events = database.execute(
        "SELECT event, before, after FROM pgsync_modules.template_event"
    ).fetchall()
    assert events == [("status", "APPROVED", event)]


def test_a_sync_that_finds_a_template_stopped_pauses_its_campaigns(
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    remote_id: str,
    standin: GraphStandin,
    whatsapp: WhatsApp,
    connection: Connection,
    database: Any,
) -> None:
    campaign = new_campaign(1)
    broadcasts.campaigns.schedule(campaign)
    broadcasts.campaigns.begin(campaign)
    standin.templates.change(remote_id, status="PAUSED")
    whatsapp.template_sync(connection_id=connection.id)
    assert _state(database, campaign) == ("paused", "template hello (de) is PAUSED")


def test_a_campaign_whose_job_is_gone_gets_a_new_one(
    broadcasts: Broadcasts, new_campaign: NewCampaign, sync: Coordinator, database: Any
) -> None:
    campaign = new_campaign(3)
    job = broadcasts.start(campaign)
    assert broadcasts.reap() == []
    sync.cancel_job(job)
    broadcasts.campaigns.begin(campaign)
    with sync.lock(f"campaign_send:{campaign}", ttl=60):
        assert broadcasts.reap() == []
    assert broadcasts.reap() == [campaign]
    assert broadcasts.reap() == []
    sync.run_worker(queues=["campaigns"], drain=True)
    assert _state(database, campaign)[0] == "completed"


def test_a_campaign_whose_job_somebody_discards_has_failed_and_sends_no_more(
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    standin: GraphStandin,
    sync: Coordinator,
    database: Any,
) -> None:
    campaign = new_campaign(2)
    job = broadcasts.start(campaign)
    database.execute("SELECT pgsync.discard_jobs(ids => ARRAY[%s], by => 'bob')", [job])
    sync.start(queues=["campaigns"])
    try:
        eventually(lambda: _state(database, campaign)[0] == "failed")
    finally:
        sync.stop()
    assert _state(database, campaign)[1] == "its sending was given up: discarded by bob"
    assert broadcasts.reap() == []
    assert standin.log.accepted == {}


def test_whose_sender_was_lost_is_unknown_also_where_the_campaign_was_cancelled(
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    sessions: sessionmaker[Session],
    database: Any,
) -> None:
    cancelled, going_on = new_campaign(2), new_campaign(1)
    for campaign in (cancelled, going_on):
        broadcasts.campaigns.schedule(campaign)
        broadcasts.campaigns.begin(campaign)
    lost = Recipients(sessions, cancelled, lease=timedelta(0))
    assert len(lost.claim(1)[0]) == 1
    assert len(Recipients(sessions, cancelled).claim(1)[0]) == 1  # Its call may still go on.
    assert len(Recipients(sessions, going_on, lease=timedelta(0)).claim(1)[0]) == 1
    broadcasts.campaigns.cancel(cancelled)
    broadcasts.reap()
    assert states_of(database, cancelled) == {"unknown": 1, "sending": 1}
    assert states_of(database, going_on) == {"sending": 1}


def test_all_runs_of_a_campaign_name_who_started_it(
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    standin: GraphStandin,
    sync: Coordinator,
    database: Any,
) -> None:
    campaign = new_campaign(2)
    standin.inject("error", to="+4915112000001", path="messages", code=131056)
    broadcasts.start(campaign, by="ann")
    sync.run_worker(queues=["campaigns"], drain=True)
    # The next job is lost, and a new one made.
    (job,) = database.execute("SELECT id FROM pgsync.jobs").fetchone()
    sync.cancel_job(job)
    assert broadcasts.reap() == [campaign]
    database.execute("UPDATE pgsync_modules.campaign_recipient SET send_after = NULL")
    sync.run_worker(queues=["campaigns"], drain=True)
    assert _state(database, campaign)[0] == "completed"
    actors = database.execute("SELECT actor FROM pgsync.operations WHERE job_id IS NOT NULL")
    assert actors.fetchall() == [("ann",), ("ann",)]
    jobs = database.execute("SELECT args #>> '{pgsync:trace,pgsync-actor}' FROM pgsync.job_history")
    assert jobs.fetchall() == [("ann",)] * 3


def test_daemons_reap_and_sync_by_themselves(broadcasts: Broadcasts, sync: Coordinator) -> None:
    hourly = {"template_sync_hourly", "messaged_users_forgetting"}
    assert set(sync.schedules) == {"campaign_reaping", *hourly}


def test_a_campaign_whose_sending_is_given_up_has_failed_and_may_be_started_again(
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    standin: GraphStandin,
    sync: Coordinator,
    database: Any,
) -> None:
    campaign = new_campaign(2)
    broadcasts.start(campaign)
    database.execute("UPDATE pgsync.job_ready SET max_attempts = 1")
    database.execute("ALTER TABLE pgsync_modules.campaign_recipient RENAME COLUMN phone TO number")
    sync.run_worker(queues=["campaigns"], drain=True)
    database.execute("ALTER TABLE pgsync_modules.campaign_recipient RENAME COLUMN number TO phone")
    state, reason = _state(database, campaign)
    assert state == "failed"
    assert str(reason).startswith("its sending was given up: ")
    assert broadcasts.reap() == []
    broadcasts.start(campaign)
    sync.run_worker(queues=["campaigns"], drain=True)
    assert _state(database, campaign) == ("completed", None)
    assert len(standin.log.accepted) == 2
