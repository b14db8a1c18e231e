"""The dashboard over a real socket: signing in, its API, its health, what it refuses."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner

import pgsync.dashboard
from pgsync import AsyncCoordinator, Coordinator, InvalidArgument
from pgsync.cli.dashboard import dashboard
from pgsync.dashboard import create_app
from tests.dashboard.conftest import READ_TOKEN, TOKEN, Browser
from tests.serving import serving


def test_a_page_asks_for_the_token(url: str) -> None:
    for path in ("/", "/jobs", "/audit"):
        assert requests.get(f"{url}{path}", timeout=60).url == f"{url}/sign-in"
    refused = requests.post(f"{url}/sign-in", data={"token": "wrong"}, timeout=60)
    assert refused.status_code == 403
    assert "That is not the token" in refused.text


def test_a_session_is_a_cookie_that_only_the_dashboard_can_sign(url: str) -> None:
    browser = Browser(url)
    cookie = next(iter(browser.session.cookies))
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert cookie.get_nonstandard_attr("SameSite") == "strict"
    assert TOKEN not in str(cookie.value)
    body, _, signature = str(cookie.value).strip('"').partition(".")
    for forged in (f"{body}x.{signature}", f"{body}.", f".{signature}", "x", f"{body}.{'0' * 64}"):
        answer = requests.get(url, cookies={"pgsync_session": forged}, timeout=60)
        assert answer.url == f"{url}/sign-in"


def test_a_session_outlives_a_restart_but_not_a_change_of_its_token(dsn: str) -> None:
    with serving(create_app(AsyncCoordinator(dsn), TOKEN, READ_TOKEN)) as url:
        cookies = [Browser(url, token).session.cookies.get_dict() for token in (TOKEN, READ_TOKEN)]

    def hold(token: str, read_token: str) -> list[bool]:
        """Which of the sessions do, at a dashboard that is started with these."""
        with serving(create_app(AsyncCoordinator(dsn), token, read_token)) as url:
            return [
                requests.get(url, cookies=each, timeout=30).url == f"{url}/" for each in cookies
            ]

    assert hold(TOKEN, READ_TOKEN) == [True, True]
    assert hold("another token of theirs", READ_TOKEN) == [False, True]
    assert hold(TOKEN, "another token of theirs") == [True, False]


def test_a_session_ends_after_its_hours(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = Browser(url)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 12 * 3600 - 60)
    assert browser.session.get(url, timeout=60).url == f"{url}/"
    cookies = {cookie.name: str(cookie.value) for cookie in browser.session.cookies}
    monkeypatch.setattr(time, "time", lambda: now + 12 * 3600 + 60)
    assert requests.get(url, cookies=cookies, timeout=60).url == f"{url}/sign-in"


def test_signing_out_ends_the_session(browser: Browser) -> None:
    assert browser.get("/").url == f"{browser.url}/"
    form = browser.get("/").text.split('name="form_token" value="')[1].split('"')[0]
    browser.session.post(f"{browser.url}/sign-out", data={"form_token": form}, timeout=60)
    assert browser.get("/").url == f"{browser.url}/sign-in"


def test_every_answer_forbids_inline_script_and_frames(browser: Browser) -> None:
    for path in ("/", "/jobs", "/static/dashboard.js", "/nothing"):
        policy = browser.get(path).headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
    assert browser.get("/").headers["cache-control"] == "no-store"


def test_nothing_that_it_serves_comes_from_elsewhere() -> None:
    folder = Path(pgsync.dashboard.__file__).parent
    for file in [*folder.glob("templates/*"), *folder.glob("static/*.*")]:
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, file
    licences = {path.name for path in folder.glob("static/vendor/*-LICENSE")}
    assert licences == {"htmx-LICENSE", "uplot-LICENSE"}


def test_the_api_answers_with_either_token_as_bearer(url: str, sync: Coordinator) -> None:
    bearer = {"Authorization": f"Bearer {READ_TOKEN}"}
    with sync.lock("report", ttl=60, owner="me"):
        rows = requests.get(f"{url}/api/locks", headers=bearer, timeout=60).json()
        assert [(row["name"], row["owner"]) for row in rows] == [("report", "me")]
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    for panel in ("operations", "queues", "limits", "schedules", "workers", "jobs", "audit"):
        assert requests.get(f"{url}/api/{panel}", headers=bearer, timeout=60).json() == []
    assert requests.get(f"{url}/api/locks", timeout=60).status_code == 401
    assert requests.get(f"{url}/api/nothing", headers=bearer, timeout=60).status_code == 404


def test_health_is_told_without_the_token(url: str) -> None:
    for path in ("livez", "healthz", "readyz"):
        assert requests.get(f"{url}/{path}", timeout=60).text == "ok"


def test_it_is_alive_but_not_ready_without_a_database(served: Callable[[str], str]) -> None:
    url = served("postgresql://127.0.0.1:1/nothing")
    assert requests.get(f"{url}/livez", timeout=60).status_code == 200
    assert requests.get(f"{url}/readyz", timeout=30).status_code == 503


def test_short_or_equal_tokens_are_refused() -> None:
    sync = AsyncCoordinator("postgresql://127.0.0.1:1/x")
    with pytest.raises(InvalidArgument, match="16 characters"):
        create_app(sync, "short")
    with pytest.raises(InvalidArgument, match="PGSYNC_DASHBOARD_READ_TOKEN"):
        create_app(sync, TOKEN, "short")
    with pytest.raises(InvalidArgument, match="differ"):
        create_app(sync, TOKEN, TOKEN)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_without_a_token_it_listens_nowhere(host: str) -> None:
    arguments = ["--dsn", "postgresql://127.0.0.1:1/x", "--host", host]
    unset = {"PGSYNC_DASHBOARD_TOKEN": None, "PGSYNC_DASHBOARD_READ_TOKEN": None}
    answer = CliRunner(env=unset).invoke(dashboard, arguments)
    assert isinstance(answer.exception, InvalidArgument)
    assert "PGSYNC_DASHBOARD_TOKEN" in str(answer.exception)
    assert "http://" not in answer.output
