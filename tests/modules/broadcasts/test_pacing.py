"""How fast campaigns send: caps, quiet hours, delays, the daily limit, and turns."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from pgsync import Coordinator, InvalidArgument, Limit
from pgsync.modules.broadcasts import UNCAPPED, Broadcasts, Caps, QuietHours
from pgsync.modules.broadcasts.quota import Quota
from pgsync.modules.models import Connection
from pgsync.modules.whatsapp.standin import GraphStandin
from tests.eventually import eventually
from tests.waiting import sessions_waiting

NewCampaign = Callable[[int], int]
Capped = Callable[..., Broadcasts]


@pytest.fixture
def capped(broadcasts: Broadcasts) -> Capped:
    """The module with these caps alone."""

    def make(**caps: Limit) -> Broadcasts:
        broadcasts._caps = replace(UNCAPPED, **caps)
        return broadcasts

    return make


def _row(database: Any, campaign: int) -> Any:
    return database.execute(
        "SELECT state, state_reason, sent, pending FROM pgsync_modules.campaigns WHERE id = %s",
        [campaign],
    ).fetchone()


def _next_job(database: Any) -> float:
    row = database.execute("SELECT extract(epoch FROM max(run_at) - now()) FROM pgsync.jobs")
    return float(row.fetchone()[0])


def test_the_caps_are_those_of_the_original_and_of_the_api() -> None:
    caps = Caps()
    told = [str(cap) for cap in (caps.tenant, caps.connection, caps.campaign, caps.number)]
    assert told == ["120 per 60 s", "60 per 60 s", "40 per 60 s", "80 per 1 s, 80 at once"]
    assert str(caps.pair) == "10 per 60 s, 45 at once"


@pytest.mark.parametrize("cap", ["tenant", "connection", "campaign", "number"])
def test_a_cap_is_never_exceeded_and_the_campaign_goes_on_when_it_opens(
    capped: Capped,
    new_campaign: NewCampaign,
    standin: GraphStandin,
    sync: Coordinator,
    database: Any,
    cap: str,
) -> None:
    broadcasts = capped(**{cap: Limit(10, per=3600)})
    campaign = new_campaign(25)
    broadcasts.campaigns.schedule(campaign)
    assert broadcasts.campaign_sending(campaign_id=campaign)["state"] == "sending"
    # What waits for a permit is pending: nobody is claimed for it.
    assert _row(database, campaign) == ("sending", None, 10, 15)
    assert 3000 < _next_job(database) <= 3600
    # Another campaign shares all caps but its own.
    other = new_campaign(5)
    broadcasts.campaigns.schedule(other)
    broadcasts.campaign_sending(campaign_id=other)
    assert _row(database, other)[2] == (5 if cap == "campaign" else 0)
    for (key,) in database.execute("SELECT key FROM pgsync.rate_limits").fetchall():
        name, _, rest = key.partition(":")
        sync.limiter(name, Limit(10, per=3600)).clear(rest)
    database.execute("UPDATE pgsync.job_scheduled SET run_at = now()")
    sync.run_worker(queues=["campaigns"], drain=True, concurrency=1)
    assert sum(_row(database, each)[2] for each in (campaign, other)) == (
        25 if cap == "campaign" else 20
    )
    assert max(standin.log.accepted.values()) <= 2


def test_a_permit_that_opens_soon_is_waited_for(
    capped: Capped, new_campaign: NewCampaign, database: Any
) -> None:
    broadcasts = capped(campaign=Limit(10, per=0.3))
    campaign = new_campaign(25)
    broadcasts.campaigns.schedule(campaign)
    assert broadcasts.campaign_sending(campaign_id=campaign)["state"] == "completed"
    assert _row(database, campaign)[2] == 25


def test_permits_that_no_recipient_needs_are_given_back(
    capped: Capped, new_campaign: NewCampaign, sync: Coordinator
) -> None:
    cap = Limit(100, per=3600)
    broadcasts = capped(connection=cap, tenant=cap)
    campaign = new_campaign(3)
    broadcasts.campaigns.schedule(campaign)
    broadcasts.campaign_sending(campaign_id=campaign)
    assert sync.limiter("send-connection", cap).remaining("connection:1") == 97


def test_one_recipient_is_not_written_to_too_often(
    capped: Capped, new_campaign: NewCampaign, database: Any
) -> None:
    broadcasts = capped(pair=Limit(1, per=3600))
    for expected in ((1, 0), (0, 1)):
        campaign = new_campaign(1)
        broadcasts.campaigns.schedule(campaign)
        broadcasts.campaign_sending(campaign_id=campaign)
        assert _row(database, campaign)[2:] == expected


def test_the_delay_between_two_messages_is_kept(
    broadcasts: Broadcasts, new_campaign: NewCampaign, database: Any
) -> None:
    campaign = new_campaign(3)
    database.execute("UPDATE pgsync_modules.campaign SET send_delay = '0.2 s'")
    broadcasts.campaigns.schedule(campaign)
    broadcasts.campaign_sending(campaign_id=campaign)
    row = database.execute(
        "SELECT max(sent_at) - min(sent_at) FROM pgsync_modules.campaign_recipient"
    ).fetchone()
    assert row[0] >= timedelta(seconds=0.3)


@pytest.mark.parametrize(
    ("start", "end", "at", "left"),
    [
        (time(12), time(13), "2026-03-01 12:30+00", timedelta(minutes=30)),
        (time(12), time(13), "2026-03-01 13:00+00", None),
        (time(22), time(8), "2026-03-01 23:00+00", timedelta(hours=9)),
        (time(22), time(8), "2026-03-01 07:00+00", timedelta(hours=1)),
        (time(22), time(8), "2026-03-01 12:00+00", None),
        # The clocks of Berlin are set forward in that night.
        (time(22), time(8), "2026-03-28 23:00+01", timedelta(hours=8)),
    ],
)
def test_quiet_hours_end_when_the_clock_on_the_wall_says_so(
    database: Any, start: time, end: time, at: str, left: timedelta | None
) -> None:
    zone = "Europe/Berlin" if at.endswith("+01") else "UTC"
    row = database.execute(
        "SELECT pgsync_modules.quiet_for(%s, %s, %s, %s::timestamptz)", [start, end, zone, at]
    ).fetchone()
    assert row == (left,)


def test_in_quiet_hours_nothing_is_sent_and_it_goes_on_at_their_end(
    broadcasts: Broadcasts, new_campaign: NewCampaign, standin: GraphStandin, database: Any
) -> None:
    campaign = new_campaign(3)
    now = datetime.now(UTC)
    quiet = ((now - timedelta(hours=1)).time(), (now + timedelta(hours=2)).time())
    database.execute("UPDATE pgsync_modules.campaign SET quiet_from = %s, quiet_until = %s", quiet)
    broadcasts.campaigns.schedule(campaign)
    broadcasts.campaign_sending(campaign_id=campaign)
    assert _row(database, campaign) == ("sending", "waits for the end of its quiet hours", 0, 3)
    assert 7000 < _next_job(database) <= 7200
    database.execute("UPDATE pgsync_modules.campaign SET quiet_from = NULL")
    broadcasts.campaign_sending(campaign_id=campaign)
    assert _row(database, campaign) == ("completed", None, 3, 0)
    with pytest.raises(InvalidArgument, match="no time zone"):
        QuietHours(time(22), time(8), "Mars/Base")


def test_the_daily_limit_counts_users_over_all_campaigns_and_waits_for_the_window(
    broadcasts: Broadcasts, new_campaign: NewCampaign, standin: GraphStandin, database: Any
) -> None:
    first, second = new_campaign(20), new_campaign(35)
    database.execute("UPDATE pgsync_modules.connection SET daily_limit = 25")
    assert "leaves 25 users" in broadcasts.preflight(second).warnings[0]
    for campaign in (first, second):
        broadcasts.campaigns.schedule(campaign)
        broadcasts.campaign_sending(campaign_id=campaign)
    assert _row(database, first)[0] == "completed"
    # The second goes to the same people first, who count once.
    row = _row(database, second)
    assert row[:2] == ("sending", "waits: the messaging limit is used up")
    assert len(standin.log.accepted) <= 25
    assert 86000 < _next_job(database) <= 86400
    database.execute("UPDATE pgsync_modules.messaged_user SET at = at - interval '24 h'")
    broadcasts.campaign_sending(campaign_id=second)
    assert _row(database, second)[0] == "completed"
    assert len(standin.log.duplicate_sends) == 0


def test_a_portfolios_limit_counts_also_what_its_connections_send_that_do_not_name_it(
    connection: Connection, sessions: sessionmaker[Session], database: Any
) -> None:
    database.execute(
        "UPDATE pgsync_modules.connection SET portfolio = 'acme';"
        "INSERT INTO pgsync_modules.connection"
        " (workspace_id, name, waba_id, phone_number_id, token, portfolio, daily_limit)"
        " SELECT workspace_id, name, waba_id, '2', token, p.portfolio, p.daily_limit"
        " FROM pgsync_modules.connection,"
        " (VALUES ('acme', 2), ('other', NULL)) AS p (portfolio, daily_limit)"
    )
    with sessions() as session:
        named, unlimited = session.scalars(
            select(Connection).where(Connection.phone_number_id == "2").order_by(Connection.id)
        )
    connection.portfolio = "acme"
    for each, phone, left in ((connection, "1", 2), (named, "2", 1), (connection, "3", 0)):
        quota = Quota(each)
        with sessions.begin() as session:
            assert quota.left(session) == left
            quota.add(session, [f"+4930{phone}"])
    with sessions.begin() as session:
        assert Quota(unlimited).left(session) is None


def test_claims_at_once_count_against_one_daily_limit_in_turn(
    connection: Connection, sessions: sessionmaker[Session], database: Any
) -> None:
    database.execute("UPDATE pgsync_modules.connection SET daily_limit = 1")
    quota = Quota(connection)

    def other() -> int | None:
        with sessions.begin() as session:
            return quota.left(session)

    with ThreadPoolExecutor(1) as pool, sessions.begin() as session:
        assert quota.left(session) == 1
        second = pool.submit(other)
        eventually(lambda: second.done() or sessions_waiting(database))
        quota.add(session, ["+4915112000001"])
        session.commit()
        # It saw what the first had claimed, since it waited for it.
        assert second.result(10) == 0


def test_who_counts_no_more_is_forgotten(broadcasts: Broadcasts, database: Any) -> None:
    database.execute(
        "INSERT INTO pgsync_modules.messaged_user VALUES ('1', '+49301', now() - interval '26 h'),"
        " ('1', '+49302', now() - interval '23 h')"
    )
    broadcasts._forget_users()
    left = database.execute("SELECT phone FROM pgsync_modules.messaged_user").fetchall()
    assert left == [("+49302",)]


def test_a_run_ends_with_its_slice_and_campaigns_take_turns(
    sync: Coordinator,
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    standin: GraphStandin,
    database: Any,
) -> None:
    broadcasts._slice_seconds = 0.2
    standin.inject("slow", times=None, path="messages", seconds=0.03)
    first, second = new_campaign(150), new_campaign(5)
    broadcasts.start(first)
    broadcasts.start(second)
    sync.run_worker(queues=["campaigns"], drain=True, concurrency=1)
    ended = database.execute(
        "SELECT id FROM pgsync_modules.campaign WHERE state = 'completed' ORDER BY finished_at"
    ).fetchall()
    assert ended == [(second,), (first,)]


def test_a_workspace_sends_so_many_campaigns_side_by_side(
    sync: Coordinator, broadcasts: Broadcasts, new_campaign: NewCampaign, database: Any
) -> None:
    for _ in range(6):
        broadcasts.start(new_campaign(1))
    other = "SELECT pgsync.register_worker('by hand', 'host', 1, '0', '{campaigns}', 10)"
    (worker,) = database.execute(other).fetchone()
    claimed = database.execute(
        "SELECT count(*) FROM pgsync.claim_jobs(%s, '{campaigns}', 10)", [worker]
    )
    assert claimed.fetchone() == (4,)
