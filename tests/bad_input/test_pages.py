"""Each page and each action of the dashboard with wrong values: below 500, and nothing is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import requests
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from pgsync.dashboard.access import BoundedBody
from pgsync.dashboard.actions import ACTIONS
from pgsync.dashboard.pages import PAGES
from tests.dashboard.conftest import Browser, served
from tests.serving import serving

__all__ = ["served"]

_WRONG = (
    "",
    " ",
    "'; DROP SCHEMA pgsync CASCADE; --",
    '"><script>alert("x")</script>',
    "%s %(name)s {{ 7 * 7 }}",
    "\0",
    "n" * 2_000,
    "-1",
    "0",
    "1e400",
    "NaN",
    "99999999999999999999",
    "2999-13-01",
    "[1, 2",
    "//evil.example",
)
# What pages and forms are given, by name; each gets what it does not expect.
_GIVEN = (
    *("name", "id", "ids", "state", "queue", "task", "tag", "text", "arg", "attempts", "since"),
    *("until", "before", "most", "every", "action", "by_filter", "like", "why", "back", "args"),
    *("priority", "run_at", "key", "per", "max", "burst", "max_running", "max_starts"),
    *("expression", "misfire_grace", "misfire_limit"),
    *("starts_per", "starts_per_key", "timezone", "misfire", "jitter", "kind", "version", "limit"),
)
_KEPT = """
SELECT (SELECT count(*) FROM pgsync.all_jobs), (SELECT count(*) FROM pgsync.locks),
       (SELECT array_agg(s.name ORDER BY s.name) FROM pgsync.schedules AS s)
"""


@pytest.fixture
def browser(served: Callable[[str], str], dsn: str) -> Browser:
    return Browser(served(dsn))


@pytest.fixture
def filled(database: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """A database in which something is there to be found."""
    for statement in (
        "SELECT pgsync.enqueue('report')",
        "SELECT pgsync.add_schedule('report', 'report', '* * * * *')",
        "SELECT pgsync.rate_limit_hit('report', 3, '1 min')",
    ):
        database.execute(statement.encode())
    return database


def _answers(ask: Callable[[str, str], Any]) -> Iterator[str]:
    for number, name in enumerate(_GIVEN):
        for turn in range(2):
            value = _WRONG[(number + 5 * turn) % len(_WRONG)]
            answer = ask(name, value)
            if answer.status_code >= 500:
                yield f"{name}={value!r:.40}: {answer.status_code} {answer.text[:80]}"
            if '"><script>alert' in answer.text:
                yield f"{name}={value!r:.40}: the page has it as it is"


@pytest.mark.parametrize("path", sorted({page.path.replace("{id:int}", "1") for page in PAGES}))
def test_a_page_bears_any_query(
    browser: Browser, filled: psycopg.Connection[Any], path: str
) -> None:
    before = filled.execute(_KEPT.encode()).fetchone()
    faults = list(_answers(lambda name, value: browser.get(path, params={name: value})))
    assert not faults, "\n".join(faults)
    assert filled.execute(_KEPT.encode()).fetchone() == before


@pytest.mark.parametrize(("subject", "action"), sorted(ACTIONS))
def test_an_action_bears_any_form(
    browser: Browser, filled: psycopg.Connection[Any], subject: str, action: str
) -> None:
    token = browser.form_token()
    url = f"{browser.url}/do/{subject}/{action}"

    def submit(name: str, value: str) -> Any:
        form = {"form_token": token, "back": "/audit", name: value}
        return browser.session.post(url, data=form, timeout=30, allow_redirects=False)

    faults = list(_answers(submit))
    assert not faults, "\n".join(faults)
    # An action on what is not there changes nothing.
    assert filled.execute(_KEPT.encode()).fetchone() == (1, 0, ["report"])


@pytest.mark.parametrize("number", ["0", "-1", "99999999999999999999", "1e3", "%00", "a"])
def test_a_number_in_a_path_that_is_none_is_not_found(browser: Browser, number: str) -> None:
    for path in ("/jobs/{}", "/jobs/{}/edit", "/operations/{}"):
        assert browser.get(path.format(number)).status_code in (400, 404)


def test_a_body_is_read_so_far_and_no_further() -> None:
    async def size(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    routes = [Route("/", size, methods=["POST"])]
    with serving(Starlette(routes=routes, middleware=[Middleware(BoundedBody)])) as url:
        assert requests.post(url, data=b"t" * (4 << 20), timeout=30).text == str(4 << 20)
        assert requests.post(url, data=b"t" * ((4 << 20) + 1), timeout=30).status_code == 413


@pytest.mark.parametrize("path", ["/sign-in", "/do/queues/pause"])
def test_a_form_of_many_megabytes_is_refused(browser: Browser, path: str) -> None:
    form = {f"field{number}": "t" * 900_000 for number in range(8)}
    answer = browser.session.post(
        f"{browser.url}{path}", data=form, timeout=30, allow_redirects=False
    )
    assert answer.status_code in (400, 413)
    assert browser.get("/queues").status_code == 200
