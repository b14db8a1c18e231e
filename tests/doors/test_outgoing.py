"""Outgoing calls within a limit, by requests and by both of httpx's clients, to a real server."""

from __future__ import annotations

import email.utils
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import requests
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from pgsync import AsyncCoordinator, Coordinator, InvalidArgument, Limit, RateLimited
from pgsync.doors.httpx import AsyncLimitedTransport, LimitedTransport
from pgsync.doors.requests import LimitedAdapter
from tests.faces import Blocking

HOUR = Limit(2, per=3600)


class Api:
    """What is called: it counts, and answers what the test wants next."""

    def __init__(self, serve: Callable[[Any], str]) -> None:
        self.calls: list[str] = []
        self.next = Response("fine")
        self.before: Callable[[], None] = lambda: None
        self.url = serve(Starlette(routes=[Route("/{path:path}", self._answer)]))
        self.host = self.url.removeprefix("http://")

    async def _answer(self, request: Request) -> Response:
        self.calls.append(request.path_params["path"])
        self.before()
        answer, self.next = self.next, Response("fine")
        return answer


@pytest.fixture
def api(serve: Callable[[Any], str]) -> Api:
    return Api(serve)


class Caller:
    """Gets a URL through one client within the limits of ``graph``, in a process of its own."""

    def __init__(self, kind: str, dsn: str, portal: Blocking) -> None:
        self._kind, self._portal = kind, portal
        if kind == "httpx async":
            self.coordinator: Any = portal.wrap(lambda: AsyncCoordinator(dsn))
        else:
            self.coordinator = Coordinator(dsn)
        self._closing: list[Callable[[], Any]] = [self.coordinator.close]

    def getter(self, *limits: Limit, **options: Any) -> Callable[[str], Any]:
        limiter = self.coordinator.limiter("graph", *limits)
        if self._kind == "requests":
            session = requests.Session()
            session.mount("http://", LimitedAdapter(limiter, **options))
            self._closing.insert(0, session.close)
            return lambda url: session.get(url, timeout=30)
        if self._kind == "httpx":
            client = httpx.Client(
                transport=LimitedTransport(limiter, **options), follow_redirects=True
            )
            self._closing.insert(0, client.close)
            return client.get
        transport = AsyncLimitedTransport(limiter.wrapped, **options)
        waiting = httpx.AsyncClient(transport=transport, follow_redirects=True)
        self._closing.insert(0, lambda: self._portal.wait(waiting.aclose()))
        return lambda url: self._portal.wait(waiting.get(url))

    def close(self) -> None:
        for close in self._closing:
            close()


@pytest.fixture(params=["requests", "httpx", "httpx async"])
def new_caller(request: pytest.FixtureRequest, dsn: str) -> Iterator[Callable[[], Caller]]:
    made: list[Caller] = []
    with Blocking() as portal:

        def make() -> Caller:
            made.append(Caller(request.param, dsn, portal))
            return made[-1]

        yield make
        for caller in made:
            caller.close()


def test_a_call_above_the_limit_is_not_sent(new_caller: Callable[[], Caller], api: Api) -> None:
    one, other = (new_caller().getter(HOUR, wait=0) for _ in "12")
    assert [one(api.url).text, other(api.url).text] == ["fine", "fine"]
    for get in (one, other):
        with pytest.raises(RateLimited) as caught:
            get(api.url)
        assert caught.value.key == f"graph:{api.host}"
        assert 3500 < caught.value.retry_after <= 3600
    assert len(api.calls) == 2


def test_a_call_waits_for_its_permit(new_caller: Callable[[], Caller], api: Api) -> None:
    get = new_caller().getter(Limit(1, per=0.3))
    assert [get(api.url).status_code for _ in range(3)] == [200] * 3


def test_each_host_has_its_own_limit(
    new_caller: Callable[[], Caller], api: Api, serve: Callable[[Any], str]
) -> None:
    get = new_caller().getter(Limit(1, per=3600), wait=0)
    assert get(api.url).status_code == 200
    assert get(Api(serve).url).status_code == 200


def test_the_key_may_be_one_for_all_or_made_from_the_request(
    new_caller: Callable[[], Caller], api: Api
) -> None:
    caller = new_caller()
    by_path = caller.getter(
        Limit(1, per=3600), wait=0, key=lambda request: str(request.url).rpartition("/")[2]
    )
    assert by_path(f"{api.url}/7").status_code == 200
    assert by_path(f"{api.url}/8").status_code == 200
    one = caller.getter(Limit(1, per=3600), wait=0, key="8")
    with pytest.raises(RateLimited, match="graph:8"):
        one(f"{api.url}/9")


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_closes_the_key_for_all_processes(
    new_caller: Callable[[], Caller], api: Api, database: Any, status: int, form: str
) -> None:
    later = "100" if form == "seconds" else email.utils.formatdate(time.time() + 100, usegmt=True)
    api.next = Response("slow down", status, {"Retry-After": later})
    answer = new_caller().getter(Limit(9, per=60), wait=0)(api.url)
    assert (answer.status_code, answer.text) == (status, "slow down")
    with pytest.raises(RateLimited) as caught:
        new_caller().getter(Limit(9, per=60), wait=30)(api.url)
    assert 60 < caught.value.retry_after <= 100
    assert len(api.calls) == 1
    shown = database.execute("SELECT penalty_reason FROM pgsync.rate_limits").fetchall()
    assert shown == [(f"Retry-After of HTTP {status}",)]


def test_a_pause_that_is_short_enough_is_waited_for(
    new_caller: Callable[[], Caller], api: Api
) -> None:
    get = new_caller().getter(Limit(9, per=60))
    api.next = Response("", 429, {"Retry-After": "1"})
    assert [get(api.url).status_code for _ in range(2)] == [429, 200]


@pytest.mark.parametrize(
    ("status", "header"),
    [(200, "100"), (500, "100"), (429, None), (429, "0"), (429, "soon"), (503, "-5")],
)
def test_other_answers_close_nothing(
    new_caller: Callable[[], Caller], api: Api, status: int, header: str | None
) -> None:
    get = new_caller().getter(Limit(9, per=60), wait=0)
    api.next = Response("", status, {} if header is None else {"Retry-After": header})
    assert [get(api.url).status_code for _ in range(2)] == [status, 200]


def test_a_pause_of_years_closes_the_key_for_a_day(
    new_caller: Callable[[], Caller], api: Api
) -> None:
    get = new_caller().getter(Limit(9, per=60), wait=0)
    api.next = Response("", 429, {"Retry-After": "999999999"})
    get(api.url)
    with pytest.raises(RateLimited) as caught:
        get(api.url)
    assert 86000 < caught.value.retry_after <= 86400


def test_each_hop_of_a_redirect_takes_a_permit(new_caller: Callable[[], Caller], api: Api) -> None:
    get = new_caller().getter(Limit(3, per=3600), wait=0)
    api.next = RedirectResponse("/there")
    assert get(f"{api.url}/here").text == "fine"
    assert api.calls == ["here", "there"]
    assert get(api.url).text == "fine"
    with pytest.raises(RateLimited):
        get(api.url)


def test_an_answer_is_not_lost_where_others_cannot_be_told(
    new_caller: Callable[[], Caller], api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caller = new_caller()
    get = caller.getter(Limit(9, per=60))
    api.next = Response("created, but slow down", 503, {"Retry-After": "100"})

    def break_off() -> None:
        closing = threading.Thread(target=caller.coordinator.close)
        closing.start()
        closing.join(30)

    api.before = break_off
    assert get(api.url).text == "created, but slow down"
    assert "could not be closed for others" in caplog.text


def test_a_wait_that_cannot_work_is_refused(sync: Coordinator) -> None:
    limiter: Any = sync.limiter("graph", HOUR)
    for wait in (-1, float("nan"), "10"):
        for door in (LimitedAdapter, LimitedTransport, AsyncLimitedTransport):
            with pytest.raises(InvalidArgument):
                door(limiter, wait=wait)
