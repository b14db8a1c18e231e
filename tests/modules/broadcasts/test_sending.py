"""Sending a campaign: each recipient at most once, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from pgsync import Coordinator, InvalidArgument, OperationBlocked
from pgsync.modules.broadcasts import Broadcasts, CampaignStateError
from pgsync.modules.models import Connection
from pgsync.modules.whatsapp.standin import GraphStandin
from tests.eventually import eventually
from tests.modules.broadcasts.looking import states_of
from tests.tenants import new_connection

NewCampaign = Callable[[int], int]


def _send(broadcasts: Broadcasts, campaign: int) -> dict[str, Any]:
    broadcasts.campaigns.schedule(campaign)
    outcome: dict[str, Any] = broadcasts.campaign_sending(campaign_id=campaign)
    return outcome


def test_each_recipient_gets_one_message(
    broadcasts: Broadcasts, new_campaign: NewCampaign, standin: GraphStandin, database: Any
) -> None:
    campaign = new_campaign(50)
    assert _send(broadcasts, campaign) == {"state": "completed", "done": 50, "total": 50}
    assert states_of(database, campaign) == {"sent": 50}
    assert sum(standin.log.accepted.values()) == 50
    assert len(standin.log.duplicate_sends) == 0


def test_two_jobs_at_once_send_each_message_once(
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    standin: GraphStandin,
    sync: Coordinator,
    database: Any,
) -> None:
    campaign = new_campaign(60)
    standin.inject("slow", times=None, path="messages", seconds=0.02)
    broadcasts.start(campaign)
    second = broadcasts.campaign_sending.enqueue(campaign_id=campaign)
    sync.run_worker(queues=["campaigns"], concurrency=2, drain=True)
    assert broadcasts.campaigns.state_of(campaign) == "completed"
    assert sum(standin.log.accepted.values()) == 60
    assert len(standin.log.duplicate_sends) == 0
    # The second was not tried in vain: it was claimed when the first had released the lock.
    runs = database.execute(
        "SELECT state, job_id FROM pgsync.operations WHERE operation = 'campaign_sending'"
        " ORDER BY id"
    ).fetchall()
    assert runs == [("completed", second.id - 1), ("completed", second.id)]


def test_an_accepted_message_whose_answer_was_lost_is_unknown_and_not_resent(
    broadcasts: Broadcasts, new_campaign: NewCampaign, standin: GraphStandin, database: Any
) -> None:
    campaign = new_campaign(10)
    standin.inject("reset", times=3, path="messages", accept=True)
    _send(broadcasts, campaign)
    assert states_of(database, campaign) == {"sent": 7, "unknown": 3}
    assert sum(standin.log.accepted.values()) == 10
    assert broadcasts.campaigns.state_of(campaign) == "completed"
    assert len(standin.log.duplicate_sends) == 0


def test_a_sender_killed_in_the_middle_sends_nothing_twice(
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    standin: GraphStandin,
    connection: Connection,
    dsn: str,
    database: Any,
) -> None:
    campaign = new_campaign(100)
    broadcasts.campaigns.schedule(campaign)
    program = (
        "from pgsync import Coordinator; from pgsync.modules.platform import Platform;"
        f"Platform(Coordinator()).broadcasts.campaign_sending(campaign_id={campaign})"
    )
    environment = {**os.environ, "PGSYNC_DSN": dsn, "PGSYNC_GRAPH_URL": standin.url}
    standin.inject("slow", times=None, path="messages", seconds=0.05)
    with subprocess.Popen([sys.executable, "-c", program], env=environment) as process:
        eventually(lambda: sum(standin.log.accepted.values()) > 20, 60)
        process.send_signal(signal.SIGKILL)
    # The lease of what it had claimed ends now rather than in five minutes.
    database.execute(
        "UPDATE pgsync_modules.campaign_recipient SET lease_until = now() WHERE state = 'sending'"
    )
    eventually(lambda: not database.execute("SELECT FROM pgsync.locks").fetchall())
    broadcasts.campaign_sending(campaign_id=campaign)
    states = states_of(database, campaign)
    assert states["sent"] + states["unknown"] == 100
    # Eight calls were under way, and as many recipients in reserve.
    assert 0 < states["unknown"] <= 16
    assert len(standin.log.duplicate_sends) == 0
    assert broadcasts.campaigns.state_of(campaign) == "completed"


def test_a_held_campaign_lock_refuses_a_direct_call(
    broadcasts: Broadcasts, new_campaign: NewCampaign, dsn: str
) -> None:
    campaign = new_campaign(1)
    with (
        Coordinator(dsn) as other,
        other.lock(f"campaign_send:{campaign}", ttl=60),
        pytest.raises(OperationBlocked, match="already in progress"),
    ):
        broadcasts.campaign_sending(campaign_id=campaign)


def test_who_opts_out_before_the_call_is_skipped(
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    connection: Connection,
    standin: GraphStandin,
    database: Any,
) -> None:
    campaign = new_campaign(3)
    database.execute(
        "INSERT INTO pgsync_modules.contact (workspace_id, phone, status, opted_out_at)"
        " VALUES (%s, '+4915112000001', 'opted_out', now())",
        [connection.workspace_id],
    )
    _send(broadcasts, campaign)
    assert states_of(database, campaign) == {"sent": 2, "skipped": 1}
    assert standin.log.accepted == {"4915112000000": 1, "4915112000002": 1}


def test_a_contacts_audience_leaves_out_who_opted_out(
    broadcasts: Broadcasts, connection: Connection, database: Any
) -> None:
    database.execute(
        "INSERT INTO pgsync_modules.contact (workspace_id, phone, name, status, do_not_contact)"
        " SELECT %(w)s, '+491511200000' || n, name, status, never FROM (VALUES"
        "  (1, 'A', 'active', false), (2, 'B', 'opted_out', false), (3, 'C', 'active', true),"
        "  (4, NULL, 'active', false)) AS v (n, name, status, never)",
        {"w": connection.workspace_id},
    )
    campaign = broadcasts.campaigns.create(
        workspace_id=connection.workspace_id,
        connection_id=connection.id,
        name="All",
        template_name="hello",
        language="de",
    )
    assert broadcasts.campaigns.add_contacts(campaign) == 2
    rows = database.execute(
        "SELECT phone, parameters FROM pgsync_modules.campaign_recipient ORDER BY phone"
    ).fetchall()
    assert rows == [("+4915112000001", ["A"]), ("+4915112000004", ["+4915112000004"])]


@pytest.mark.parametrize("code", [131048, 132015, 132001])
def test_an_error_that_concerns_all_pauses_the_campaign(
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    standin: GraphStandin,
    database: Any,
    code: int,
) -> None:
    campaign = new_campaign(100)
    standin.inject("error", times=None, path="messages", code=code)
    assert _send(broadcasts, campaign)["state"] == "paused"
    assert states_of(database, campaign) == {"pending": 100}
    # It stopped within its first batch, and a second start sends all of them.
    standin.clear_faults()
    database.execute("UPDATE pgsync_modules.campaign_recipient SET send_after = NULL")
    _send(broadcasts, campaign)
    assert states_of(database, campaign) == {"sent": 100}
    assert len(standin.log.duplicate_sends) == 0


def test_a_recipient_that_cannot_be_reached_fails_alone(
    broadcasts: Broadcasts, new_campaign: NewCampaign, standin: GraphStandin, database: Any
) -> None:
    campaign = new_campaign(5)
    standin.inject("error", to="+4915112000002", path="messages", code=131026)
    _send(broadcasts, campaign)
    assert states_of(database, campaign) == {"sent": 4, "failed": 1}
    failed = database.execute(
        "SELECT phone, error_code FROM pgsync_modules.campaign_recipient WHERE state = 'failed'"
    ).fetchall()
    assert failed == [("+4915112000002", 131026)]


def test_a_recipient_that_must_wait_is_sent_to_later(
    broadcasts: Broadcasts, new_campaign: NewCampaign, standin: GraphStandin, database: Any
) -> None:
    campaign = new_campaign(3)
    standin.inject("error", to="+4915112000002", path="messages", code=131056)
    assert _send(broadcasts, campaign)["state"] == "sending"
    assert states_of(database, campaign) == {"sent": 2, "pending": 1}
    job = database.execute("SELECT task, state FROM pgsync.jobs").fetchall()
    assert job == [("campaign_sending", "scheduled")]
    database.execute("UPDATE pgsync_modules.campaign_recipient SET send_after = NULL")
    broadcasts.campaign_sending(campaign_id=campaign)
    assert states_of(database, campaign) == {"sent": 3}
    assert broadcasts.campaigns.state_of(campaign) == "completed"


def test_a_paused_campaign_sends_no_more_and_goes_on_when_started(
    broadcasts: Broadcasts, new_campaign: NewCampaign, standin: GraphStandin, database: Any
) -> None:
    campaign = new_campaign(5)
    broadcasts.campaigns.schedule(campaign)
    broadcasts.campaigns.begin(campaign)
    broadcasts.campaigns.pause(campaign, "by hand")
    assert broadcasts.campaign_sending(campaign_id=campaign) == {"state": "paused"}
    assert states_of(database, campaign) == {"pending": 5}
    _send(broadcasts, campaign)
    assert states_of(database, campaign) == {"sent": 5}


def test_states_change_only_as_they_may(broadcasts: Broadcasts, new_campaign: NewCampaign) -> None:
    campaign = new_campaign(1)
    with pytest.raises(CampaignStateError, match="is draft"):
        broadcasts.campaigns.pause(campaign, "too early")
    broadcasts.campaigns.cancel(campaign)
    with pytest.raises(CampaignStateError, match="is cancelled"):
        broadcasts.campaigns.schedule(campaign)
    assert broadcasts.campaign_sending(campaign_id=campaign) == {"state": "cancelled"}


def test_a_campaign_is_sent_over_a_connection_of_its_own_workspace(
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    connection: Connection,
    sessions: sessionmaker[Session],
    standin: GraphStandin,
) -> None:
    other = new_connection(sessions, standin)
    for connection_id in (other.id, 404):
        with pytest.raises(InvalidArgument, match=f"has no connection {connection_id}"):
            broadcasts.campaigns.create(
                workspace_id=connection.workspace_id,
                connection_id=connection_id,
                name="Hello",
                template_name="hello",
                language="de",
            )
    campaign = new_campaign(1)
    with pytest.raises(InvalidArgument, match="with an offset"):
        broadcasts.campaigns.schedule(campaign, datetime(2030, 1, 1))  # noqa: DTZ001 - as asked
    assert broadcasts.campaigns.state_of(campaign) == "draft"
