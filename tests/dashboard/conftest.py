"""A dashboard on a real socket, and a browser's session that has signed in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import requests

from pgsync import AsyncCoordinator
from pgsync.dashboard import create_app
from tests.serving import serving

TOKEN = "a token for this test"
READ_TOKEN = "a token that only reads"


class Browser:
    """A session with cookies that submits forms as a page without JavaScript does."""

    def __init__(self, url: str, token: str = TOKEN, name: str = "ada") -> None:
        self.url = url
        self.session = requests.Session()
        self.signed_in = self.session.post(
            f"{url}/sign-in", data={"token": token, "name": name}, timeout=60
        )

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.session.get(f"{self.url}{path}", timeout=60, **options)

    def form_token(self) -> str:
        """What each form of the session's pages carries."""
        found = re.search(r'name="form_token" value="(\w+)"', self.get("/audit").text)
        assert found
        return found[1]

    def act(self, subject: str, action: str, **fields: Any) -> requests.Response:
        data = {"form_token": self.form_token(), "back": f"/{subject}", **fields}
        return self.session.post(f"{self.url}/do/{subject}/{action}", data=data, timeout=20)


@pytest.fixture
def served() -> Iterator[Callable[[str], str]]:
    """Serves the dashboard of a database on a free port of the loopback interface."""
    with ExitStack() as stack:

        def serve(dsn: str) -> str:
            app = create_app(AsyncCoordinator(dsn), TOKEN, READ_TOKEN)
            return stack.enter_context(serving(app))

        yield serve


@pytest.fixture
def url(served: Callable[[str], str], dsn: str) -> str:
    return served(dsn)


@pytest.fixture
def browser(url: str) -> Browser:
    return Browser(url)
