"""The dashboard over a real socket: signing in, what it shows, what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import requests

from pgsync import AsyncCoordinator, Coordinator, InvalidArgument
from pgsync.dashboard import create_app
from tests.serving import serving

TOKEN = "a token for this test"


@pytest.fixture
def served() -> Iterator[Any]:
    """Serves an app on a free port of the loopback interface."""
    with ExitStack() as stack:

        def serve(dsn: str) -> str:
            return stack.enter_context(serving(create_app(AsyncCoordinator(dsn), TOKEN)))

        yield serve


@pytest.fixture
def url(served: Any, dsn: str) -> str:
    return served(dsn)


def test_the_page_asks_for_the_token(url: str) -> None:
    answer = requests.get(url, timeout=10)
    assert answer.url == f"{url}/sign-in"
    refused = requests.post(f"{url}/sign-in", data={"token": "wrong"}, timeout=10)
    assert refused.status_code == 403
    assert "That is not the token" in refused.text


def test_signed_in_it_shows_what_goes_on(url: str, sync: Coordinator) -> None:
    @sync.operation("template_sync", lock="template_sync:connection:{connection_id}", ttl=60)
    def template_sync(op: Any, connection_id: int) -> None:
        op.progress(3, 4)

    template_sync(connection_id=7)
    with requests.Session() as browser, sync.lock("<script>alert(1)</script>", ttl=60):
        browser.post(f"{url}/sign-in", data={"token": TOKEN}, timeout=10)
        page = browser.get(url, timeout=10)
        assert page.status_code == 200
        assert "template_sync:connection:7" in page.text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.text
        assert "<script" not in page.text
        assert "could not be read" not in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        cookie = next(iter(browser.cookies))
        assert cookie.has_nonstandard_attr("HttpOnly")
        style = browser.get(f"{url}/static/dashboard.css", timeout=10)
        assert style.status_code == 200


def test_the_api_answers_with_the_token_as_bearer(url: str, sync: Coordinator) -> None:
    with sync.lock("report", ttl=60, owner="me"):
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        rows = requests.get(f"{url}/api/locks", headers=bearer, timeout=10).json()
        assert [(row["name"], row["owner"]) for row in rows] == [("report", "me")]
        for panel in ("operations", "queues", "limits", "schedules", "workers", "jobs"):
            answer = requests.get(f"{url}/api/{panel}", headers=bearer, timeout=10)
            assert answer.json() == []
    assert requests.get(f"{url}/api/locks", timeout=10).status_code == 401
    assert requests.get(f"{url}/api/nothing", headers=bearer, timeout=10).status_code == 404


def test_health_is_told_without_the_token(url: str) -> None:
    for path in ("livez", "healthz", "readyz"):
        assert requests.get(f"{url}/{path}", timeout=10).text == "ok"


def test_it_is_alive_but_not_ready_without_a_database(served: Any) -> None:
    url = served("postgresql://127.0.0.1:1/nothing")
    assert requests.get(f"{url}/livez", timeout=10).status_code == 200
    assert requests.get(f"{url}/readyz", timeout=30).status_code == 503


def test_a_short_token_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="16 characters"):
        create_app(AsyncCoordinator("postgresql://127.0.0.1:1/x"), "short")
