"""What an answer means, and what was certainly not sent."""

from __future__ import annotations

import socket
import ssl
from functools import partial
from typing import Any

import pytest
import requests
import urllib3.connection
import urllib3.exceptions

from pgsync.modules.whatsapp import bodies
from pgsync.modules.whatsapp.errors import (
    GraphError,
    GraphInterrupted,
    GraphUnreachable,
)
from pgsync.modules.whatsapp.graph import GraphClient, Sent
from pgsync.modules.whatsapp.standin import GraphStandin
from pgsync.modules.whatsapp.transport import certainly_unsent
from tests.modules.whatsapp.calls import BODY, TO, TOKEN, listed, posts, send
from tests.threads import at_once


def test_a_refused_connection_is_not_ambiguous() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}"
        calls: list[None] = []
        with GraphClient(
            token=TOKEN, base_url=closed, backoff=0.0, before_call=lambda: calls.append(None)
        ) as client:
            with pytest.raises(GraphUnreachable) as caught:
                client.send_template("2", to=TO, template="hello", language="de")
            assert not caught.value.ambiguous
            assert len(calls) == 1
            with pytest.raises(GraphUnreachable):
                list(client.template_pages("1"))
            assert len(calls) == 1 + 4


@pytest.mark.parametrize(
    ("reason", "unsent"),
    [
        (urllib3.exceptions.NewConnectionError(None, "refused"), True),  # type: ignore[arg-type]
        (urllib3.exceptions.ConnectTimeoutError(), True),
        (urllib3.exceptions.SSLError(ssl.SSLCertVerificationError()), True),
        (
            urllib3.exceptions.ProxyError("", urllib3.exceptions.ConnectTimeoutError()),
            True,
        ),
        (urllib3.exceptions.ProxyError("", OSError("Tunnel connection failed")), False),
        (urllib3.exceptions.SSLError("decryption failed"), False),
        (urllib3.exceptions.ReadTimeoutError(None, "", ""), False),  # type: ignore[arg-type]
        (urllib3.exceptions.ProtocolError("Connection aborted."), False),
    ],
)
def test_what_came_before_sending_is_told_apart(reason: Exception, unsent: bool) -> None:
    retries = urllib3.exceptions.MaxRetryError(None, "/", reason)  # type: ignore[arg-type]
    assert certainly_unsent(requests.ConnectionError(retries)) is unsent
    assert certainly_unsent(requests.ConnectionError(reason)) is unsent


def test_an_unknown_host_counts_as_not_sent() -> None:
    unknown = urllib3.exceptions.NameResolutionError("h", None, socket.gaierror())  # type: ignore[arg-type]
    assert certainly_unsent(requests.ConnectionError(unknown))


def test_a_send_returns_what_the_api_said(client: GraphClient, graph: GraphStandin) -> None:
    answer = send(client, graph, data="campaign:7:recipient:9")
    (message,) = graph.log.messages(TO)
    assert answer == Sent(message.id, "accepted", "4915112345678")
    assert message.callback_data == "campaign:7:recipient:9"
    (entry,) = graph.log.entries()
    assert entry.body == {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "to": TO,
        "type": "template",
        "template": {"name": "hello", "language": {"code": "de"}, "components": BODY},
        "biz_opaque_callback_data": "campaign:7:recipient:9",
    }


@pytest.mark.parametrize(
    ("kind", "status"), [("held", "held_for_quality_assessment"), ("paused", "paused")]
)
def test_a_held_message_is_told_apart(
    client: GraphClient, graph: GraphStandin, kind: str, status: str
) -> None:
    graph.inject(kind)
    assert send(client, graph).status == status
    assert send(client, graph).status == "accepted"


def test_an_answer_without_a_message_id_is_ambiguous() -> None:
    answers: list[dict[str, Any]] = [{}, {"messages": []}, {"messages": [{"id": ""}]}]
    for answer in [*answers, {"messages": "x"}]:
        with pytest.raises(GraphInterrupted) as caught:
            bodies.sent(answer)
        assert caught.value.ambiguous


def test_a_listing_without_data_is_an_error() -> None:
    for body in ({}, {"data": None}, {"data": ["x"]}):
        with pytest.raises(GraphInterrupted):
            bodies.templates(body)


def test_a_body_that_is_too_large_is_not_read(
    client: GraphClient, graph: GraphStandin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "_LARGEST_BODY", 1000)
    with pytest.raises(GraphInterrupted, match="larger than 1000 bytes"):
        listed(client, graph)


def test_an_unknown_phone_number_is_refused(client: GraphClient, graph: GraphStandin) -> None:
    with pytest.raises(GraphError) as caught:
        client.send_template("999", to=TO, template="hello", language="de")
    assert (caught.value.code, caught.value.subcode) == (100, 33)


def test_many_threads_share_a_client(client: GraphClient, graph: GraphStandin) -> None:
    def work(worker: int) -> None:
        for number in range(25):
            send(client, graph, to=f"+49151{worker:03d}{number:05d}")

    at_once(partial(work, worker) for worker in range(8))
    assert len(graph.log.accepted) == posts(graph) == 200
    assert not graph.log.duplicate_sends


def test_connections_are_used_again_also_after_a_refusal(
    client: GraphClient, graph: GraphStandin, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    connect = urllib3.connection.HTTPConnection.connect

    def counted(connection: urllib3.connection.HTTPConnection) -> None:
        opened.append(connection)
        connect(connection)

    monkeypatch.setattr(urllib3.connection.HTTPConnection, "connect", counted)
    graph.inject("error", path="messages", code=131026)
    with pytest.raises(GraphError):
        send(client, graph)
    for _ in range(5):
        send(client, graph)
        listed(client, graph, page_size=10)
    # One for what may be repeated, and one for what may not.
    assert len(opened) == 2
