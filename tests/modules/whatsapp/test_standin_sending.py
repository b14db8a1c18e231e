"""Messages, limits and faults of the stand-in, seen by a plain HTTP client."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from pgsync.modules.whatsapp.standin import Fault, GraphStandin, Throttle
from pgsync.modules.whatsapp.standin.samples import STATUSES
from tests.modules.whatsapp.calls import TO, Api, body, part

# Sending


def test_a_message_is_accepted(api: Api) -> None:
    answer = api.send("+49 151 12345678")
    assert answer.status_code == 200
    assert answer.json()["contacts"] == [{"input": "+49 151 12345678", "wa_id": "4915112345678"}]
    (message,) = answer.json()["messages"]
    assert message["id"].startswith("wamid.")
    assert message["message_status"] == "accepted"


@pytest.mark.parametrize(
    ("change", "code", "status"),
    [
        ({"messaging_product": "sms"}, 100, 400),
        ({"to": ""}, 100, 400),
        ({"to": "12"}, 131009, 400),
        ({"to": "+1 555 001 0001"}, 131021, 400),
        ({"type": "sticker"}, 131051, 400),
        ({"type": "text"}, 131008, 400),
        ({"template": None}, 131008, 400),
        ({"template": {"name": "hello"}}, 131008, 400),
        ({"template": {"name": "hello", "language": {"code": "fr"}}}, 132001, 404),
        ({"biz_opaque_callback_data": "x" * 513}, 100, 400),
        ({"biz_opaque_callback_data": 7}, 100, 400),
    ],
)
def test_a_wrong_payload_is_refused(
    api: Api, graph: GraphStandin, change: dict[str, Any], code: int, status: int
) -> None:
    template = {"name": "hello", "language": {"code": "de"}, "components": [body("Ada")]}
    right = {"messaging_product": "whatsapp", "to": TO, "type": "template", "template": template}
    answer = api.post(right | change)
    assert (answer.json()["error"]["code"], answer.status_code) == (code, status)
    assert not graph.log.accepted


@pytest.mark.parametrize(
    ("components", "code"),
    [
        ([], 132000),
        ([body("Ada", "Bob")], 132000),
        ([part("body", {"type": "image", "image": {}})], 132012),
        ([part("body", {"type": "text"})], 131008),
        ([body("two\nlines")], 132018),
        ([body("x" * 1025)], 132005),
        (["body"], 132012),
    ],
)
def test_wrong_parameters_are_refused(api: Api, components: list[Any], code: int) -> None:
    assert api.send(components=components).json()["error"]["code"] == code


def first_of(graph: GraphStandin, prefix: str) -> dict[str, Any]:
    found = [each for each in graph.templates.all("APPROVED") if each["name"].startswith(prefix)]
    return {"name": found[0]["name"], "language": {"code": found[0]["language"]}}


def test_headers_and_buttons_need_their_parameters(api: Api, graph: GraphStandin) -> None:
    offer = first_of(graph, "season_offer")
    text = {"type": "text", "text": "Spring"}
    right = [
        part("header", text),
        part("body", text),
        part("button", text, sub_type="url", index=0),
    ]
    assert api.send(**offer, components=right).status_code == 200
    for missing, code in enumerate((132000, 132000, 131008)):
        partly = [each for at, each in enumerate(right) if at != missing]
        assert api.send(**offer, components=partly).json()["error"]["code"] == code
    wrong = [*right[:2], part("button", text, sub_type="quick_reply", index=0)]
    assert api.send(**offer, components=wrong).json()["error"]["code"] == 132012

    picture = first_of(graph, "new_arrival")
    image = part("header", {"type": "image", "image": {"link": "https://cdn.example/1.jpg"}})
    assert api.send(**picture, components=[image, body("Ada")]).status_code == 200
    wrong = [part("header", text), body("Ada")]
    assert api.send(**picture, components=wrong).json()["error"]["code"] == 132012


def button(index: int, sub_type: str, **parameter: Any) -> dict[str, Any]:
    return part("button", parameter, sub_type=sub_type, index=str(index))


_COUPON = button(2, "copy_code", type="coupon_code", coupon_code="SPRING25")


@pytest.mark.parametrize(
    ("components", "code"),
    [
        ([_COUPON], None),
        ([_COUPON, button(0, "quick_reply", type="payload", payload="stop")], None),
        ([], 131008),
        ([button(2, "copy_code", type="coupon_code", coupon_code="20 %")], 132012),
        ([button(2, "copy_code", type="coupon_code", coupon_code="x" * 16)], 132012),
        ([button(2, "copy_code", type="text", text="SPRING25")], 132012),
        ([_COUPON, button(0, "quick_reply", type="text", text="stop")], 132012),
        ([_COUPON, button(1, "url", type="text", text="+491")], 100),
        ([_COUPON, button(1, "phone_number", type="text", text="+491")], 100),
        ([_COUPON, button(3, "url", type="text", text="spring")], 100),
        ([_COUPON, part("header", {"type": "text", "text": "Spring"})], 132000),
    ],
)
def test_a_buttons_parameter_must_be_of_its_type(
    api: Api, graph: GraphStandin, components: list[Any], code: int | None
) -> None:
    name = f"coupon_{len(graph.templates)}"
    buttons = [
        {"type": "QUICK_REPLY", "text": "Not for me"},
        {"type": "PHONE_NUMBER", "text": "Call us", "phone_number": "+15550783881"},
        {"type": "COPY_CODE", "example": "SUMMER24"},
    ]
    parts = [{"type": "BODY", "text": "Take it."}, {"type": "BUTTONS", "buttons": buttons}]
    graph.templates.add(name=name, language="en_US", components=parts)
    answer = api.send(name=name, language={"code": "en_US"}, components=components).json()
    assert answer.get("error", {}).get("code") == code


@pytest.mark.parametrize(
    ("medium", "code"),
    [
        ({"id": "1234567"}, None),
        ({"link": "https://cdn.example/1.pdf", "filename": "Offer.pdf"}, None),
        ({"link": "cdn.example/1.pdf"}, 100),
        ({"id": "mine"}, 100),
        ({}, 131008),
        ({"id": "1", "link": "https://cdn.example/1.pdf"}, 131008),
    ],
)
def test_a_medium_has_an_id_or_a_link(
    api: Api, graph: GraphStandin, medium: dict[str, str], code: int | None
) -> None:
    name = f"paper_{len(graph.templates)}"
    parts = [{"type": "HEADER", "format": "DOCUMENT"}, {"type": "BODY", "text": "Read it."}]
    graph.templates.add(name=name, language="en_US", components=parts)
    header = part("header", {"type": "document", "document": medium})
    answer = api.send(name=name, language={"code": "en_US"}, components=[header]).json()
    assert answer.get("error", {}).get("code") == code


def test_named_parameters_need_their_names(api: Api, graph: GraphStandin) -> None:
    named = first_of(graph, "appointment")
    first = {"type": "text", "parameter_name": "first_name", "text": "Ada"}
    second = {"type": "text", "parameter_name": "day", "text": "Monday"}
    assert api.send(**named, components=[part("body", second, first)]).status_code == 200
    answer = api.send(**named, components=[body("Ada", "Monday")])
    assert answer.json()["error"]["code"] == 132012


@pytest.mark.parametrize(
    ("status", "code"),
    [(status, 132001) for status in STATUSES if status not in ("APPROVED", "PAUSED", "DISABLED")]
    + [("PAUSED", 132015), ("DISABLED", 132016)],
)
def test_only_approved_templates_are_sent(
    api: Api, graph: GraphStandin, status: str, code: int
) -> None:
    name = f"shelved_{status.lower()}"
    graph.templates.add(name=name, language="de", status=status)
    assert api.send(name=name, components=[]).json()["error"]["code"] == code


def test_duplicate_sends_are_those_of_one_campaign(api: Api, graph: GraphStandin) -> None:
    for data in ("campaign:7:1", "campaign:8:1", "campaign:8:2"):
        api.send(data=data)
    api.send("+4915100000001", data="campaign:7:2")
    digits = TO.removeprefix("+")
    assert graph.log.duplicate_sends == {(digits, "hello", "campaign:8"): 2}
    assert graph.log.accepted == {digits: 3, "4915100000001": 1}


# Throttles


@pytest.mark.parametrize("code", [4, 80007, 130429, 131056])
def test_a_limit_is_answered_with_its_code_and_headers(
    api: Api, graph: GraphStandin, code: int
) -> None:
    graph.throttle(2, per=300, code=code)
    answers = [api.send() for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 400]
    assert answers[2].json()["error"]["code"] == code
    assert 1 <= int(answers[2].headers["Retry-After"]) <= 300
    usage = json.loads(answers[2].headers["X-Business-Use-Case-Usage"])
    (case,) = usage[graph.waba_id]
    assert case["estimated_time_to_regain_access"] == 5
    assert case["call_count"] == 100
    assert json.loads(answers[2].headers["X-App-Usage"])["call_count"] == 100
    (before,) = json.loads(answers[0].headers["X-Business-Use-Case-Usage"])[graph.waba_id]
    assert (before["call_count"], before["estimated_time_to_regain_access"]) == (50, 0)
    assert sum(graph.log.accepted.values()) == 2


def test_limits_count_what_they_are_for(api: Api, graph: GraphStandin) -> None:
    graph.throttle(1, per=300, code=131056)
    assert api.send().status_code == 200
    assert api.send("+4915100000001").status_code == 200
    assert api.send().json()["error"]["code"] == 131056
    assert "data" in api.templates()
    graph.clear_throttles()
    assert api.send().status_code == 200


def test_a_window_ends() -> None:
    throttle = Throttle(1, per=10)
    assert throttle.hit("a", now=100.0) == (1, 10.0)
    assert throttle.hit("a", now=104.0) == (2, 6.0)
    assert throttle.hit("b", now=104.0) == (1, 10.0)
    assert throttle.hit("a", now=110.0) == (1, 10.0)
    with pytest.raises(ValueError, match="scope"):
        Throttle(1, per=1, scope="moon")


# Faults


def test_a_fault_meets_the_requests_that_it_is_meant_for(api: Api, graph: GraphStandin) -> None:
    graph.inject("error", code=131026, to=TO, times=2)
    graph.inject("error", code=4, method="GET", status=418, subcode=9, details="why")
    assert api.send("+4915100000001").status_code == 200
    assert api.send().json()["error"]["code"] == 131026
    answer = api.get(f"{graph.waba_id}/message_templates")
    assert answer.status_code == 418
    assert answer.json()["error"]["error_subcode"] == 9
    assert answer.json()["error"]["error_data"]["details"] == "why"
    assert api.send().json()["error"]["code"] == 131026
    assert api.send().status_code == 200
    assert [entry.faults for entry in graph.log.entries()] == [
        *((), ("error",), ("error",), ("error",), ()),
    ]


def test_broken_answers_are_broken(api: Api, graph: GraphStandin) -> None:
    graph.inject("invalid_json", accept=True)
    answer = api.send()
    assert answer.status_code == 200
    with pytest.raises(requests.JSONDecodeError):
        answer.json()
    for kind in ("reset", "truncated"):
        graph.inject(kind)
        with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
            api.send()
    graph.inject("html")
    assert api.send().status_code == 502
    assert [entry.status for entry in graph.log.entries()] == [200, 0, 0, 502]
    assert sum(graph.log.accepted.values()) == 1


def test_an_unknown_fault_is_refused(graph: GraphStandin) -> None:
    with pytest.raises(ValueError, match="earthquake"):
        graph.inject("earthquake")
    with pytest.raises(ValueError, match="depth"):
        Fault.read({"kind": "reset", "depth": 3})
