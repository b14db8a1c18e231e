"""Who gets a campaign: the filter's contacts at the start, with their fields, minus opt-outs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pgsync import InvalidArgument
from pgsync.modules.broadcasts import Audience, Broadcasts, CampaignStateError, PreflightFailed
from pgsync.modules.models import Connection
from pgsync.modules.whatsapp.standin import GraphStandin

NewCampaign = Callable[[int], int]


@pytest.fixture
def contacts(connection: Connection, database: Any) -> None:
    """Five contacts, of whom three have the tag and the field, and one of these opted out."""
    database.execute(
        "INSERT INTO pgsync_modules.contact (workspace_id, phone, name, company, tags, custom,"
        " status) SELECT %s, '+491511200000' || n, name, 'Acme', tags, custom, status"
        " FROM (VALUES (1, 'A', '{vip}'::text[], '{\"city\": \"Ulm\"}'::jsonb, 'active'),"
        " (2, 'B', '{vip}', '{\"city\": \"Ulm\"}', 'opted_out'),"
        " (3, 'C', '{vip,x}', '{\"city\": \"Ulm\", \"n\": 1}', 'active'),"
        " (4, 'D', '{vip}', '{}', 'active'), (5, 'E', '{}', '{\"city\": \"Ulm\"}', 'active'))"
        " AS v (n, name, tags, custom, status)",
        [connection.workspace_id],
    )


@pytest.fixture
def new_filtered(
    broadcasts: Broadcasts, new_campaign: NewCampaign, connection: Connection
) -> Callable[..., int]:
    """Makes drafts for the contacts with the tag and the field."""
    new_campaign(0)

    def make(**options: Any) -> int:
        settings: dict[str, Any] = {"template_name": "hello", "language": "de", **options}
        return broadcasts.campaigns.create(
            workspace_id=connection.workspace_id,
            connection_id=connection.id,
            name="Ulm",
            audience=Audience(tags=["vip"], custom={"city": "Ulm"}),
            **settings,
        )

    return make


def _recipients(database: Any, campaign: int) -> list[Any]:
    rows = database.execute(
        "SELECT phone, parameters FROM pgsync_modules.campaign_recipient"
        " WHERE campaign_id = %s ORDER BY phone",
        [campaign],
    )
    return [tuple(row) for row in rows]


@pytest.mark.usefixtures("contacts")
def test_the_audience_is_taken_at_the_start_and_not_again(
    broadcasts: Broadcasts, new_filtered: Callable[..., int], database: Any
) -> None:
    campaign = new_filtered()
    assert broadcasts.preflight(campaign).recipients == 2
    assert _recipients(database, campaign) == []
    broadcasts.start(campaign)
    expected = [("+4915112000001", ["A"]), ("+4915112000003", ["C"])]
    assert _recipients(database, campaign) == expected
    database.execute(
        "UPDATE pgsync_modules.contact SET tags = '{vip}', custom = '{\"city\": \"Ulm\"}'"
    )
    broadcasts.campaigns.begin(campaign)
    broadcasts.campaigns.pause(campaign, "by hand")
    broadcasts.start(campaign)
    assert _recipients(database, campaign) == expected


@pytest.mark.usefixtures("contacts")
def test_variables_come_from_the_contacts_fields(
    broadcasts: Broadcasts,
    new_filtered: Callable[..., int],
    connection: Connection,
    standin: GraphStandin,
    database: Any,
) -> None:
    standin.templates.add(name="four", language="de", body="{{1}} {{2}} {{3}} {{4}}")
    broadcasts.whatsapp.template_sync(connection_id=connection.id)
    fields = ["custom.city", "company", "phone", "name"]
    campaign = new_filtered(template_name="four", variables=fields)
    broadcasts.start(campaign)
    assert _recipients(database, campaign)[0][1] == ["Ulm", "Acme", "+4915112000001", "A"]
    # One without the field is found before the first send.
    missing = new_filtered(template_name="four", variables=["custom.street", *fields[1:]])
    with pytest.raises(PreflightFailed, match="2 recipients"):
        broadcasts.start(missing)
    with pytest.raises(InvalidArgument, match="no field 'password'"):
        new_filtered(variables=["password"])


@pytest.mark.usefixtures("contacts")
def test_who_opts_out_after_the_start_is_not_written_to(
    broadcasts: Broadcasts,
    new_filtered: Callable[..., int],
    standin: GraphStandin,
    database: Any,
) -> None:
    campaign = new_filtered()
    broadcasts.start(campaign)
    database.execute("UPDATE pgsync_modules.contact SET status = 'opted_out' WHERE name = 'A'")
    broadcasts.campaign_sending(campaign_id=campaign)
    assert standin.log.accepted == {"4915112000003": 1}


def test_failed_ones_are_tried_again_and_nobody_else(
    broadcasts: Broadcasts, new_campaign: NewCampaign, standin: GraphStandin, database: Any
) -> None:
    campaign = new_campaign(5)
    standin.inject("error", to="+4915112000001", path="messages", code=131026)
    standin.inject("error", to="+4915112000002", path="messages", code=131050)
    broadcasts.start(campaign)
    broadcasts.campaign_sending(campaign_id=campaign)
    assert broadcasts.campaigns.retry_failed(campaign) == 1
    broadcasts.start(campaign)
    assert broadcasts.campaign_sending(campaign_id=campaign)["state"] == "completed"
    # Who opted out stays failed, and all others were written to once.
    assert "4915112000002" not in standin.log.accepted
    assert set(standin.log.accepted.values()) == {1}
    with pytest.raises(CampaignStateError, match="no failed message"):
        broadcasts.campaigns.retry_failed(campaign)
    assert broadcasts.campaigns.state_of(campaign) == "completed"


def test_a_duplicate_is_a_draft_with_the_same_recipients(
    broadcasts: Broadcasts, new_campaign: NewCampaign, connection: Connection, database: Any
) -> None:
    campaign = new_campaign(3)
    broadcasts.start(campaign)
    broadcasts.campaign_sending(campaign_id=campaign)
    database.execute(
        "INSERT INTO pgsync_modules.contact (workspace_id, phone, status)"
        " VALUES (%s, '+4915112000001', 'opted_out')",
        [connection.workspace_id],
    )
    copy = broadcasts.campaigns.duplicate(campaign, "Again")
    row = database.execute(
        "SELECT name, state, recipients, pending FROM pgsync_modules.campaigns WHERE id = %s",
        [copy],
    ).fetchone()
    assert row == ("Again", "draft", 2, 2)


def test_unknown_ones_are_sent_again_only_by_choice_and_after_long(
    broadcasts: Broadcasts, new_campaign: NewCampaign, standin: GraphStandin, database: Any
) -> None:
    campaign = new_campaign(3)
    standin.inject("reset", to="+4915112000001", path="messages", accept=False)
    broadcasts.start(campaign)
    assert broadcasts.campaign_sending(campaign_id=campaign)["state"] == "completed"
    with pytest.raises(CampaignStateError, match="no unknown message"):
        broadcasts.campaigns.retry_unknown(campaign)
    database.execute(
        "UPDATE pgsync_modules.campaign_recipient SET unknown_at = unknown_at - interval '7 days'"
    )
    assert broadcasts.campaigns.retry_unknown(campaign) == 1
    broadcasts.start(campaign)
    assert broadcasts.campaign_sending(campaign_id=campaign)["state"] == "completed"
    assert set(standin.log.accepted.values()) == {1}
    assert len(standin.log.accepted) == 3
