"""The status of an operation, as another app embeds it."""

from __future__ import annotations

from typing import Any

import requests

from pgsync import Coordinator
from tests.dashboard.conftest import READ_TOKEN

KEY = "template_sync:connection:7"


def ask(url: str, key: str = KEY, **headers: str) -> requests.Response:
    return requests.get(
        f"{url}/status/template_sync/{key}",
        headers={"Authorization": f"Bearer {READ_TOKEN}", **headers},
        timeout=60,
    )


def test_it_follows_an_operation(url: str, sync: Coordinator) -> None:
    @sync.operation("template_sync", lock="template_sync:connection:{connection_id}", ttl=60)
    def template_sync(op: Any, connection_id: int) -> None:
        op.progress(3, 4)
        running.append(ask(url, Accept="application/json").json())
        assert "3 / 4" in ask(url).text

    running: list[dict[str, Any]] = []
    assert ask(url, Accept="application/json").json()["state"] == "never"
    template_sync(connection_id=7)
    assert [(each["state"], each["done"], each["total"]) for each in running] == [("running", 3, 4)]
    ended = ask(url)
    assert 'data-state="completed"' in ended.text
    assert "<html" not in ended.text


def test_nothing_is_sent_again_until_something_changes(url: str, sync: Coordinator) -> None:
    @sync.operation("template_sync", lock="template_sync:connection:{connection_id}", ttl=60)
    def template_sync(op: Any, connection_id: int) -> None:
        pass

    first = ask(url)
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "no-cache"
    again = ask(url, **{"If-None-Match": tag})
    assert (again.status_code, again.text) == (304, "")
    assert ask(url, Accept="application/json").headers["etag"] != tag
    template_sync(connection_id=7)
    assert ask(url, **{"If-None-Match": tag}).status_code == 200


def test_it_needs_a_token_and_escapes_its_key(url: str) -> None:
    assert requests.get(f"{url}/status/x/y", timeout=60).status_code == 401
    assert "<b>" not in ask(url, "<b>x</b>").text
