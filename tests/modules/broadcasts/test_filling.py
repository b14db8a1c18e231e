"""Headers, buttons and named variables of templates: checked before the first send, and filled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pgsync import Coordinator, InvalidArgument
from pgsync.modules.broadcasts import Audience, Broadcasts
from pgsync.modules.models import Connection
from pgsync.modules.whatsapp.filling import Filling
from pgsync.modules.whatsapp.standin import GraphStandin
from tests.modules.broadcasts.offers import NewOffer, refused, send, sent_components

PICTURE = "https://cdn.example/spring.jpg"
BODY = {"type": "BODY", "text": "Hello {{1}}"}
BUTTONS = {
    "type": "BUTTONS",
    "buttons": [
        {"type": "QUICK_REPLY", "text": "Stop"},
        {"type": "URL", "text": "Shop", "url": "https://shop.example/{{1}}"},
        {"type": "COPY_CODE", "example": "SUMMER24"},
        {"type": "PHONE_NUMBER", "text": "Call", "phone_number": "+15550783881"},
    ],
}
ORDER = {"type": "BUTTONS", "buttons": [{"type": "ORDER_DETAILS"}]}
NAMED = {"type": "BODY", "text": "Dear {{first_name}}, until {{day}}."}


@pytest.mark.parametrize(
    ("kind", "value", "medium"),
    [
        ("image", PICTURE, {"link": PICTURE}),
        ("image", "1234567", {"id": "1234567"}),
        ("video", "https://cdn.example/1.mp4", {"link": "https://cdn.example/1.mp4"}),
        ("document", "1234567", {"id": "1234567", "filename": "Offer.pdf"}),
    ],
)
def test_a_header_shows_a_medium_by_its_link_or_id(
    sync: Coordinator,
    broadcasts: Broadcasts,
    new_offer: NewOffer,
    standin: GraphStandin,
    kind: str,
    value: str,
    medium: dict[str, str],
) -> None:
    constants = {"header": value}
    if "filename" in medium:
        constants["header.filename"] = medium["filename"]
    campaign = new_offer({"type": "HEADER", "format": kind.upper()}, BODY, constants=constants)
    broadcasts.campaigns.add_phones(campaign, ["+4915112000001"], ["Ada"])
    send(broadcasts, sync, campaign)
    assert sent_components(standin) == [
        [
            {"type": "header", "parameters": [{"type": kind, kind: medium}]},
            {"type": "body", "parameters": [{"type": "text", "text": "Ada"}]},
        ]
    ]


def test_each_recipient_has_buttons_of_its_own(
    sync: Coordinator, broadcasts: Broadcasts, new_offer: NewOffer, standin: GraphStandin
) -> None:
    campaign = new_offer(BODY, BUTTONS, constants={"button.2": "SPRING25", "button.0": "stop"})
    for name, way in (("Ada", "a"), ("Bo", "b")):
        parameters = {"body.1": name, "button.1": way, "button.0": f"stop {name}"}
        broadcasts.campaigns.add_phones(campaign, [f"+491511200000{len(name)}"], parameters)
    copy = broadcasts.campaigns.duplicate(campaign)
    broadcasts.campaigns.cancel(campaign)
    send(broadcasts, sync, copy)
    buttons = [
        [part for part in parts if part["type"] == "button"] for parts in sent_components(standin)
    ]
    assert sorted(buttons, key=str) == [
        [
            _button(0, "quick_reply", "payload", f"stop {name}"),
            _button(1, "url", "text", way),
            _button(2, "copy_code", "coupon_code", "SPRING25"),
        ]
        for name, way in (("Ada", "a"), ("Bo", "b"))
    ]


def _button(index: int, sub_type: str, kind: str, value: str) -> dict[str, Any]:
    parameters = [{"type": kind, kind: value}]
    return {"type": "button", "sub_type": sub_type, "index": str(index), "parameters": parameters}


def test_named_variables_and_slots_are_filled_from_contacts(
    sync: Coordinator,
    broadcasts: Broadcasts,
    new_offer: NewOffer,
    standin: GraphStandin,
    database: Any,
    connection: Connection,
) -> None:
    database.execute(
        "INSERT INTO pgsync_modules.contact (workspace_id, phone, name, custom) VALUES"
        " (%(w)s, '+4915112000001', 'Ada', '{\"day\": \"Monday\"}'),"
        " (%(w)s, '+4915112000002', NULL, '{}')",
        {"w": connection.workspace_id},
    )
    header = {"type": "HEADER", "format": "TEXT", "text": "For {{who}}"}
    campaign = new_offer(
        header,
        NAMED,
        named=True,
        audience=Audience(),
        variables={"body.first_name": "name", "body.day": "custom.day", "header": "phone"},
        constants={"body.day": "Sunday"},
    )
    texts = [message["text"] for message in broadcasts.dry_run(campaign)["messages"]]
    assert texts == ["Dear Ada, until Monday.", "Dear +4915112000002, until Sunday."]
    send(broadcasts, sync, campaign)
    first, second = sorted(sent_components(standin), key=str)
    assert first == [
        {"type": "header", "parameters": [_named("who", "+4915112000001")]},
        {"type": "body", "parameters": [_named("first_name", "Ada"), _named("day", "Monday")]},
    ]
    assert second[1]["parameters"][1] == _named("day", "Sunday")


def _named(name: str, value: str) -> dict[str, str]:
    return {"type": "text", "text": value, "parameter_name": name}


def test_a_list_fills_named_variables_in_the_order_of_the_text(
    sync: Coordinator, broadcasts: Broadcasts, new_offer: NewOffer, standin: GraphStandin
) -> None:
    campaign = new_offer(NAMED, named=True)
    broadcasts.campaigns.add_phones(campaign, ["+4915112000001"], ["Ada", "Monday"])
    send(broadcasts, sync, campaign)
    ((body,),) = sent_components(standin)
    assert body["parameters"] == [_named("first_name", "Ada"), _named("day", "Monday")]


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"body.1": "Ada", "button.1": "a", "button.2": "A1"}, "for header a link or the id"),
        ({"body.1": "Ada", "button.1": "a", "button.2": "A1", "header": "x.jpg"}, "for header"),
        ({"header": "1", "button.1": "a", "button.2": "A1"}, "for body.1 text"),
        ({"header": "1", "body.1": "two\nlines", "button.1": "a", "button.2": "A1"}, "for body.1"),
        ({"header": "1", "body.1": "Ada", "button.2": "A1"}, "for button.1 the end of a link"),
        ({"header": "1", "body.1": "Ada", "button.1": "a b", "button.2": "A1"}, "for button.1"),
        (
            {"header": "1", "body.1": "Ada", "button.1": "a", "button.2": "20 %"},
            "for button.2 a code",
        ),
        (
            {
                "header": "1",
                "body.1": "A",
                "button.1": "a",
                "button.2": "A1",
                "button.0": "x" * 257,
            },
            "for button.0",
        ),
        (
            {"header": "1", "body.1": "A", "button.1": "a", "button.2": "A1", "body.2": "more"},
            "fill more slots than there are",
        ),
    ],
)
def test_what_one_recipient_lacks_stops_the_start_before_the_first_send(
    broadcasts: Broadcasts,
    new_offer: NewOffer,
    standin: GraphStandin,
    parameters: dict[str, str],
    problem: str,
) -> None:
    campaign = new_offer({"type": "HEADER", "format": "IMAGE"}, BODY, BUTTONS)
    fit = {"header": PICTURE, "body.1": "Bo", "button.1": "b", "button.2": "B2"}
    broadcasts.campaigns.add_phones(campaign, ["+4915112000001"], fit)
    broadcasts.campaigns.add_phones(campaign, ["+4915112000002"], parameters)
    message = refused(broadcasts, campaign)
    assert "1 recipients (the first is +4915112000002)" in message
    assert problem in message
    assert standin.log.accepted == {}


def test_a_list_is_judged_where_a_constant_would_fit(
    broadcasts: Broadcasts, new_offer: NewOffer
) -> None:
    campaign = new_offer(BODY, constants={"body.1": "you"})
    broadcasts.campaigns.add_phones(campaign, ["+4915112000001"], [])
    assert broadcasts.preflight(campaign).ok
    broadcasts.campaigns.add_phones(campaign, ["+4915112000002"], ["two\nlines"])
    assert "1 recipients (the first is +4915112000002) need for body.1" in refused(
        broadcasts, campaign
    )


def test_constants_that_the_template_has_no_slot_for_stop_the_start(
    broadcasts: Broadcasts, new_offer: NewOffer
) -> None:
    campaign = new_offer(BODY, constants={"header": PICTURE})
    broadcasts.campaigns.add_phones(campaign, ["+4915112000001"])
    assert "its constants fill header, and the template has no such slot" in refused(
        broadcasts, campaign
    )


@pytest.mark.parametrize(
    "name",
    [
        *("body", "body.", "footer", "button.x", "button.10", "Header", "header.size"),
        *("card.0", "card.10.header", "card.0.offer.expires", "button.0.code", "offer"),
    ],
)
def test_what_is_no_slot_is_refused_at_the_door(
    broadcasts: Broadcasts, new_campaign: Callable[[int], int], name: str
) -> None:
    campaign = new_campaign(1)
    with pytest.raises(InvalidArgument, match="no slot"):
        broadcasts.campaigns.add_phones(campaign, ["+4915112000009"], {name: "x"})


def test_a_test_send_fills_all_slots(
    broadcasts: Broadcasts, new_offer: NewOffer, standin: GraphStandin
) -> None:
    campaign = new_offer(
        {"type": "HEADER", "format": "IMAGE"}, BODY, BUTTONS, constants={"header": PICTURE}
    )
    parameters = {"body.1": "me", "button.1": "a", "button.2": "A1"}
    message_id = broadcasts.test_send(campaign, "+4915119999999", parameters)
    assert standin.log.message(message_id).to == "4915119999999"


def test_positional_variables_are_taken_by_their_number() -> None:
    filling = Filling([{"type": "BODY", "text": "{{2}} before {{10}} and {{1}}, {{2}} again"}])
    assert [slot.name for slot in filling.slots] == ["body.1", "body.2", "body.10"]
    assert filling.text(["a", "b", "c"]) == "b before c and a, b again"
    # One too many is sent, so that the API refuses the message rather than cutting it short.
    (body,) = filling.components(["a", "b", "c", "d"])
    assert [parameter["text"] for parameter in body["parameters"]] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("component", "problem"),
    [
        ({"type": "HEADER", "format": "GIF"}, "has a header of format GIF"),
        ({"type": "CALL_PERMISSION_REQUEST"}, "has a component CALL_PERMISSION_REQUEST"),
        (ORDER, "has a button of type ORDER_DETAILS"),
        ({"type": "CAROUSEL"}, "has a carousel without cards"),
        (
            {"type": "CAROUSEL", "cards": [{"components": [ORDER]}]},
            "has a button of type ORDER_DETAILS on card 0",
        ),
    ],
)
def test_what_campaigns_cannot_fill_is_said(component: dict[str, Any], problem: str) -> None:
    assert Filling([component]).problems == [problem]
