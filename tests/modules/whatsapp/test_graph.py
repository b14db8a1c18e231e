"""Listing templates page by page, and which calls are retried, on a real socket."""

from __future__ import annotations

from typing import Any

import pytest

from pgsync.modules.whatsapp import bodies
from pgsync.modules.whatsapp.answers import Answer
from pgsync.modules.whatsapp.errors import (
    GraphError,
    GraphInterrupted,
    GraphPagingError,
)
from pgsync.modules.whatsapp.graph import GraphClient
from pgsync.modules.whatsapp.standin import GraphStandin
from tests.modules.whatsapp.calls import TO, everything, gets, listed, make, posts, send


def test_all_pages_are_read_in_order(client: GraphClient, graph: GraphStandin) -> None:
    pages = list(client.template_pages(graph.waba_id))
    assert [len(page.templates) for page in pages] == [100, 100, 31]
    assert [page.last for page in pages] == [False, False, True]
    assert [page.number for page in pages] == [1, 2, 3]
    assert listed(client, graph) == everything(graph)


def test_a_page_has_the_fields_that_were_asked_for(
    client: GraphClient, graph: GraphStandin
) -> None:
    page = next(client.template_pages(graph.waba_id, fields=("name", "status"), page_size=5))
    assert {frozenset(template) for template in page.templates} == {
        frozenset({"id", "name", "status"})
    }
    assert len(page.templates) == 5


@pytest.mark.parametrize("kind", ["empty_page", "short_page"])
def test_an_empty_or_short_page_is_not_the_end(
    client: GraphClient, graph: GraphStandin, kind: str
) -> None:
    graph.inject(kind, times=2)
    assert listed(client, graph) == everything(graph)


def test_a_cursor_without_a_next_link_is_the_end(client: GraphClient, graph: GraphStandin) -> None:
    graph.inject("after_without_next")
    pages = list(client.template_pages(graph.waba_id, page_size=50))
    assert [(len(page.templates), page.last) for page in pages] == [(50, True)]
    assert gets(graph) == 1


def test_an_account_without_templates_is_one_empty_last_page() -> None:
    with GraphStandin(templates=0) as graph, make(graph) as client:
        pages = list(client.template_pages(graph.waba_id))
    assert [(page.templates, page.last) for page in pages] == [((), True)]


def test_a_repeated_cursor_is_an_error_and_not_a_loop(
    client: GraphClient, graph: GraphStandin
) -> None:
    graph.inject("repeat_cursor", times=None)
    with pytest.raises(GraphPagingError, match="repeats"):
        listed(client, graph)
    assert gets(graph) == 2


def test_a_next_link_without_a_cursor_is_an_error(client: GraphClient, graph: GraphStandin) -> None:
    graph.inject("next_without_cursor")
    with pytest.raises(GraphPagingError, match="no cursor"):
        listed(client, graph)


def test_the_token_of_the_next_link_is_not_used(client: GraphClient, graph: GraphStandin) -> None:
    listed(client, graph)
    assert all("access_token" not in entry.query for entry in graph.log.entries())


def test_a_link_to_another_host_gives_its_cursor_only() -> None:
    body = {"paging": {"next": "https://elsewhere.example/x?access_token=t&after=MTA"}}
    assert bodies.next_cursor(body) == "MTA"


@pytest.mark.parametrize(
    ("kind", "details"),
    [
        ("reset", {}),
        ("html", {}),
        ("html", {"status": 500}),
        ("error", {"code": 2}),
        ("error", {"code": 131016, "retry_after": 0}),
    ],
)
def test_a_reading_call_is_retried(
    client: GraphClient, graph: GraphStandin, kind: str, details: dict[str, Any]
) -> None:
    graph.inject(kind, times=2, **details)
    assert listed(client, graph, page_size=500) == everything(graph)
    assert gets(graph) == 3


def test_retries_are_bounded(graph: GraphStandin) -> None:
    graph.inject("reset", times=None)
    with make(graph, retries=2) as client, pytest.raises(GraphInterrupted) as caught:
        listed(client, graph)
    assert gets(graph) == 3
    assert not caught.value.ambiguous


def test_a_long_retry_after_is_handed_to_the_caller(
    client: GraphClient, graph: GraphStandin
) -> None:
    graph.inject("error", code=2, status=503, retry_after=3600)
    with pytest.raises(GraphError) as caught:
        listed(client, graph)
    assert caught.value.retry_after == 3600
    assert gets(graph) == 1


@pytest.mark.parametrize("code", [190, 80007, 100])
def test_a_refusal_is_not_retried(client: GraphClient, graph: GraphStandin, code: int) -> None:
    graph.inject("error", code=code, status=429 if code == 80007 else None)
    with pytest.raises(GraphError):
        listed(client, graph)
    assert gets(graph) == 1


@pytest.mark.parametrize("accept", [False, True])
@pytest.mark.parametrize("kind", ["reset", "truncated", "invalid_json", "html"])
def test_a_send_without_a_readable_answer_is_ambiguous_and_not_repeated(
    client: GraphClient, graph: GraphStandin, kind: str, accept: bool
) -> None:
    graph.inject(kind, accept=accept)
    with pytest.raises(GraphInterrupted) as caught:
        send(client, graph)
    assert caught.value.ambiguous
    assert caught.value.answer is Answer.BACK_OFF
    assert posts(graph) == 1
    assert sum(graph.log.accepted.values()) == int(accept)
    assert not graph.log.duplicate_sends


def test_a_send_that_was_accepted_but_dropped_is_accepted_once(
    client: GraphClient, graph: GraphStandin
) -> None:
    send(client, graph, data="7:0", to="+4915100000000")  # so that the connection is a kept one
    graph.inject("reset", accept=True, to=TO)
    with pytest.raises(GraphInterrupted) as caught:
        send(client, graph)
    assert caught.value.ambiguous
    assert graph.log.accepted[TO.removeprefix("+")] == 1


def test_a_send_that_times_out_is_ambiguous(graph: GraphStandin) -> None:
    graph.inject("slow", seconds=60)
    with make(graph, timeout=(2.0, 0.2)) as client, pytest.raises(GraphInterrupted) as caught:
        send(client, graph)
    assert caught.value.ambiguous
    assert "ReadTimeout" in str(caught.value)
    assert (posts(graph), sum(graph.log.accepted.values())) == (1, 1)


@pytest.mark.parametrize("code", [131000, 131016, 2, 130429])
def test_a_refused_send_is_not_repeated(
    client: GraphClient, graph: GraphStandin, code: int
) -> None:
    graph.inject("error", code=code, status=503, retry_after=1)
    with pytest.raises(GraphError):
        send(client, graph)
    assert posts(graph) == 1


def test_a_redirect_is_not_followed(client: GraphClient, graph: GraphStandin) -> None:
    graph.inject("html", status=307, location="/elsewhere", times=2)
    with pytest.raises(GraphInterrupted) as caught:
        send(client, graph)
    assert caught.value.ambiguous
    with pytest.raises(GraphInterrupted):
        listed(client, graph)
    assert (posts(graph), gets(graph)) == (1, 1)
