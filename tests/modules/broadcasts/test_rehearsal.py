"""Before the start: what stands in the way, what the messages say, and one to look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pgsync.modules.broadcasts import Broadcasts, PreflightFailed
from pgsync.modules.models import Connection
from pgsync.modules.whatsapp import WhatsApp
from pgsync.modules.whatsapp.standin import GraphStandin

NewCampaign = Callable[[int], int]


def _refused(broadcasts: Broadcasts, campaign: int) -> str:
    with pytest.raises(PreflightFailed) as refused:
        broadcasts.start(campaign)
    assert broadcasts.campaigns.state_of(campaign) == "draft"
    assert broadcasts.preflight(campaign) == refused.value.report
    return str(refused.value)


def test_a_campaign_that_is_fit_passes(broadcasts: Broadcasts, new_campaign: NewCampaign) -> None:
    report = broadcasts.preflight(new_campaign(2))
    assert (report.ok, report.recipients, report.problems, report.warnings) == (True, 2, (), ())


def test_a_disabled_connection_stops_it(
    broadcasts: Broadcasts, new_campaign: NewCampaign, whatsapp: WhatsApp, connection: Connection
) -> None:
    campaign = new_campaign(1)
    whatsapp.connections.disable(connection.id, "the token was refused")
    assert "disabled (the token was refused)" in _refused(broadcasts, campaign)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("status = 'PAUSED'", "is PAUSED"),
        ("name = 'other'", "is not known; sync"),
        ("remotely_deleted_at = now()", "is not known; sync"),
        ('components = components || \'[{"type": "HEADER", "format": "GIF"}]\'', "format GIF"),
        ('components = components || \'[{"type": "CAROUSEL"}]\'', "carousel without"),
    ],
)
def test_a_template_that_cannot_be_sent_stops_it(
    broadcasts: Broadcasts, new_campaign: NewCampaign, database: Any, change: str, problem: str
) -> None:
    campaign = new_campaign(1)
    database.execute(f"UPDATE pgsync_modules.template SET {change} WHERE name = 'hello'")
    assert problem in _refused(broadcasts, campaign)


@pytest.mark.parametrize("parameters", [[], ["a", "b"], [" "], ["two\nlines"], ["x" * 1025]])
def test_variables_that_do_not_fit_one_recipient_stop_it_before_the_first_send(
    broadcasts: Broadcasts, new_campaign: NewCampaign, standin: GraphStandin, parameters: list[str]
) -> None:
    campaign = new_campaign(2)
    broadcasts.campaigns.add_phones(campaign, ["+4915119999999"], parameters)
    message = _refused(broadcasts, campaign)
    assert "1 recipients (the first is +4915119999999)" in message
    assert standin.log.accepted == {}


def test_a_template_that_was_not_synced_for_a_day_is_a_warning(
    broadcasts: Broadcasts, new_campaign: NewCampaign, database: Any
) -> None:
    campaign = new_campaign(1)
    database.execute("UPDATE pgsync_modules.template SET last_synced_at = now() - interval '25 h'")
    report = broadcasts.preflight(campaign)
    assert report.ok
    assert report.warnings == ("the template was not synced for a day",)
    stale = database.execute("SELECT bool_and(stale) FROM pgsync_modules.templates").fetchone()
    assert stale == (True,)


def test_a_dry_run_shows_the_messages_and_sends_none(
    broadcasts: Broadcasts, new_campaign: NewCampaign, standin: GraphStandin
) -> None:
    campaign = new_campaign(1)
    broadcasts.campaigns.add_phones(campaign, ["+4915119999999"], ["Zoë"])
    run = broadcasts.dry_run(campaign)
    assert run["ok"]
    assert run["messages"] == [
        {"to": "+4915112000000", "text": "Hello +4915112000000"},
        {"to": "+4915119999999", "text": "Hello Zoë"},
    ]
    assert standin.log.accepted == {}


def test_a_test_send_goes_to_one_number_and_is_no_recipient(
    broadcasts: Broadcasts, new_campaign: NewCampaign, standin: GraphStandin
) -> None:
    campaign = new_campaign(1)
    message_id = broadcasts.test_send(campaign, "+4915119999999", ["me"])
    assert standin.log.message(message_id).to == "4915119999999"
    assert broadcasts.preflight(campaign).recipients == 1
