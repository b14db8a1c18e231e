"""Places, products, offers, flows and carousels: checked before the first send, and filled."""

from __future__ import annotations

from typing import Any

import pytest

from pgsync import Coordinator
from pgsync.modules.broadcasts import Audience, Broadcasts
from pgsync.modules.models import Connection
from pgsync.modules.whatsapp.errors import GraphError
from pgsync.modules.whatsapp.filling import Filling
from pgsync.modules.whatsapp.standin import GraphStandin
from tests.modules.broadcasts.offers import NewOffer, refused, send, sent_components

ADA, BO = "+4915112000001", "+4915112000002"
BODY = {"type": "BODY", "text": "Hello {{1}}"}
PLACE = {"type": "HEADER", "format": "LOCATION"}
OFFER = {
    "type": "LIMITED_TIME_OFFER",
    "limited_time_offer": {"text": "Now or never", "has_expiration": True},
}
GATE = {
    "header.latitude": "52.5163",
    "header.longitude": "13.3777",
    "header.name": "Gate",
    "header.address": "Pariser Platz",
}


def _buttons(*buttons: dict[str, Any]) -> dict[str, Any]:
    return {"type": "BUTTONS", "buttons": list(buttons)}


def _carousel(cards: int) -> dict[str, Any]:
    link = {"type": "URL", "text": "Shop", "url": "https://shop.example/{{1}}"}
    reply = {"type": "QUICK_REPLY", "text": "More"}
    card = [
        {"type": "HEADER", "format": "IMAGE"},
        {"type": "BODY", "text": "{{1}} for {{2}}"},
        _buttons(reply, link),
    ]
    return {"type": "CAROUSEL", "cards": [{"components": card}] * cards}


FLOW = _buttons({"type": "FLOW", "text": "Book", "flow_action": "NAVIGATE"})
SCREENS = _buttons({"type": "FLOW", "text": "Book", "flow_action": "DATA_EXCHANGE"})
MPM = _buttons({"type": "MPM", "text": "View items"})


def _cards(number: int) -> dict[str, str]:
    return {
        f"card.{number}.header": f"https://cdn.example/{number}.jpg",
        f"card.{number}.body.1": f"Plant {number}",
        f"card.{number}.body.2": "9 EUR",
        f"card.{number}.button.1": f"plant-{number}",
    }


def test_a_carousel_shows_all_its_cards_with_what_is_each_recipients(
    sync: Coordinator, broadcasts: Broadcasts, new_offer: NewOffer, standin: GraphStandin
) -> None:
    campaign = new_offer(BODY, _carousel(2), constants={**_cards(0), **_cards(1)})
    own = {"body.1": "Ada", "card.1.body.2": "7 EUR", "card.1.button.0": "more"}
    broadcasts.campaigns.add_phones(campaign, [ADA], own)
    (message,) = broadcasts.dry_run(campaign)["messages"]
    assert message["text"] == "Hello Ada\n[0] Plant 0 for 9 EUR\n[1] Plant 1 for 7 EUR"
    send(broadcasts, sync, campaign)
    ((body, carousel),) = sent_components(standin)
    assert body["parameters"] == [{"type": "text", "text": "Ada"}]
    assert carousel["type"] == "carousel"
    first, second = carousel["cards"]
    assert first == {
        "card_index": 0,
        "components": [
            _image("https://cdn.example/0.jpg"),
            {"type": "body", "parameters": [_text("Plant 0"), _text("9 EUR")]},
            _button("url", 1, "text", "plant-0"),
        ],
    }
    assert second == {
        "card_index": 1,
        "components": [
            _image("https://cdn.example/1.jpg"),
            {"type": "body", "parameters": [_text("Plant 1"), _text("7 EUR")]},
            _button("quick_reply", 0, "payload", "more"),
            _button("url", 1, "text", "plant-1"),
        ],
    }


def _text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def _image(link: str) -> dict[str, Any]:
    return {"type": "header", "parameters": [{"type": "image", "image": {"link": link}}]}


def _button(sub_type: str, index: int, kind: str, value: Any) -> dict[str, Any]:
    parameters = [{"type": kind, kind: value}]
    return {"type": "button", "sub_type": sub_type, "index": str(index), "parameters": parameters}


def test_a_place_and_the_end_of_an_offer_come_from_contacts_and_constants(
    sync: Coordinator,
    broadcasts: Broadcasts,
    new_offer: NewOffer,
    standin: GraphStandin,
    database: Any,
    connection: Connection,
) -> None:
    database.execute(
        "INSERT INTO pgsync_modules.contact (workspace_id, phone, name, custom)"
        ' VALUES (%s, %s, \'Ada\', \'{"shop": "Park", "until": "4102444800000"}\')',
        [connection.workspace_id, ADA],
    )
    campaign = new_offer(
        PLACE,
        OFFER,
        BODY,
        audience=Audience(),
        variables={
            "body.1": "name",
            "header.name": "custom.shop",
            "offer.expires": "custom.until",
        },
        constants=GATE,
    )
    send(broadcasts, sync, campaign)
    place = {
        "latitude": "52.5163",
        "longitude": "13.3777",
        "name": "Park",
        "address": "Pariser Platz",
    }
    kind = "limited_time_offer"
    assert sent_components(standin) == [
        [
            {"type": "header", "parameters": [{"type": "location", "location": place}]},
            {
                "type": kind,
                "parameters": [{"type": kind, kind: {"expiration_time_ms": 4102444800000}}],
            },
            {"type": "body", "parameters": [_text("Ada")]},
        ]
    ]


def test_a_flow_is_named_and_takes_a_token_and_data(
    sync: Coordinator, broadcasts: Broadcasts, new_offer: NewOffer, standin: GraphStandin
) -> None:
    campaign = new_offer(BODY, FLOW)
    broadcasts.campaigns.add_phones(campaign, [BO], ["Bo"])
    own = {"body.1": "Ada", "button.0.token": "t1", "button.0.data": {"seats": [1, 2]}}
    broadcasts.campaigns.add_phones(campaign, [ADA], own)
    send(broadcasts, sync, campaign)
    bare, filled = sorted((parts[1] for parts in sent_components(standin)), key=len)
    assert bare == {"type": "button", "sub_type": "flow", "index": "0"}
    action = {"flow_token": "t1", "flow_action_data": {"seats": [1, 2]}}
    assert filled == _button("flow", 0, "action", action)


def test_products_are_shown_one_by_one_in_sections_and_by_the_whole_catalog(
    sync: Coordinator, broadcasts: Broadcasts, new_offer: NewOffer, standin: GraphStandin
) -> None:
    sections = "New: sku1,sku2; Popular: sku3"
    constants = {"button.0.thumbnail": "sku1", "button.0.sections": sections}
    campaign = new_offer(BODY, MPM, constants=constants)
    broadcasts.campaigns.add_phones(campaign, [ADA], ["Ada"])
    send(broadcasts, sync, campaign)
    ((_, button),) = sent_components(standin)
    assert button == _button(
        "mpm",
        0,
        "action",
        {
            "thumbnail_product_retailer_id": "sku1",
            "sections": [
                {"title": "New", "product_items": [_product("sku1"), _product("sku2")]},
                {"title": "Popular", "product_items": [_product("sku3")]},
            ],
        },
    )


def _product(sku: str) -> dict[str, str]:
    return {"product_retailer_id": sku}


def _skus(number: int) -> str:
    return ",".join(f"sku{n}" for n in range(number))


ALL = [PLACE, OFFER, BODY, _buttons(*FLOW["buttons"], *MPM["buttons"]), _carousel(2)]
FIT = {
    **GATE,
    **_cards(0),
    **_cards(1),
    "offer.expires": "4102444800000",
    "body.1": "Ada",
    "button.1.thumbnail": "sku1",
    "button.1.sections": "New: sku1",
}
VALUES = [
    ("header.latitude", ["-90", "90.0", "89.999", "7", 52.5], ["90.1", "-91", "52,5", "N 52"]),
    ("header.longitude", ["-180.0", "179.9", "0"], ["180.01", "200", "1e2"]),
    ("header.address", ["x" * 1024], ["two\nlines", " ", "x" * 1025]),
    (
        "offer.expires",
        [4102444800001],
        ["4102444800", "2027-01-01", "0102444800000", "1000000000000"],
    ),
    ("button.0.token", ["t"], [" ", "x" * 1025]),
    (
        "button.0.data",
        [{"a": [1]}, '{"a": 1}', "{}"],
        ['{"a": "b"', "[1]", [1], '{"a": "\\u0000"}', '{"a":' * 1500],
    ),
    ("button.1.thumbnail", ["x" * 100], ["a b", "x" * 101]),
    (
        "button.1.sections",
        [
            *("A: b", "A:b,c;B:d", f"{'x' * 24}: b"),
            *(f"A: {_skus(30)}", f"A: {_skus(15)}; B: {_skus(15)}", "; ".join(["A: b"] * 10)),
        ],
        [
            *("b", ": b", "A:", "A: b;", "A: b c", "A: b,,c", f"{'x' * 25}: b"),
            *(f"A: {_skus(31)}", f"A: {_skus(15)}; B: {_skus(16)}", "; ".join(["A: b"] * 11)),
        ],
    ),
    ("card.1.header", ["1234567"], ["picture.jpg"]),
    ("card.0.body.2", ["9 EUR"], ["     "]),
    ("card.0.button.1", ["a"], ["a b"]),
]
"""Of a slot: values that fit, and values that do not."""


def test_each_value_of_each_recipient_is_judged_before_the_first_send(
    broadcasts: Broadcasts, new_offer: NewOffer, standin: GraphStandin
) -> None:
    campaign = new_offer(*ALL, constants=FIT)
    numbers = iter(range(4915112000001, 4915112001000))
    for name, fit, _ in VALUES:
        for value in fit:
            broadcasts.campaigns.add_phones(campaign, [f"+{next(numbers)}"], {name: value})
    assert broadcasts.preflight(campaign).problems == ()
    expected = set()
    for name, _, unfit in VALUES:
        phones = [f"+{next(numbers)}" for _ in unfit]
        expected.add(f"{len(unfit)} recipients (the first is {phones[0]}) need for {name}")
        for phone, value in zip(phones, unfit, strict=True):
            broadcasts.campaigns.add_phones(campaign, [phone], {name: value})
    problems = broadcasts.preflight(campaign).problems
    assert {" ".join(problem.split()[:9]) for problem in problems} == expected
    refused(broadcasts, campaign)
    assert standin.log.accepted == {}


@pytest.mark.parametrize(
    ("component", "required"),
    [
        (PLACE, set(GATE)),
        (OFFER, {"offer.expires"}),
        (FLOW, set()),
        (MPM, {"button.0.thumbnail", "button.0.sections"}),
        (_buttons({"type": "CATALOG"}), {"button.0.thumbnail"}),
        ({"type": "HEADER", "format": "PRODUCT"}, {"header.product", "header.catalog"}),
        (_carousel(2), {*_cards(0), *_cards(1)}),
    ],
)
def test_a_template_says_what_it_cannot_do_without(
    component: dict[str, Any], required: set[str]
) -> None:
    assert {slot.name for slot in Filling([component]).slots if slot.required} == required


def test_nobody_is_sent_to_without_what_the_template_needs(
    broadcasts: Broadcasts, new_offer: NewOffer
) -> None:
    campaign = new_offer(*ALL)
    broadcasts.campaigns.add_phones(campaign, [ADA], ["Ada"])
    problems = broadcasts.preflight(campaign).problems
    needed = {problem.split(" need for ")[1].split()[0] for problem in problems}
    assert needed == set(FIT) - {"body.1"}


def test_the_first_screen_of_a_flow_that_asks_a_server_takes_no_data(
    broadcasts: Broadcasts, new_offer: NewOffer
) -> None:
    campaign = new_offer(BODY, SCREENS, constants={"button.0.data": {"a": 1}})
    broadcasts.campaigns.add_phones(campaign, [ADA], ["Ada"])
    assert "its constants fill button.0.data, and the template has no such slot" in refused(
        broadcasts, campaign
    )


@pytest.mark.parametrize(
    ("component", "values"),
    [
        (FLOW, {"button.0.data": "{"}),
        (FLOW, {"button.0.data": '{"a": 1e999}'}),
        (FLOW, {"button.0.data": "[" * 8000}),
        (OFFER, {"offer.expires": "soon"}),
        (MPM, {"button.0.thumbnail": "a", "button.0.sections": "nothing"}),
        (PLACE, {"header.latitude": "52"}),
        (_carousel(1), {}),
    ],
)
def test_what_does_not_fit_is_left_to_the_api_to_refuse(
    broadcasts: Broadcasts, new_offer: NewOffer, component: dict[str, Any], values: dict[str, str]
) -> None:
    campaign = new_offer(BODY, component)
    with pytest.raises(GraphError):
        broadcasts.test_send(campaign, BO, {"body.1": "me", **values})


def test_who_comes_up_after_the_end_of_the_offer_is_skipped(
    sync: Coordinator,
    broadcasts: Broadcasts,
    new_offer: NewOffer,
    standin: GraphStandin,
    database: Any,
) -> None:
    campaign = new_offer(OFFER, BODY, constants={"offer.expires": 4102444800000})
    broadcasts.campaigns.add_phones(campaign, [ADA], ["Ada"])
    still = {"body.1": "Bo", "offer.expires": "4102444800001"}
    broadcasts.campaigns.add_phones(campaign, [BO], still)
    broadcasts.start(campaign)
    # As if the offer had ended meanwhile, on which Ada's message rests.
    database.execute(
        "UPDATE pgsync_modules.campaign SET constants = '{\"offer.expires\": 1000000000000}'"
    )
    sync.run_worker(queues=["campaigns"], drain=True)
    assert broadcasts.campaigns.state_of(campaign) == "completed"
    assert list(standin.log.accepted.values()) == [1]
    rows = database.execute(
        "SELECT state, error FROM pgsync_modules.campaign_recipient ORDER BY phone"
    )
    assert rows.fetchall() == [("skipped", "the offer has ended"), ("sent", None)]


def test_an_offer_without_a_shown_end_has_nothing_to_fill() -> None:
    offer = {"type": "LIMITED_TIME_OFFER", "limited_time_offer": {"text": "Now or never"}}
    filling = Filling([offer])
    assert (filling.slots, filling.problems, filling.components({})) == ([], [], [])
