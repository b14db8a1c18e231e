"""Status webhooks: repeated, out of order, early; signed, and counted once."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import requests

from pgsync import Coordinator
from pgsync.modules.broadcasts import Broadcasts, webhook_app
from pgsync.modules.broadcasts.models import Campaign
from pgsync.modules.broadcasts.sending import callback_data
from pgsync.modules.whatsapp.standin import GraphStandin
from tests.eventually import eventually
from tests.modules.broadcasts.looking import states_of
from tests.serving import serving

NewCampaign = Callable[[int], int]


@pytest.fixture
def webhook_url(broadcasts: Broadcasts, standin: GraphStandin) -> Iterator[str]:
    """Serves the webhook endpoint on a free port."""
    app = webhook_app(broadcasts, app_secret=standin.app_secret, verify_token="shake")
    with serving(app) as url:
        yield f"{url}/"


def _recipient(database: Any) -> Any:
    return database.execute(
        "SELECT state, sent_at IS NOT NULL, delivered_at IS NOT NULL, read_at IS NOT NULL"
        " FROM pgsync_modules.campaign_recipient"
    ).fetchone()


def _named(database: Any, campaign: int, recipient: int) -> str:
    (made,) = database.execute(
        "SELECT created_at FROM pgsync_modules.campaign WHERE id = %s", [campaign]
    ).fetchone()
    return callback_data(Campaign(id=campaign, created_at=made), recipient, 1)


@pytest.fixture
def message_id(broadcasts: Broadcasts, new_campaign: NewCampaign, database: Any) -> str:
    """The id of a message that was sent to the only recipient of a campaign."""
    campaign = new_campaign(1)
    broadcasts.campaigns.schedule(campaign)
    broadcasts.campaign_sending(campaign_id=campaign)
    row = database.execute("SELECT message_id FROM pgsync_modules.campaign_recipient").fetchone()
    return str(row[0])


@pytest.mark.parametrize(
    "order", list(itertools.permutations(["sent", "failed", "delivered", "read"]))[::3]
)
def test_the_order_of_statuses_does_not_matter(
    broadcasts: Broadcasts, message_id: str, database: Any, order: tuple[str, ...]
) -> None:
    for status in (*order, *order):
        broadcasts.campaign_status_update(message_id=message_id, status=status, at=1_700_000_000.0)
    assert _recipient(database) == ("read", True, True, True)


@pytest.mark.parametrize("order", [("delivered", "failed"), ("failed", "delivered")])
def test_a_failure_counts_nothing_against_a_delivery(
    broadcasts: Broadcasts, message_id: str, database: Any, order: tuple[str, ...]
) -> None:
    for status in order:
        broadcasts.statuses.record(message_id, status, 1_700_000_000.0, error_code=131026)
    row = database.execute(
        "SELECT state, error, error_code, failed_at FROM pgsync_modules.campaign_recipient"
    ).fetchone()
    assert row == ("delivered", None, None, None)


def test_who_opts_out_by_a_status_is_no_longer_written_to(
    broadcasts: Broadcasts, new_campaign: NewCampaign, message_id: str
) -> None:
    broadcasts.campaign_status_update(
        message_id=message_id, status="failed", at=1_700_000_000.0, error_code=131050
    )
    later = new_campaign(0)
    assert broadcasts.campaigns.add_phones(later, ["+4915112000000", "+4915112000001"]) == 1


@pytest.fixture
def sending_on(broadcasts: Broadcasts, new_campaign: NewCampaign, database: Any) -> int:
    """A campaign that has sent one message, has another to send, and has the first one's id."""
    campaign = new_campaign(2)
    broadcasts.campaigns.schedule(campaign)
    database.execute(
        "UPDATE pgsync_modules.campaign_recipient SET send_after = now() + interval '1 h'"
        " WHERE phone = '+4915112000001'"
    )
    broadcasts.campaign_sending(campaign_id=campaign)
    assert states_of(database, campaign) == {"sent": 1, "pending": 1}
    return campaign


@pytest.mark.parametrize("code", [131042, 131048, 132015, 190])
def test_an_error_that_concerns_all_pauses_the_campaign_also_where_a_status_tells_of_it(
    broadcasts: Broadcasts, sending_on: int, database: Any, code: int
) -> None:
    found = "SELECT message_id FROM pgsync_modules.campaign_recipient WHERE state = 'sent'"
    (message_id,) = database.execute(found).fetchone()
    broadcasts.statuses.record(message_id, "failed", 1_700_000_000.0, error_code=code)
    row = database.execute("SELECT state, state_reason FROM pgsync_modules.campaign").fetchone()
    assert row == ("paused", f"the API reports error {code} of a message")
    # The person who starts it again has heard of it: its coming again is no news.
    broadcasts.start(sending_on)
    broadcasts.campaigns.begin(sending_on)
    broadcasts.statuses.record(message_id, "failed", 1_700_000_000.0, error_code=code)
    assert broadcasts.campaigns.state_of(sending_on) == "sending"


def test_who_is_to_get_it_tomorrow_does_also_where_a_status_says_so(
    broadcasts: Broadcasts, sending_on: int, standin: GraphStandin, database: Any
) -> None:
    found = "SELECT message_id, id FROM pgsync_modules.campaign_recipient WHERE state = 'sent'"
    message_id, recipient = database.execute(found).fetchone()
    named = _named(database, sending_on, recipient)
    for _ in range(2):  # It comes twice, and is one failure.
        broadcasts.statuses.record(message_id, "failed", 1_700_000_000.0, named, 131049)
    later = (
        "SELECT state, failures, send_after > now() + interval '23 h'"
        " FROM pgsync_modules.campaign_recipient WHERE id = %s"
    )
    assert database.execute(later, [recipient]).fetchone() == ("pending", 1, True)
    database.execute("UPDATE pgsync_modules.campaign_recipient SET send_after = NULL")
    assert broadcasts.campaign_sending(campaign_id=sending_on)["state"] == "completed"
    assert standin.log.accepted == {"4915112000000": 2, "4915112000001": 1}
    # Of a campaign that has ended it is final.
    (again,) = database.execute(
        "SELECT message_id FROM pgsync_modules.campaign_recipient WHERE id = %s", [recipient]
    ).fetchone()
    broadcasts.statuses.record(again, "failed", 1_700_000_001.0, error_code=131049)
    assert states_of(database, sending_on) == {"failed": 1, "sent": 1}


def test_who_is_to_get_it_tomorrow_has_failed_after_ten_times(
    broadcasts: Broadcasts, sending_on: int, database: Any
) -> None:
    (message_id,) = database.execute(
        "UPDATE pgsync_modules.campaign_recipient SET failures = 9 WHERE state = 'sent'"
        " RETURNING message_id"
    ).fetchone()
    broadcasts.statuses.record(message_id, "failed", 1_700_000_000.0, error_code=131049)
    assert states_of(database, sending_on) == {"failed": 1, "pending": 1}


def test_a_parked_failure_undoes_no_parked_delivery(
    broadcasts: Broadcasts, sending_on: int, database: Any
) -> None:
    for status in ("failed", "delivered"):
        broadcasts.statuses.record("wamid.early", status, 1_700_000_000.0, error_code=131049)
    database.execute(
        "UPDATE pgsync_modules.campaign_recipient SET message_id = 'wamid.early'"
        " WHERE state = 'sent'"
    )
    assert broadcasts.statuses.unpark() == 2
    assert states_of(database, sending_on) == {"delivered": 1, "pending": 1}


def test_a_message_that_failed_for_today_and_was_delivered_all_the_same_is_not_sent_again(
    broadcasts: Broadcasts, sending_on: int, database: Any
) -> None:
    found = "SELECT message_id, id FROM pgsync_modules.campaign_recipient WHERE state = 'sent'"
    message_id, recipient = database.execute(found).fetchone()
    named = _named(database, sending_on, recipient)
    broadcasts.statuses.record(message_id, "failed", 1_700_000_000.0, named, 131049)
    assert broadcasts.statuses.record(message_id, "read", 1_700_000_000.0, named) == "recorded"
    assert states_of(database, sending_on) == {"read": 1, "pending": 1}


def test_an_unknown_recipient_is_settled_by_its_callback_data(
    broadcasts: Broadcasts, new_campaign: NewCampaign, standin: GraphStandin, database: Any
) -> None:
    campaign = new_campaign(1)
    standin.inject("reset", path="messages", accept=True)
    broadcasts.campaigns.schedule(campaign)
    broadcasts.campaign_sending(campaign_id=campaign)
    assert _recipient(database)[0] == "unknown"
    (recipient,) = database.execute("SELECT id FROM pgsync_modules.campaign_recipient").fetchone()
    outcome = broadcasts.campaign_status_update(
        message_id="wamid.settled",
        status="delivered",
        at=1_700_000_000.0,
        callback_data=_named(database, campaign, recipient),
    )
    assert outcome == {"outcome": "recorded"}
    assert _recipient(database)[0] == "delivered"


def test_the_message_of_another_installation_on_the_same_account_settles_nobody(
    broadcasts: Broadcasts, new_campaign: NewCampaign, standin: GraphStandin, database: Any
) -> None:
    campaign = new_campaign(1)
    standin.inject("reset", path="messages", accept=True)
    broadcasts.campaigns.schedule(campaign)
    broadcasts.campaign_sending(campaign_id=campaign)
    (recipient,) = database.execute("SELECT id FROM pgsync_modules.campaign_recipient").fetchone()
    ours = _named(database, campaign, recipient)
    theirs = re.sub(r"-(\d+):", lambda made: f"-{int(made[1]) + 1}:", ours)
    older = re.sub(r"-\d+:", ":", ours)
    record, at = broadcasts.statuses.record, 1_700_000_000.0
    assert record("wamid.theirs", "delivered", at, theirs) == "parked"
    assert _recipient(database)[0] == "unknown"
    assert record("wamid.ours", "delivered", at, older) == "recorded"
    assert _recipient(database)[0] == "delivered"


@pytest.mark.parametrize("status", ["sent", "delivered"])
def test_a_status_settles_an_unknown_one_that_is_to_be_sent_again(
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    standin: GraphStandin,
    database: Any,
    status: str,
) -> None:
    campaign = new_campaign(1)
    standin.inject("reset", path="messages", accept=True)
    broadcasts.start(campaign)
    broadcasts.campaign_sending(campaign_id=campaign)
    assert broadcasts.campaigns.retry_unknown(campaign, timedelta(0)) == 1
    (recipient,) = database.execute("SELECT id FROM pgsync_modules.campaign_recipient").fetchone()
    told = {"at": 1_700_000_000.0, "callback_data": _named(database, campaign, recipient)}
    assert broadcasts.statuses.record("wamid.1", status, **told) == "recorded"
    broadcasts.start(campaign)
    assert broadcasts.campaign_sending(campaign_id=campaign)["state"] == "completed"
    assert _recipient(database)[0] == status
    assert sum(standin.log.accepted.values()) == 1


def test_an_unknown_one_that_turns_out_to_have_failed_is_sent_again_as_asked(
    broadcasts: Broadcasts, new_campaign: NewCampaign, standin: GraphStandin, database: Any
) -> None:
    campaign = new_campaign(1)
    standin.inject("reset", path="messages")
    broadcasts.start(campaign)
    broadcasts.campaign_sending(campaign_id=campaign)
    broadcasts.campaigns.retry_unknown(campaign, timedelta(0))
    (recipient,) = database.execute("SELECT id FROM pgsync_modules.campaign_recipient").fetchone()
    named = _named(database, campaign, recipient)
    told = broadcasts.statuses.record("wamid.1", "failed", 1_700_000_000.0, named, 131026)
    assert told == "old"
    broadcasts.start(campaign)
    broadcasts.campaign_sending(campaign_id=campaign)
    assert _recipient(database)[0] == "sent"


def test_old_news_of_a_failed_message_does_not_undo_that_it_is_tried_again(
    broadcasts: Broadcasts, message_id: str, standin: GraphStandin, database: Any
) -> None:
    campaign, recipient = database.execute(
        "SELECT campaign_id, id FROM pgsync_modules.campaign_recipient"
    ).fetchone()
    told = {"at": 1_700_000_000.0, "callback_data": _named(database, campaign, recipient)}
    broadcasts.statuses.record(message_id, "failed", error_code=131026, **told)
    broadcasts.campaigns.retry_failed(campaign)
    # The API repeats what it told.
    for status in ("sent", "failed"):
        assert broadcasts.statuses.record(message_id, status, **told) == "old"
    broadcasts.start(campaign)
    broadcasts.campaign_sending(campaign_id=campaign)
    row = database.execute(
        "SELECT state, attempt, failed_at, message_id <> %s FROM pgsync_modules.campaign_recipient",
        [message_id],
    ).fetchone()
    assert row == ("sent", 2, None, True)


def test_a_status_before_its_message_is_parked_and_applied(
    broadcasts: Broadcasts, new_campaign: NewCampaign, database: Any
) -> None:
    new_campaign(1)
    parked = broadcasts.statuses.record("wamid.early", "delivered", 1_700_000_000.0)
    assert parked == "parked"
    database.execute(
        "UPDATE pgsync_modules.campaign_recipient SET state = 'sent', message_id = 'wamid.early'"
    )
    assert broadcasts.statuses.unpark() == 1
    assert _recipient(database)[0] == "delivered"
    assert broadcasts.statuses.unpark() == 0


def test_a_status_is_not_lost_where_its_id_is_stored_while_it_is_parked(
    broadcasts: Broadcasts, new_campaign: NewCampaign, database: Any
) -> None:
    new_campaign(1)
    # The sender stores the id after the status looked for it, and finds nothing parked yet.
    database.execute(
        """
        CREATE FUNCTION pg_temp.stored() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            UPDATE pgsync_modules.campaign_recipient SET state = 'sent', message_id = 'wamid.race';
            RETURN new;
        END $$;
        CREATE TRIGGER stored BEFORE INSERT ON pgsync_modules.parked_status
            FOR EACH ROW EXECUTE FUNCTION pg_temp.stored();
        """
    )
    assert broadcasts.statuses.record("wamid.race", "read", 1_700_000_000.0) == "recorded"
    assert _recipient(database)[0] == "read"


def test_statuses_that_nobody_will_ask_for_are_forgotten(
    broadcasts: Broadcasts, database: Any
) -> None:
    for message in ("wamid.old", "wamid.new"):
        broadcasts.statuses.record(message, "sent", 1_700_000_000.0)
    database.execute(
        "UPDATE pgsync_modules.parked_status SET parked_at = now() - interval '9 days'"
        " WHERE message_id = 'wamid.old'"
    )
    assert broadcasts.statuses.unpark() == 0
    left = database.execute("SELECT message_id FROM pgsync_modules.parked_status").fetchall()
    assert left == [("wamid.new",)]


def test_webhooks_doubled_and_shuffled_settle_a_campaign(
    broadcasts: Broadcasts,
    new_campaign: NewCampaign,
    standin: GraphStandin,
    webhook_url: str,
    sync: Coordinator,
    database: Any,
) -> None:
    campaign = new_campaign(10)
    standin.send_webhooks(webhook_url, statuses=("sent", "delivered", "read"), copies=2)
    broadcasts.campaigns.schedule(campaign)
    broadcasts.campaign_sending(campaign_id=campaign)
    standin.webhooks.flush()

    def settled() -> bool:
        sync.run_worker(queues=["webhooks"], drain=True)
        rows = database.execute("SELECT DISTINCT state FROM pgsync_modules.campaign_recipient")
        return rows.fetchall() == [("read",)]

    eventually(settled, 30)


def test_the_handshake_wants_the_token(webhook_url: str) -> None:
    query = {"hub.mode": "subscribe", "hub.challenge": "1158201444"}
    right = requests.get(webhook_url, {**query, "hub.verify_token": "shake"}, timeout=60)
    assert (right.status_code, right.text) == (200, "1158201444")
    wrong = requests.get(webhook_url, {**query, "hub.verify_token": "guess"}, timeout=60)
    assert wrong.status_code == 403


def test_a_malformed_status_does_not_lose_the_others(
    webhook_url: str, standin: GraphStandin, database: Any
) -> None:
    good = {"id": "wamid.good", "status": "read", "timestamp": "1700000000"}
    bad: list[Any] = [
        {**good, "id": "wamid.a", "timestamp": "yesterday"},
        {**good, "id": "wamid.b", "timestamp": "nan"},
        {**good, "id": "wamid.c", "errors": {"code": 131026}},
        {**good, "id": "wamid.\x00"},
        "read",
        None,
    ]
    event = {"entry": [{"changes": [{"value": {"statuses": [*bad, good]}}]}]}
    body = json.dumps(event).encode()
    secret = standin.app_secret.encode()
    signature = "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()
    headers = {"X-Hub-Signature-256": signature}
    assert requests.post(webhook_url, body, headers=headers, timeout=60).status_code == 200
    jobs = database.execute("SELECT args ->> 'message_id' FROM pgsync.jobs").fetchall()
    assert jobs == [("wamid.good",)]


def test_an_event_with_a_wrong_signature_is_refused(webhook_url: str, database: Any) -> None:
    for headers in ({}, {"X-Hub-Signature-256": "sha256=" + "0" * 64}):
        answer = requests.post(webhook_url, b"{}", headers=headers, timeout=60)
        assert answer.status_code == 403
    assert database.execute("SELECT count(*) FROM pgsync.jobs").fetchone() == (0,)
