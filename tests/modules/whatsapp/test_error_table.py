"""Every row of the table of error codes, asked for over the socket.

The expected answers are written out here once more, so that a slip in the table is found.
"""

from __future__ import annotations

import pytest

from pgsync.modules.whatsapp.answers import TABLE, Answer, answer_to, is_ambiguous, pair_delay
from pgsync.modules.whatsapp.errors import (
    GraphDenied,
    GraphError,
    GraphInterrupted,
    GraphRefused,
    GraphThrottled,
)
from pgsync.modules.whatsapp.graph import GraphClient
from pgsync.modules.whatsapp.standin import GraphStandin

EXPECTED: list[tuple[list[int], str]] = [
    ([4, 80007, 17, 32, 613], "stop_app_calls"),
    ([130429], "slow_number"),
    ([131056], "retry_recipient_later"),
    ([131057, 1, 2, 131000, 131016], "back_off"),
    ([131048, 131064, 368, 131031, 131042], "pause_campaign"),
    ([0, 3, 10, 190, 200, 205, 270, 299], "disable_connection"),
    ([131026, 131047, 130472, 131021, 131030], "fail_recipient"),
    ([131049], "retry_recipient_tomorrow"),
    ([131050], "suppress_contact"),
    ([132000, 132001, 132005, 132007, 132008, 132012, 132018], "stop_early_template"),
    ([132015, 132016], "pause_template"),
    ([133016], "registration"),
]
CODES = [(code, answer) for codes, answer in EXPECTED for code in codes]


def refusal(client: GraphClient, graph: GraphStandin) -> GraphError:
    with pytest.raises(GraphError) as caught:
        client.send_template(
            graph.phone_number_id, to="+4915112345678", template="any", language="de"
        )
    return caught.value


@pytest.mark.parametrize(("code", "answer"), CODES)
def test_a_send_is_answered_by_its_code(
    client: GraphClient, graph: GraphStandin, code: int, answer: str
) -> None:
    graph.inject("error", code=code, method="POST")
    error = refusal(client, graph)
    assert isinstance(error, GraphRefused)
    assert error.code == code
    assert error.answer == answer
    assert error.fbtrace_id
    assert graph.log.requests_by_path == {f"POST /v23.0/{graph.phone_number_id}/messages": 1}


@pytest.mark.parametrize(("code", "answer"), CODES)
def test_a_listing_is_answered_by_its_code(
    client: GraphClient, graph: GraphStandin, code: int, answer: str
) -> None:
    graph.inject("error", code=code, times=None, method="GET")
    with pytest.raises(GraphRefused) as caught:
        list(client.template_pages(graph.waba_id))
    assert (caught.value.code, caught.value.answer) == (code, answer)
    assert not caught.value.ambiguous


@pytest.mark.parametrize("status", [200, 400, 403, 429, 500, 503])
@pytest.mark.parametrize(
    ("code", "kind", "answer"),
    [
        (80007, GraphThrottled, Answer.STOP_APP_CALLS),
        (190, GraphDenied, Answer.DISABLE_CONNECTION),
        (131026, GraphRefused, Answer.FAIL_RECIPIENT),
    ],
)
def test_the_http_status_does_not_matter(
    client: GraphClient,
    graph: GraphStandin,
    status: int,
    code: int,
    kind: type[GraphError],
    answer: Answer,
) -> None:
    graph.inject("error", code=code, status=status)
    error = refusal(client, graph)
    assert type(error) is kind
    assert (error.answer, error.http_status, error.ambiguous) == (answer, status, False)


@pytest.mark.parametrize(
    ("code", "status", "ambiguous"),
    [
        (131000, 500, True),
        (131000, 400, True),
        (131016, 500, True),
        (1, 500, True),
        (1, 400, False),
        (2, 503, True),
        (131057, 500, False),
        (3, 500, False),
        (130429, 503, False),
        (132000, 400, False),
        (999999, 400, False),
        (999999, 500, True),
    ],
)
def test_which_refused_sends_are_ambiguous(
    client: GraphClient, graph: GraphStandin, code: int, status: int, ambiguous: bool
) -> None:
    graph.inject("error", code=code, status=status)
    assert refusal(client, graph).ambiguous is ambiguous


def test_a_5xx_without_an_error_object_backs_off_and_is_ambiguous(
    client: GraphClient, graph: GraphStandin
) -> None:
    graph.inject("html", status=503)
    error = refusal(client, graph)
    assert type(error) is GraphInterrupted
    assert (error.code, error.http_status) == (None, 503)
    assert error.answer is Answer.BACK_OFF
    assert error.ambiguous


def test_an_unknown_code_fails_the_recipient(client: GraphClient, graph: GraphStandin) -> None:
    graph.inject("error", code=987654)
    error = refusal(client, graph)
    assert error.answer is Answer.FAIL_RECIPIENT
    assert not error.ambiguous


def test_the_table_holds_no_code_twice_and_none_that_is_not_expected() -> None:
    codes = [code for row in TABLE for code in row.codes]
    assert len(codes) == len(set(codes))
    assert set(codes) - set(range(200, 300)) == {code for code, _ in CODES} - set(range(200, 300))
    assert set(range(200, 300)) <= set(codes)
    assert {row.answer for row in TABLE} == set(Answer)


def test_no_code_at_all_is_ambiguous_whatever_the_status() -> None:
    assert answer_to(None) is Answer.BACK_OFF
    assert is_ambiguous(None, 400)
    assert is_ambiguous(None, None)


def test_the_pair_delay_grows_by_four_and_is_bounded() -> None:
    assert [pair_delay(failures) for failures in (1, 2, 3, 4)] == [1, 4, 16, 64]
    assert pair_delay(0) == 1
    assert pair_delay(10_000) == 86400
