"""The caller's hooks: before each call, and when an answer asks to wait."""

from __future__ import annotations

from typing import Any

import pytest

from pgsync.errors import RateLimited
from pgsync.limits.retry_after import retry_after
from pgsync.modules.whatsapp.errors import (
    GraphError,
    GraphThrottled,
)
from pgsync.modules.whatsapp.standin import GraphStandin
from pgsync.modules.whatsapp.usage import usage_wait
from tests.modules.whatsapp.calls import gets, listed, make, send


def test_before_call_runs_before_every_request_retries_included(graph: GraphStandin) -> None:
    seen: list[int] = []
    graph.inject("reset", times=1)
    graph.inject("html", times=1)
    with make(graph, before_call=lambda: seen.append(gets(graph))) as client:
        listed(client, graph)
    assert seen == [0, 1, 2, 3, 4]


def test_before_call_can_prevent_a_call(graph: GraphStandin) -> None:
    def refuse() -> None:
        raise RateLimited("graph:7", retry_after=3.0)

    with make(graph, before_call=refuse) as client:
        with pytest.raises(RateLimited):
            send(client, graph)
        with pytest.raises(RateLimited):
            listed(client, graph)
    assert graph.log.entries() == []


def test_before_call_can_prevent_a_retry(graph: GraphStandin) -> None:
    calls: list[None] = []

    def once() -> None:
        calls.append(None)
        if len(calls) > 1:
            raise RateLimited("graph:7", retry_after=3.0)

    graph.inject("html", times=None)
    with make(graph, before_call=once) as client, pytest.raises(RateLimited):
        listed(client, graph)
    assert gets(graph) == 1


@pytest.mark.parametrize(
    ("details", "seconds"),
    [
        ({"code": 80007, "retry_after": 7}, [7.0]),
        ({"code": 80007, "usage_minutes": 3}, [180.0]),
        ({"code": 4, "retry_after": 7, "usage_minutes": 3}, [7.0]),
        ({"code": 80007}, [60.0]),
        ({"code": 130429}, [5.0]),
        ({"code": 131057, "retry_after": 11}, [11.0]),
        ({"code": 131056, "retry_after": 7}, []),
        ({"code": 131026}, []),
    ],
)
def test_on_throttle_is_told_how_long_to_wait(
    graph: GraphStandin, details: dict[str, Any], seconds: list[float]
) -> None:
    waits: list[tuple[float, int | None]] = []
    graph.inject("error", **details)
    with (
        make(graph, on_throttle=lambda *told: waits.append(told)) as client,
        pytest.raises(GraphError) as caught,
    ):
        send(client, graph)
    assert waits == [(each, details["code"]) for each in seconds]
    assert caught.value.retry_after == details.get("retry_after", seconds[0] if seconds else None)


def test_a_throttled_account_tells_its_wait(graph: GraphStandin) -> None:
    waits: list[float] = []
    graph.throttle(2, per=600, code=80007, retry_after=False)
    with (
        make(graph, on_throttle=lambda seconds, code: waits.append(seconds)) as client,
        pytest.raises(GraphThrottled) as caught,
    ):
        listed(client, graph)
    assert gets(graph) == 3
    assert waits == [600.0] == [caught.value.retry_after]


def test_a_failing_on_throttle_does_not_hide_the_outcome(
    graph: GraphStandin, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(seconds: float, code: int | None) -> None:
        raise OSError("no database")

    graph.inject("error", code=80007)
    with make(graph, on_throttle=fail) as client, pytest.raises(GraphThrottled):
        send(client, graph)
    assert "failed" in caplog.text


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ('{"1": [{"estimated_time_to_regain_access": 2}]}', 120.0),
        (
            '{"1": [{}, {"estimated_time_to_regain_access": 5}], "2": []}',
            300.0,
        ),
        ('{"1": [{"estimated_time_to_regain_access": 0}]}', None),
        ('{"1": [{"estimated_time_to_regain_access": 1e9}]}', 86400.0),
        ('{"1": [{"estimated_time_to_regain_access": NaN}]}', None),
        ('{"1": {"x": 1}}', None),
        ("[]", None),
        ("no json", None),
        (None, None),
    ],
)
def test_the_usage_header_counts_in_minutes(value: str | None, seconds: float | None) -> None:
    assert usage_wait(value) == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5", 5.0),
        (" 120 ", 120.0),
        ("99999999999999999999", 86400.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds
