"""Flask-Limiter and slowapi on the storage: real apps, asked over real sockets."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import flask
import flask_limiter
import httpx
import pytest
import slowapi
import slowapi.errors
import slowapi.util
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from werkzeug.serving import BaseWSGIServer, make_server

import pgsync.doors.limits  # noqa: F401 - registers the scheme
from pgsync import Coordinator


def _flask_app(sync: Coordinator, strategy: str) -> flask.Flask:
    app = flask.Flask("limited")
    limiter = flask_limiter.Limiter(
        lambda: flask.request.headers.get("X-Tenant", ""),
        app=app,
        strategy=strategy,
        storage_uri="pgsync://",
        storage_options={"coordinator": sync},  # type: ignore[dict-item]
        headers_enabled=True,
    )

    @app.get("/")
    @limiter.limit("3 per hour")
    def page() -> str:
        return "here"

    return app


@pytest.fixture
def serve_flask() -> Iterator[Callable[[flask.Flask], str]]:
    servers: list[tuple[BaseWSGIServer, threading.Thread]] = []

    def begin(app: flask.Flask) -> str:
        server = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/"

    yield begin
    for server, thread in servers:
        server.shutdown()
        thread.join(30)
        server.server_close()


@pytest.mark.parametrize("strategy", ["fixed-window", "moving-window", "sliding-window-counter"])
def test_flask_limiter_counts_over_all_servers(
    dsn: str, serve_flask: Callable[[flask.Flask], str], strategy: str
) -> None:
    with Coordinator(dsn) as first, Coordinator(dsn) as second:
        urls = [serve_flask(_flask_app(sync, strategy)) for sync in (first, second)]
        answers = [httpx.get(urls[n % 2], headers={"X-Tenant": "7"}) for n in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert [answer.headers["X-RateLimit-Remaining"] for answer in answers] == list("2100")
        assert 0 < int(answers[-1].headers["Retry-After"]) <= 3601
        assert httpx.get(urls[0], headers={"X-Tenant": "8"}).status_code == 200


def test_slowapi_counts_over_all_servers(dsn: str, serve: Callable[[Any], str]) -> None:
    def app(sync: Coordinator) -> Starlette:
        limiter = slowapi.Limiter(
            slowapi.util.get_remote_address,
            storage_uri="pgsync://",
            storage_options={"coordinator": sync},
        )

        @limiter.limit("3 per hour")
        def page(request: Request) -> PlainTextResponse:
            return PlainTextResponse("here")

        made = Starlette(
            routes=[Route("/", page)],
            exception_handlers={
                slowapi.errors.RateLimitExceeded: slowapi._rate_limit_exceeded_handler
            },
        )
        made.state.limiter = limiter
        return made

    with Coordinator(dsn) as first, Coordinator(dsn) as second:
        urls = [serve(app(sync)) for sync in (first, second)]
        answers = [httpx.get(urls[n % 2]).status_code for n in range(4)]
        assert answers == [200, 200, 200, 429]
