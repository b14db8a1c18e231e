"""The webhooks of the stand-in, as their receiver sees them."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pgsync.modules.whatsapp.standin import GraphStandin
from tests.modules.whatsapp.calls import TO, TOKEN, make, send

SECRET = "app-secret"


class Receiver:
    """Records webhooks; answers 500 to the first ``refuse`` of them."""

    def __init__(self) -> None:
        self.received: list[tuple[bytes, str]] = []
        self.refuse = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.received.append((body, self.headers["X-Hub-Signature-256"]))
                refused = receiver.refuse > 0
                receiver.refuse -= int(refused)
                self.send_response(500 if refused else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/webhook"

    @property
    def envelopes(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body, _ in self.received]

    @property
    def statuses(self) -> list[dict[str, Any]]:
        return [
            status
            for envelope in self.envelopes
            for entry in envelope["entry"]
            for change in entry["changes"]
            for status in change["value"]["statuses"]
        ]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever, args=(0.01,))
    thread.start()
    yield receiver
    receiver.server.shutdown()
    thread.join()
    receiver.server.server_close()


@pytest.fixture
def graph() -> Iterator[GraphStandin]:
    with GraphStandin(token=TOKEN, templates=3, app_secret=SECRET) as graph:
        graph.templates.add(name="hello", language="de", body="Hello {{1}}")
        yield graph


def words(receiver: Receiver) -> list[str]:
    return [status["status"] for status in receiver.statuses]


def test_the_statuses_of_a_message_arrive_signed(graph: GraphStandin, receiver: Receiver) -> None:
    graph.send_webhooks(receiver.url)
    with make(graph) as client:
        sent = send(client, graph, data="campaign:7:1")
    assert graph.webhooks.flush()
    assert words(receiver) == ["sent", "delivered", "read"]
    for status in receiver.statuses:
        assert status["id"] == sent.message_id
        assert status["recipient_id"] == TO.removeprefix("+")
        assert status["biz_opaque_callback_data"] == "campaign:7:1"
        assert status["timestamp"].isdigit()
    envelope = receiver.envelopes[0]
    assert envelope["object"] == "whatsapp_business_account"
    assert envelope["entry"][0]["id"] == graph.waba_id
    change = envelope["entry"][0]["changes"][0]
    assert change["field"] == "messages"
    assert change["value"]["metadata"]["phone_number_id"] == graph.phone_number_id
    for body, signature in receiver.received:
        expected = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        assert signature == f"sha256={expected}"


def test_the_first_status_can_come_before_the_answer(
    graph: GraphStandin, receiver: Receiver
) -> None:
    graph.send_webhooks(receiver.url, early=True, delay=3600)
    with make(graph) as client:
        send(client, graph)
        assert words(receiver) == ["sent"]


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ({"copies": 2}, ["sent", "sent", "delivered", "delivered", "read", "read"]),
        ({"order": "reversed"}, ["read", "delivered", "sent"]),
        ({"statuses": ("delivered",)}, ["delivered"]),
        ({"failures": {"4915112345678": 131026}}, ["failed"]),
    ],
)
def test_statuses_are_doubled_reordered_and_failed(
    graph: GraphStandin, receiver: Receiver, plan: dict[str, Any], expected: list[str]
) -> None:
    graph.send_webhooks(receiver.url, **plan)
    with make(graph) as client:
        send(client, graph)
    assert graph.webhooks.flush()
    assert words(receiver) == expected


def test_a_shuffled_plan_sends_each_status_once(graph: GraphStandin, receiver: Receiver) -> None:
    graph.send_webhooks(receiver.url, order="shuffled")
    with make(graph) as client:
        send(client, graph)
    assert graph.webhooks.flush()
    assert sorted(words(receiver)) == ["delivered", "read", "sent"]


def test_a_failed_status_names_its_error(graph: GraphStandin, receiver: Receiver) -> None:
    graph.send_webhooks(receiver.url, statuses=())
    with make(graph) as client:
        sent = send(client, graph)
    assert graph.post_status(sent.message_id, "failed", code=131049) == 200
    (status,) = receiver.statuses
    (error,) = status["errors"]
    assert error["code"] == 131049
    assert error["title"]
    assert error["error_data"]["details"]
    with pytest.raises(KeyError):
        graph.post_status("wamid.unknown", "sent")


def test_a_dropped_send_is_told_of_by_webhook(graph: GraphStandin, receiver: Receiver) -> None:
    graph.send_webhooks(receiver.url, statuses=("sent",))
    graph.inject("reset", accept=True)
    with make(graph) as client, pytest.raises(Exception, match="connection failed"):
        send(client, graph, data="campaign:7:1")
    assert graph.webhooks.flush()
    assert receiver.statuses[0]["biz_opaque_callback_data"] == "campaign:7:1"


def test_a_held_message_has_no_statuses(graph: GraphStandin, receiver: Receiver) -> None:
    graph.send_webhooks(receiver.url)
    graph.inject("held")
    with make(graph) as client:
        send(client, graph)
    assert graph.webhooks.flush()
    assert receiver.received == []


def test_a_refused_webhook_is_repeated(graph: GraphStandin, receiver: Receiver) -> None:
    receiver.refuse = 1
    graph.send_webhooks(receiver.url, statuses=("sent",))
    with make(graph) as client:
        send(client, graph)
    assert graph.webhooks.flush()
    assert words(receiver) == ["sent", "sent"]
    assert [delivery.status for delivery in graph.webhooks.deliveries] == [500, 200]


def test_template_events_arrive(graph: GraphStandin, receiver: Receiver) -> None:
    graph.send_webhooks(receiver.url)
    template = graph.templates.find("hello", "de")
    assert template is not None
    assert graph.post_template_status(template["id"], "PAUSED", reason="INCORRECT_CATEGORY") == 200
    change = receiver.envelopes[0]["entry"][0]["changes"][0]
    assert change == {
        "field": "message_template_status_update",
        "value": {
            "event": "PAUSED",
            "reason": "INCORRECT_CATEGORY",
            "message_template_id": int(template["id"]),
            "message_template_name": "hello",
            "message_template_language": "de",
        },
    }


def test_no_receiver_is_an_error_of_the_caller(graph: GraphStandin) -> None:
    template = graph.templates.all()[0]
    with pytest.raises(RuntimeError, match="receiver"):
        graph.post_template_status(template["id"], "PAUSED")
