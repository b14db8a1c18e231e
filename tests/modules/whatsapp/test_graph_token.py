"""The token is shown nowhere, and settings that cannot work are refused."""

from __future__ import annotations

import logging
import traceback
from typing import Any

import pytest
import requests

from pgsync.errors import InvalidArgument
from pgsync.modules.whatsapp.errors import (
    GraphDenied,
    GraphError,
)
from pgsync.modules.whatsapp.graph import GraphClient
from pgsync.modules.whatsapp.standin import GraphStandin
from tests.modules.whatsapp.calls import TO, TOKEN, listed, make, posts, send


@pytest.mark.parametrize(
    ("kind", "details"),
    [
        ("error", {"code": 190, "details": f"token {TOKEN} is wrong"}),
        ("error", {"code": 131000, "details": TOKEN}),
        ("reset", {}),
        ("truncated", {"accept": True}),
        ("invalid_json", {"accept": True}),
        ("html", {}),
        ("repeat_cursor", {"times": None}),
    ],
)
def test_the_token_is_shown_nowhere(
    graph: GraphStandin, caplog: pytest.LogCaptureFixture, kind: str, details: dict[str, Any]
) -> None:
    caplog.set_level(logging.DEBUG)
    with make(graph, retries=1) as client:
        for call in (lambda: send(client, graph), lambda: listed(client, graph)):
            graph.clear_faults()
            graph.inject(kind, **{"times": 2, **details})
            try:
                call()
            except GraphError as error:
                shown = [str(error), repr(error), repr(vars(error)), repr(error.__context__)]
                trace = traceback.TracebackException.from_exception(error, capture_locals=True)
                shown.extend(trace.format())
                # The test's own frames hold the token; the client's must not.
                assert all(TOKEN not in text for text in shown[:4])
                own = [text for text in shown[4:] if "/pgsync/modules/" in text.splitlines()[0]]
                assert own
                assert all(TOKEN not in text for text in own)
        assert TOKEN not in repr(client)
    assert caplog.records
    assert "uvicorn.access" not in caplog.text
    assert all(TOKEN not in record.getMessage() for record in caplog.records)
    assert all(TOKEN not in repr(record.args) for record in caplog.records)


def test_a_wrong_token_is_denied_and_not_shown(graph: GraphStandin) -> None:
    with (
        GraphClient(token=TOKEN + "x", base_url=graph.url) as client,
        pytest.raises(GraphDenied) as caught,
    ):
        listed(client, graph)
    assert caught.value.code == 190
    assert TOKEN not in str(caught.value)


def test_the_token_travels_in_the_header_only(client: GraphClient, graph: GraphStandin) -> None:
    send(client, graph)
    listed(client, graph)
    for entry in graph.log.entries():
        assert TOKEN not in repr(entry)
        assert entry.token == f"...{TOKEN[-4:]}"


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGSYNC_GRAPH_URL", raising=False)
    monkeypatch.delenv("PGSYNC_GRAPH_VERSION", raising=False)
    assert repr(GraphClient(token=TOKEN)) == (
        "GraphClient(base_url='https://graph.facebook.com', version='v23.0')"
    )
    monkeypatch.setenv("PGSYNC_GRAPH_URL", "http://127.0.0.1:1/")
    monkeypatch.setenv("PGSYNC_GRAPH_VERSION", "v99.1")
    client = GraphClient(token=TOKEN)
    assert (client.base_url, client.version) == ("http://127.0.0.1:1", "v99.1")


def test_a_session_of_the_caller_is_used_and_left_open(graph: GraphStandin) -> None:
    session = requests.Session()
    session.headers["X-Of-The-Caller"] = "1"
    with make(graph, session=session) as client:
        send(client, graph)
    with make(graph, session=session) as client:
        send(client, graph)
    assert posts(graph) == 2
    session.close()


@pytest.mark.parametrize(
    "settings",
    [
        {"base_url": "ftp://graph"},
        {"base_url": "http://user:secret@graph"},
        {"base_url": "http://graph?x=1"},
        {"version": "23"},
        {"version": "v23.0/../"},
        {"token": ""},
        {"token": "two words"},
        {"token": "line\nbreak"},
        {"token": "ünicode"},
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        GraphClient(**{"token": TOKEN, **settings})
    assert not settings.get("token") or settings["token"] not in str(caught.value)


@pytest.mark.parametrize("node", ["", "1/2", "../me", "1?x", "me", "1" * 40])
def test_ids_that_are_not_numbers_are_refused(
    client: GraphClient, graph: GraphStandin, node: str
) -> None:
    with pytest.raises(InvalidArgument):
        next(client.template_pages(node))
    with pytest.raises(InvalidArgument):
        client.send_template(node, to=TO, template="hello", language="de")
    assert graph.log.entries() == []


def test_arguments_that_cannot_work_are_refused_before_sending(
    client: GraphClient, graph: GraphStandin
) -> None:
    with pytest.raises(InvalidArgument):
        next(client.template_pages(graph.waba_id, page_size=0))
    with pytest.raises(InvalidArgument, match="512"):
        send(client, graph, data="x" * 513)
    for value in (float("nan"), object()):
        with pytest.raises(InvalidArgument, match="JSON"):
            client.send_template(
                graph.phone_number_id,
                to=TO,
                template="hello",
                language="de",
                components=[{"type": "body", "parameters": [{"value": value}]}],
            )
    assert graph.log.entries() == []
    send(client, graph, data="x" * 512)
