"""How the stand-in judges places, products, offers, flows and carousels, as the API documents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pgsync.modules.whatsapp.standin import GraphStandin
from tests.modules.whatsapp.calls import Api, body, part

Judge = Callable[[list[Any], list[Any]], int | None]

TEXT = {"type": "BODY", "text": "Look."}
PLACE = {"latitude": "52.5163", "longitude": "13.3777", "name": "Gate", "address": "Pariser Platz"}


@pytest.fixture
def judge(api: Api, graph: GraphStandin) -> Judge:
    """Sends components to a template of its own, and returns the error's code, if there is one."""

    def send(template: list[Any], components: list[Any]) -> int | None:
        name = f"judged_{len(graph.templates)}"
        graph.templates.add(name=name, language="en_US", components=template)
        answer = api.send(name=name, language={"code": "en_US"}, components=components).json()
        code = answer.get("error", {}).get("code")
        assert (code is None) == ("messages" in answer)
        return code if code is None else int(code)

    return send


def _with_one(kind: str, value: Any, component: str = "header", **more: Any) -> list[Any]:
    return [part(component, {"type": kind, kind: value}, **more)]


@pytest.mark.parametrize(
    ("components", "code"),
    [
        (_with_one("location", PLACE), None),
        (_with_one("location", {**PLACE, "latitude": 52.5163, "longitude": -13.3}), None),
        (_with_one("location", {**PLACE, "latitude": "north"}), 131009),
        (_with_one("location", {**PLACE, "address": ""}), 131008),
        (_with_one("location", {"latitude": "1", "longitude": "1"}), 131008),
        (_with_one("location", "Berlin"), 132012),
        (_with_one("image", {"id": "1"}), 132012),
        (_with_one("location", PLACE) * 2, 132000),
        ([], 132012),
    ],
)
def test_a_header_takes_a_whole_place(judge: Judge, components: list[Any], code: int) -> None:
    assert judge([{"type": "HEADER", "format": "LOCATION"}, TEXT], components) == code


@pytest.mark.parametrize(
    ("components", "code"),
    [
        (_with_one("product", {"catalog_id": "1", "product_retailer_id": "sku1"}), None),
        (_with_one("product", {"product_retailer_id": "sku1"}), 131008),
        (_with_one("product", {"catalog_id": "mine", "product_retailer_id": "sku1"}), 131009),
        ([], 132012),
    ],
)
def test_a_header_takes_a_product_of_a_catalog(
    judge: Judge, components: list[Any], code: int
) -> None:
    buttons = {"type": "BUTTONS", "buttons": [{"type": "SPM", "text": "View"}]}
    template = [{"type": "HEADER", "format": "PRODUCT"}, TEXT, buttons]
    assert judge(template, components) == code


def _ends(value: Any) -> list[Any]:
    return _with_one("limited_time_offer", value, "limited_time_offer")


@pytest.mark.parametrize(
    ("shown", "components", "code"),
    [
        (True, _ends({"expiration_time_ms": 4102444800000}), None),
        (True, _ends({"expiration_time_ms": "tomorrow"}), 100),
        (True, _ends({}), 131008),
        (True, [part("limited_time_offer", {"type": "text", "text": "soon"})], 132012),
        (True, [], 132012),
        (False, [], None),
        (False, _ends({"expiration_time_ms": 4102444800000}), 132000),
    ],
)
def test_an_offer_ends_where_the_template_says_that_it_does(
    judge: Judge, shown: bool, components: list[Any], code: int
) -> None:
    offer = {"text": "Now or never", "has_expiration": shown}
    template = [{"type": "LIMITED_TIME_OFFER", "limited_time_offer": offer}, TEXT]
    assert judge(template, components) == code


def _action(sub_type: str, value: Any) -> list[Any]:
    return _with_one("action", value, "button", sub_type=sub_type, index="0")


def _mpm(*sections: Any) -> list[Any]:
    return _action("mpm", {"thumbnail_product_retailer_id": "a", "sections": list(sections)})


def _section(title: str, *skus: str) -> dict[str, Any]:
    return {"title": title, "product_items": [{"product_retailer_id": sku} for sku in skus]}


_BARE_FLOW = [{"type": "button", "sub_type": "flow", "index": "0"}]


@pytest.mark.parametrize(
    ("kind", "components", "code"),
    [
        ("FLOW", _BARE_FLOW, None),
        ("FLOW", _action("flow", {"flow_token": "t", "flow_action_data": {"a": 1}}), None),
        ("FLOW", _action("flow", {"flow_action_data": "{"}), 100),
        ("FLOW", _action("mpm", {"flow_token": "t"}), 132012),
        ("FLOW", _with_one("payload", "t", "button", sub_type="flow", index="0"), 132012),
        ("FLOW", [], 131009),
        ("CATALOG", _action("CATALOG", {"thumbnail_product_retailer_id": "sku1"}), None),
        ("CATALOG", _action("CATALOG", {}), 131008),
        ("CATALOG", [{"type": "button", "sub_type": "catalog", "index": 0}], 131008),
        ("CATALOG", [], 131008),
        ("MPM", _mpm(_section("New", "a", "b"), _section("Popular", "c")), None),
        ("MPM", _mpm(), 131008),
        ("MPM", _mpm("New"), 100),
        ("MPM", _mpm(_section("", "a")), 131009),
        ("MPM", _mpm(_section("x" * 25, "a")), 131009),
        ("MPM", _mpm(_section("New")), 131009),
        ("MPM", _mpm(_section("New", *"abcdefghijklmnopqrstuvwxyz12345")), 131009),
        ("MPM", _mpm(*[_section(f"Part {n}", "a") for n in range(11)]), 131009),
        ("MPM", [], 131008),
    ],
)
def test_a_buttons_action_is_whole(
    judge: Judge, kind: str, components: list[Any], code: int
) -> None:
    buttons = {"type": "BUTTONS", "buttons": [{"type": kind, "text": "Open"}]}
    assert judge([TEXT, buttons], components) == code


def _picture(number: int) -> dict[str, Any]:
    image = {"link": f"https://cdn.example/{number}.jpg"}
    return part("header", {"type": "image", "image": image})


def _card(index: int, *components: Any) -> dict[str, Any]:
    return {"card_index": index, "components": list(components)}


def _end(text: str) -> dict[str, Any]:
    return part("button", {"type": "text", "text": text}, sub_type="url", index="0")


def _carousel(*cards: Any) -> list[Any]:
    return [{"type": "carousel", "cards": list(cards)}]


_FIRST = _card(0, _picture(0), body("Aloe"), _end("aloe"))
_SECOND = _card(1, _picture(1), body("Fern"), _end("fern"))


@pytest.mark.parametrize(
    ("components", "code"),
    [
        (_carousel(_FIRST, _SECOND), None),
        (_carousel(_SECOND, _FIRST), None),
        (_carousel(_FIRST), 132012),
        (_carousel(_FIRST, _SECOND, _card(2)), 132012),
        (_carousel(_FIRST, _FIRST), 132012),
        (_carousel(_FIRST, "card"), 132012),
        ([], 132012),
        (_carousel(_FIRST, _card(1, body("Fern"), _end("fern"))), 132012),
        (_carousel(_FIRST, _card(1, _picture(1), _end("fern"))), 132000),
        (_carousel(_FIRST, _card(1, _picture(1), body("Fern"))), 131008),
        (_carousel(_FIRST, _card(1, "picture")), 132012),
    ],
)
def test_all_cards_of_a_carousel_are_judged(judge: Judge, components: list[Any], code: int) -> None:
    link = {"type": "URL", "text": "Shop", "url": "https://shop.example/{{1}}"}
    card = {
        "components": [
            {"type": "HEADER", "format": "IMAGE"},
            {"type": "BODY", "text": "{{1}}"},
            {"type": "BUTTONS", "buttons": [link]},
        ]
    }
    assert judge([TEXT, {"type": "CAROUSEL", "cards": [card, card]}], components) == code


def test_a_carousel_that_the_template_has_not_is_refused(judge: Judge) -> None:
    assert judge([TEXT], _carousel(_FIRST)) == 132012
