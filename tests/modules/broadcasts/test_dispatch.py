"""What a dispatcher promises beyond one message each: when it stops, and that it goes on."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from pgsync import Coordinator, InvalidArgument
from pgsync.modules.broadcasts import Broadcasts
from pgsync.modules.broadcasts.models import Campaign
from pgsync.modules.broadcasts.recipients import Recipients
from pgsync.modules.broadcasts.sending import Sender
from pgsync.modules.models import Connection
from pgsync.modules.whatsapp import WhatsApp
from pgsync.modules.whatsapp.filling import Filling
from pgsync.modules.whatsapp.standin import GraphStandin
from tests.eventually import eventually
from tests.modules.broadcasts.looking import states_of

NewCampaign = Callable[[int], int]

SENDERS = 8


def _calls(standin: GraphStandin) -> int:
    return sum(n for path, n in standin.log.requests_by_path.items() if path.endswith("/messages"))


def _make_due(database: Any) -> None:
    database.execute("UPDATE pgsync_modules.campaign_recipient SET send_after = NULL")
    database.execute("UPDATE pgsync.job_scheduled SET run_at = now()")


def test_a_campaign_that_must_wait_again_and_again_is_never_left_without_a_job(
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    standin: GraphStandin,
    sync: Coordinator,
    database: Any,
) -> None:
    campaign = new_campaign(2)
    standin.inject("error", times=None, to="+4915112000001", path="messages", code=131056)
    broadcasts.start(campaign)
    for _ in range(3):
        sync.run_worker(queues=["campaigns"], drain=True)
        assert broadcasts.campaigns.state_of(campaign) == "sending"
        jobs = database.execute("SELECT task FROM pgsync.jobs").fetchall()
        assert jobs == [("campaign_sending",)]
        _make_due(database)
    standin.clear_faults()
    sync.run_worker(queues=["campaigns"], drain=True)
    assert broadcasts.campaigns.state_of(campaign) == "completed"


@pytest.mark.parametrize("code", [131048, 132001, 190])
def test_after_an_answer_that_concerns_all_nobody_else_is_called(
    new_campaign: NewCampaign,
    standin: GraphStandin,
    broadcasts: Broadcasts,
    database: Any,
    code: int,
) -> None:
    campaign = new_campaign(200)
    standin.inject("error", times=None, path="messages", code=code)
    broadcasts.campaigns.schedule(campaign)
    assert broadcasts.campaign_sending(campaign_id=campaign)["state"] == "paused"
    # Only the calls that were under way with the first are made.
    assert _calls(standin) <= SENDERS
    assert states_of(database, campaign) == {"pending": 200}


def test_a_campaign_over_a_disabled_connection_is_paused_and_says_why(
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    whatsapp: WhatsApp,
    connection: Connection,
    standin: GraphStandin,
    sync: Coordinator,
    database: Any,
) -> None:
    campaign = new_campaign(3)
    broadcasts.start(campaign)
    whatsapp.connections.disable(connection.id, "the token was refused")
    sync.run_worker(queues=["campaigns"], drain=True)
    state, reason = database.execute(
        "SELECT state, state_reason FROM pgsync_modules.campaign"
    ).fetchone()
    assert state == "paused"
    assert "is disabled" in reason
    assert _calls(standin) == 0


def test_a_start_that_cannot_enqueue_leaves_the_draft(
    broadcasts: Broadcasts, new_campaign: NewCampaign, database: Any
) -> None:
    campaign = new_campaign(1)
    database.execute("ALTER TABLE pgsync.job_ready ADD CONSTRAINT refuses CHECK (false) NOT VALID")
    with pytest.raises(Exception, match="refuses"):
        broadcasts.start(campaign)
    assert broadcasts.campaigns.state_of(campaign) == "draft"


def test_a_campaign_does_not_begin_before_its_time(
    broadcasts: Broadcasts, new_campaign: NewCampaign, standin: GraphStandin
) -> None:
    campaign = new_campaign(1)
    broadcasts.campaigns.schedule(campaign, datetime.now(UTC) + timedelta(hours=1))
    # A job of an earlier plan comes first.
    assert broadcasts.campaign_sending(campaign_id=campaign) == {"state": "scheduled"}
    assert _calls(standin) == 0


def test_who_opts_out_by_an_answer_is_never_written_to_again(
    broadcasts: Broadcasts, new_campaign: NewCampaign, standin: GraphStandin, database: Any
) -> None:
    first, second = new_campaign(2), new_campaign(2)
    standin.inject("error", to="+4915112000001", path="messages", code=131050)
    for campaign in (first, second):
        broadcasts.campaigns.schedule(campaign)
        broadcasts.campaign_sending(campaign_id=campaign)
    assert states_of(database, first) == {"sent": 1, "failed": 1}
    assert states_of(database, second) == {"sent": 1, "skipped": 1}
    third = new_campaign(0)
    assert broadcasts.campaigns.add_phones(third, ["+4915112000000", "+4915112000001"]) == 1


def test_what_is_no_phone_number_is_refused(
    broadcasts: Broadcasts, new_campaign: NewCampaign
) -> None:
    with pytest.raises(InvalidArgument, match="015112000000"):
        broadcasts.campaigns.add_phones(new_campaign(0), ["+4915112000000", "015112000000"])


def test_a_pause_in_the_middle_lets_nobody_else_be_called(
    broadcasts: Broadcasts, new_campaign: NewCampaign, standin: GraphStandin, database: Any
) -> None:
    campaign = new_campaign(200)
    standin.inject("slow", times=None, path="messages", seconds=0.02)
    broadcasts.campaigns.schedule(campaign)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(broadcasts.campaign_sending, campaign_id=campaign)
        eventually(lambda: sum(standin.log.accepted.values()) > 10)
        broadcasts.campaigns.pause(campaign, "by hand")
        before = _calls(standin)
        assert running.result(30)["state"] == "paused"
    # Only the calls that were under way are made, not those for which it had claimed in reserve.
    assert _calls(standin) <= before + SENDERS
    states = states_of(database, campaign)
    assert states == {"sent": _calls(standin), "pending": 200 - _calls(standin)}


def test_where_nothing_answers_the_recipients_wait_and_are_not_unknown(
    sync: Coordinator,
    sessions: sessionmaker[Session],
    connection: Connection,
    database: Any,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}"
    unreachable = Broadcasts(sync, sessions, WhatsApp(sync, sessions, graph_url=closed))
    database.execute(
        "INSERT INTO pgsync_modules.template"
        " (connection_id, remote_id, name, language, status, last_synced_at)"
        " VALUES (%s, '1', 'hello', 'de', 'APPROVED', now())",
        [connection.id],
    )
    campaign = unreachable.campaigns.create(
        workspace_id=connection.workspace_id,
        connection_id=connection.id,
        name="Nobody there",
        template_name="hello",
        language="de",
    )
    unreachable.campaigns.add_phones(campaign, ["+4915112000000"])
    unreachable.campaigns.schedule(campaign)
    for _ in range(10):
        unreachable.campaign_sending(campaign_id=campaign)
        _make_due(database)
    # It is tried ten times, and then given up.
    row = database.execute(
        "SELECT state, attempt, error FROM pgsync_modules.campaign_recipient"
    ).fetchone()
    assert row[:2] == ("failed", 10)
    assert "no connection could be made" in row[2]
    assert unreachable.campaigns.state_of(campaign) == "completed"


def test_an_error_of_the_database_after_acceptance_sends_nothing_again(
    broadcasts: Broadcasts, new_campaign: NewCampaign, standin: GraphStandin, database: Any
) -> None:
    campaign = new_campaign(10)
    database.execute(
        "ALTER TABLE pgsync_modules.campaign_recipient"
        " ADD CONSTRAINT broken CHECK (message_id IS NULL)"
    )
    broadcasts.campaigns.schedule(campaign)
    with pytest.raises(Exception, match="broken"):
        broadcasts.campaign_sending(campaign_id=campaign)
    database.execute("ALTER TABLE pgsync_modules.campaign_recipient DROP CONSTRAINT broken")
    database.execute(
        "UPDATE pgsync_modules.campaign_recipient SET lease_until = now() WHERE state = 'sending'"
    )
    broadcasts.campaign_sending(campaign_id=campaign)
    assert max(standin.log.accepted.values()) == 1
    assert len(standin.log.accepted) == 10
    assert broadcasts.campaigns.state_of(campaign) == "completed"


def test_while_all_calls_must_wait_nobody_is_claimed(
    sync: Coordinator,
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    connection: Connection,
    standin: GraphStandin,
    database: Any,
) -> None:
    campaign = new_campaign(3)
    broadcasts.campaigns.schedule(campaign)
    budget = broadcasts.whatsapp.connections.budget(connection)
    budget.pause(3600)
    broadcasts.campaign_sending(campaign_id=campaign)
    attempts = database.execute(
        "SELECT state, attempt, count(*) FROM pgsync_modules.campaign_recipient GROUP BY 1, 2"
    ).fetchall()
    assert attempts == [("pending", 0, 3)]
    (again,) = database.execute("SELECT run_at > now() + interval '59 min' FROM pgsync.jobs")
    assert again == (True,)
    budget.limiter.clear(budget.key)
    broadcasts.campaign_sending(campaign_id=campaign)
    assert len(standin.log.accepted) == 3


def test_that_all_had_to_wait_counts_nothing_against_a_recipient(
    broadcasts: Broadcasts, new_campaign: NewCampaign, standin: GraphStandin, database: Any
) -> None:
    campaign = new_campaign(1)
    broadcasts.campaigns.schedule(campaign)
    database.execute("UPDATE pgsync_modules.campaign_recipient SET attempt = 30, failures = 8")
    for code in (131057, 131057):
        standin.inject("error", code=code, path="messages")
    broadcasts.campaign_sending(campaign_id=campaign)
    found = "SELECT state, attempt, failures FROM pgsync_modules.campaign_recipient"
    assert database.execute(found).fetchone() == ("pending", 31, 9)
    _make_due(database)
    broadcasts.campaign_sending(campaign_id=campaign)
    assert database.execute(found).fetchone() == ("failed", 32, 10)


@pytest.mark.parametrize("recipients", [1, 15, 16, 17, 32])
def test_a_campaign_is_completed_with_its_last_batch_however_full_that_is(
    broadcasts: Broadcasts, new_campaign: NewCampaign, database: Any, recipients: int
) -> None:
    campaign = new_campaign(recipients)
    broadcasts.campaigns.schedule(campaign)
    done = broadcasts.campaign_sending(campaign_id=campaign)
    assert done == {"state": "completed", "done": recipients, "total": recipients}
    assert database.execute("SELECT count(*) FROM pgsync.jobs").fetchone() == (0,)


@pytest.mark.parametrize(
    ("change", "after"),
    [
        ("UPDATE pgsync_modules.contact SET status = 'opted_out'", "skipped"),
        ("UPDATE pgsync_modules.contact SET do_not_contact = true", "skipped"),
        ("UPDATE pgsync_modules.campaign SET state = 'cancelled'", "pending"),
        ("UPDATE pgsync_modules.connection SET disabled_at = now()", "pending"),
        ("UPDATE pgsync_modules.campaign_recipient SET state = 'unknown'", "unknown"),
        ("UPDATE pgsync_modules.campaign_recipient SET attempt = 2", "sending"),
        ("UPDATE pgsync_modules.contact SET name = 'Zoë'", "sent"),
    ],
)
def test_what_happens_between_the_claim_and_the_call_is_heeded(
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    connection: Connection,
    sessions: sessionmaker[Session],
    standin: GraphStandin,
    database: Any,
    change: str,
    after: str,
) -> None:
    campaign = new_campaign(1)
    database.execute(
        "INSERT INTO pgsync_modules.contact (workspace_id, phone) VALUES (%s, '+4915112000000')",
        [connection.workspace_id],
    )
    broadcasts.campaigns.schedule(campaign)
    broadcasts.campaigns.begin(campaign)
    recipients = Recipients(sessions, campaign)
    (claim,), _ = recipients.claim(1)
    database.execute(change)
    with sessions() as session:
        sender = Sender(
            broadcasts.whatsapp.connections.graph(connection),
            session.get_one(Campaign, campaign),
            Filling([{"type": "BODY", "text": "Hello {{1}}"}]),
            connection.phone_number_id,
        )
    verdict = sender.send(claim, recipients)
    assert states_of(database, campaign) == {after: 1}
    assert (verdict.state == "sent") == (after == "sent") == (_calls(standin) == 1)


@pytest.mark.parametrize("late", ["sent", "failed", "pending", "put back"])
def test_a_late_answer_to_an_earlier_attempt_changes_nothing(
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    sessions: sessionmaker[Session],
    database: Any,
    late: str,
) -> None:
    campaign = new_campaign(1)
    broadcasts.campaigns.schedule(campaign)
    broadcasts.campaigns.begin(campaign)
    recipients = Recipients(sessions, campaign)
    (first,), _ = recipients.claim(1)
    # Its sender stood still; it was given up for lost, and is tried again by somebody's choice.
    database.execute("UPDATE pgsync_modules.campaign_recipient SET state = 'pending'")
    (second,), _ = recipients.claim(1)
    assert (first.id, second.attempt) == (second.id, first.attempt + 1)
    if late == "sent":
        recipients.sent(first, "wamid.late")
    elif late == "put back":
        recipients.put_back(first)
    else:
        recipients.not_sent(first, late, error="late")
    row = "SELECT state, attempt, message_id, error FROM pgsync_modules.campaign_recipient"
    assert database.execute(row).fetchone() == ("sending", 2, None, None)


def test_a_campaign_is_not_completed_before_a_lost_senders_lease_has_ended(
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    sessions: sessionmaker[Session],
    database: Any,
) -> None:
    campaign = new_campaign(2)
    broadcasts.campaigns.schedule(campaign)
    broadcasts.campaigns.begin(campaign)
    assert len(Recipients(sessions, campaign).claim(1)[0]) == 1
    assert broadcasts.campaign_sending(campaign_id=campaign)["state"] == "sending"
    assert states_of(database, campaign) == {"sending": 1, "sent": 1}
    (again,) = database.execute(
        "SELECT run_at BETWEEN now() + interval '3 min' AND now() + interval '5 min'"
        " FROM pgsync.jobs"
    ).fetchone()
    assert again
    database.execute(
        "UPDATE pgsync_modules.campaign_recipient SET lease_until = now() WHERE state = 'sending'"
    )
    assert broadcasts.campaign_sending(campaign_id=campaign)["state"] == "completed"
    assert states_of(database, campaign) == {"unknown": 1, "sent": 1}


def test_no_more_are_claimed_than_the_connection_has_calls_left(
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    connection: Connection,
    standin: GraphStandin,
    database: Any,
) -> None:
    campaign = new_campaign(10)
    budget = broadcasts.whatsapp.connections.budget(connection)
    budget.limiter.clear(budget.key)
    database.execute("UPDATE pgsync_modules.connection SET calls_per_minute = 3")
    broadcasts.campaigns.schedule(campaign)
    broadcasts.campaign_sending(campaign_id=campaign)
    attempts = (
        "SELECT state, attempt, count(*) FROM pgsync_modules.campaign_recipient GROUP BY 1, 2"
    )
    assert sorted(database.execute(attempts).fetchall()) == [("pending", 0, 7), ("sent", 1, 3)]
    assert len(standin.log.accepted) == 3


def test_nobody_is_claimed_over_a_connection_that_another_run_has_disabled(
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    connection: Connection,
    sessions: sessionmaker[Session],
) -> None:
    campaign = new_campaign(1)
    broadcasts.campaigns.schedule(campaign)
    broadcasts.campaigns.begin(campaign)
    broadcasts.whatsapp.connections.disable(connection.id, "the token was refused")
    assert Recipients(sessions, campaign).claim(1) == ([], 0)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [("phone_number_id", "+49 151", "phone_number_id"), ("token", "two words", "token")],
)
def test_a_connection_that_cannot_call_pauses_the_campaign_and_leaves_nobody_unknown(
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    sync: Coordinator,
    database: Any,
    column: str,
    value: str,
    reason: str,
) -> None:
    campaign = new_campaign(3)
    database.execute(f"UPDATE pgsync_modules.connection SET {column} = %s", [value])
    broadcasts.start(campaign)
    assert sync.run_worker(queues=["campaigns"], drain=True).completed == 1
    assert states_of(database, campaign) == {"pending": 3}
    row = database.execute("SELECT state, state_reason FROM pgsync_modules.campaign").fetchone()
    assert row[0] == "paused"
    assert reason in row[1]
    assert "two words" not in row[1]


def test_a_template_that_cannot_be_filled_leaves_nobody_unknown(
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    standin: GraphStandin,
    monkeypatch: pytest.MonkeyPatch,
    database: Any,
) -> None:
    campaign = new_campaign(3)
    monkeypatch.setattr(Filling, "components", lambda *given: 1 / 0)
    broadcasts.start(campaign)
    with pytest.raises(ZeroDivisionError):
        broadcasts.campaign_sending(campaign_id=campaign)
    assert states_of(database, campaign) == {"pending": 3}
    assert _calls(standin) == 0
