"""Row locks: two transactions at once really wait for each other, and the second sees the first.

In each test a transaction has changed a row and not ended, while the modules work on it. Without
the row lock they would read what was there before, and lose the change or contradict it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from pgsync.modules.broadcasts import Audience, Broadcasts, CampaignStateError
from pgsync.modules.broadcasts.recipients import Recipients
from pgsync.modules.broadcasts.statuses import _move
from pgsync.modules.models import Connection
from pgsync.modules.whatsapp import WhatsApp
from tests.modules.broadcasts.conftest import broadcasts, new_campaign
from tests.modules.broadcasts.looking import states_of
from tests.modules.two_transactions import changed, waiting

__all__ = ["broadcasts", "new_campaign"]

NewCampaign = Callable[[int], int]


def test_a_sync_waits_for_a_notice_and_sees_what_it_said(
    whatsapp: WhatsApp, connection: Connection, database: Any, dsn: str
) -> None:
    whatsapp.template_sync(connection_id=connection.id)
    template = database.execute(
        "SELECT id FROM pgsync_modules.template WHERE status = 'APPROVED' ORDER BY id LIMIT 1"
    ).fetchone()[0]
    pause = f"UPDATE pgsync_modules.template SET status = 'PAUSED' WHERE id = {template}"
    with (
        changed(dsn, pause) as notice,
        waiting(
            database, notice, lambda: whatsapp.template_sync(connection_id=connection.id)
        ) as sync,
    ):
        assert not sync.done()
        notice.commit()
        sync.result(60)
    # The API still says that it is approved: that is a change of what the notice had said.
    events = database.execute(
        "SELECT before, after FROM pgsync_modules.template_event WHERE template_id = %s",
        [template],
    ).fetchall()
    assert events == [("PAUSED", "APPROVED")]
    status = database.execute(
        "SELECT status FROM pgsync_modules.template WHERE id = %s", [template]
    )
    assert status.fetchone() == ("APPROVED",)


def test_what_a_notice_tells_while_a_listing_is_read_is_not_undone_by_it(
    whatsapp: WhatsApp, connection: Connection, database: Any, dsn: str
) -> None:
    whatsapp.template_sync(connection_id=connection.id)
    template = database.execute(
        "SELECT id FROM pgsync_modules.template WHERE status = 'APPROVED' ORDER BY id LIMIT 1"
    ).fetchone()[0]
    pause = f"UPDATE pgsync_modules.template SET status = 'PAUSED' WHERE id = {template}"
    with (
        changed(dsn, pause) as notice,
        waiting(
            database, notice, lambda: whatsapp.template_sync(connection_id=connection.id)
        ) as sync,
    ):
        # The listing was read before, and still has it as approved.
        notice.execute(
            "INSERT INTO pgsync_modules.template_event (template_id, event, before, after, said_at)"
            " VALUES (%s, 'status', 'APPROVED', 'PAUSED', clock_timestamp())",
            [template],
        )
        notice.commit()
        sync.result(60)
    found = "SELECT status FROM pgsync_modules.template WHERE id = %s"
    assert database.execute(found, [template]).fetchone() == ("PAUSED",)
    # A listing that was read later is later news.
    database.execute("UPDATE pgsync_modules.template_event SET said_at = said_at - interval '2 s'")
    whatsapp.template_sync(connection_id=connection.id)
    assert database.execute(found, [template]).fetchone() == ("APPROVED",)


def test_a_notice_waits_for_another_and_tells_what_was_before(
    whatsapp: WhatsApp, connection: Connection, database: Any, dsn: str
) -> None:
    whatsapp.template_sync(connection_id=connection.id)
    template, remote_id = database.execute(
        "SELECT id, remote_id FROM pgsync_modules.template WHERE status = 'APPROVED' LIMIT 1"
    ).fetchone()
    reject = f"UPDATE pgsync_modules.template SET status = 'REJECTED' WHERE id = {template}"

    def pause() -> str:
        return whatsapp.notices.record(connection.waba_id, remote_id, "status", "PAUSED", 4e9)

    with changed(dsn, reject) as other, waiting(database, other, pause) as notice:
        assert not notice.done()
        other.commit()
        assert notice.result(60) == "changed"
    events = database.execute(
        "SELECT before, after FROM pgsync_modules.template_event WHERE template_id = %s",
        [template],
    ).fetchall()
    assert events == [("REJECTED", "PAUSED")]


def test_recipients_are_not_added_to_a_campaign_that_is_just_starting(
    broadcasts: Broadcasts, new_campaign: NewCampaign, database: Any, dsn: str
) -> None:
    campaign = new_campaign(1)
    start = f"UPDATE pgsync_modules.campaign SET state = 'scheduled' WHERE id = {campaign}"

    def add() -> int:
        return broadcasts.campaigns.add_phones(campaign, ["+4915119999999"])

    with changed(dsn, start) as starting, waiting(database, starting, add) as adding:
        assert not adding.done()
        starting.commit()
        with pytest.raises(CampaignStateError, match="is scheduled"):
            adding.result(60)
    count = database.execute("SELECT count(*) FROM pgsync_modules.campaign_recipient")
    assert count.fetchone() == (1,)


def test_a_campaign_is_not_completed_while_a_status_makes_a_recipient_pending_again(
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    sessions: sessionmaker[Session],
    database: Any,
) -> None:
    campaign = new_campaign(1)
    broadcasts.campaigns.schedule(campaign)
    broadcasts.campaigns.begin(campaign)
    (recipient,) = database.execute(
        "UPDATE pgsync_modules.campaign_recipient SET state = 'sent', message_id = 'wamid.1'"
        " RETURNING id"
    ).fetchone()
    told = {"id": recipient, "message_id": "wamid.1", "at": 1.7e9, "error_code": 131049}
    with sessions() as session:
        assert _move(session, {**told, "status": "failed"})
        holder = session.connection().connection.dbapi_connection
        with waiting(database, holder, lambda: broadcasts.campaigns.complete(campaign)) as ending:
            assert not ending.done()
            session.commit()
            assert ending.result(60) is False
    assert states_of(database, campaign) == {"pending": 1}


def test_two_starts_at_once_take_the_audience_once(
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    connection: Connection,
    database: Any,
    dsn: str,
) -> None:
    new_campaign(0)
    campaign = broadcasts.campaigns.create(
        workspace_id=connection.workspace_id,
        connection_id=connection.id,
        name="To all",
        template_name="hello",
        language="de",
        audience=Audience(),
    )
    database.execute(
        "INSERT INTO pgsync_modules.contact (workspace_id, phone) VALUES (%s, '+4915112000001')",
        [connection.workspace_id],
    )
    take = f"UPDATE pgsync_modules.campaign SET audience_taken_at = now() WHERE id = {campaign}"
    with (
        changed(dsn, take) as first,
        waiting(database, first, lambda: broadcasts.start(campaign)) as second,
    ):
        assert not second.done()
        first.commit()
        # What the first took is all there is: here, nobody.
        with pytest.raises(CampaignStateError, match="no recipients"):
            second.result(60)


def test_a_claim_passes_over_who_is_claimed_just_now_and_does_not_wait(
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    sessions: sessionmaker[Session],
    database: Any,
    dsn: str,
) -> None:
    campaign = new_campaign(2)
    broadcasts.campaigns.schedule(campaign)
    assert broadcasts.campaigns.begin(campaign)
    first, second = (
        row[0]
        for row in database.execute("SELECT id FROM pgsync_modules.campaign_recipient ORDER BY id")
    )
    claim = f"UPDATE pgsync_modules.campaign_recipient SET state = 'sending' WHERE id = {first}"
    with (
        changed(dsn, claim) as other,
        waiting(database, other, lambda: Recipients(sessions, campaign).claim(2)) as claiming,
    ):
        assert claiming.done()
        claims, skipped = claiming.result()
        assert ([each.id for each in claims], skipped) == ([second], 0)
