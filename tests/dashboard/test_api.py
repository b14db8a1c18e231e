"""The JSON API: its document is what it does, and what it does is in its document."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    ignored_auth,
    negative_data_rejection,
    positive_data_acceptance,
)
from starlette.routing import Mount, Route

from pgsync import AsyncCoordinator, Coordinator
from pgsync.dashboard import create_app, reading
from pgsync.dashboard.api import ENDPOINTS
from pgsync.dashboard.openapi import document
from pgsync.dashboard.pages import PAGES
from pgsync.dashboard.panels import PANELS, Panel
from tests.dashboard.conftest import READ_TOKEN, TOKEN
from tests.dashboard.site import busy_site, enqueue

BEARER = {"Authorization": f"Bearer {READ_TOKEN}"}
KINDS = {
    "text": "text",
    "int8": "integer",
    "int4": "integer",
    "int2": "integer",
    "numeric": "number",
    "bool": "boolean",
    "timestamptz": "moment",
    "interval": "seconds",
    "jsonb": "object",
    "text[]": "texts",
    "int8[]": "integers",
}


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query on a busy machine may take longer than an operator would wait."""
    monkeypatch.setattr(reading, "_READ_TIMEOUT", "60s")


@pytest.fixture
def busy(
    patient: None, url: str, sync: Coordinator, database: psycopg.Connection[Any]
) -> Iterator[str]:
    with busy_site(sync, database):
        sync.run_worker(queues=["webhooks"], drain=True)
        yield url


def ask(url: str, **options: Any) -> requests.Response:
    return requests.get(url, headers=BEARER, timeout=60, **options)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_whatever_is_asked_the_answer_is_as_documented(busy: str, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_dict(ask(f"{busy}/api").json())
    session = requests.Session()
    for found in schema.get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and not operation.query:
            continue  # What it takes cannot be wrong.

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=15 if operation.query or operation.path_parameters else 3,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def check(case: Any) -> None:
            query = case.query or {}
            excused = []
            # A moment may be one that no calendar has.
            if {"since", "until"} & set(query):
                excused.append(positive_data_acceptance)
            # What is wrong, an empty list, may not be sent at all.
            if any(value in ([], {}) for value in query.values()):
                excused.append(negative_data_rejection)
            case.call_and_validate(
                base_url=busy,
                headers=BEARER,
                session=session,
                timeout=240,
                # What is without the token has a test of its own.
                excluded_checks=[ignored_auth, *excused],
            )

        check()


def test_every_route_is_in_the_document_and_the_other_way_round() -> None:
    app = create_app(AsyncCoordinator("postgresql://127.0.0.1:1/x"), TOKEN)
    pages = {page.path for page in PAGES} | {"/sign-in", "/sign-out", "/do/{subject}/{action}"}
    routes = {
        route.path.replace(":path}", "}")
        for route in app.routes
        if isinstance(route, Route) and not isinstance(route, Mount)
    }
    assert routes - pages == set(document("/")["paths"])


@pytest.mark.parametrize("panel", PANELS.values(), ids=lambda panel: panel.name)
def test_a_row_has_the_fields_that_its_panel_names(
    panel: Panel, database: psycopg.Connection[Any]
) -> None:
    given: Any = defaultdict(lambda: None, most=1, ids=[])
    described = database.execute(panel.query, given).description or []
    found = [(each.name, KINDS[each.type_display]) for each in described]
    named = [tuple(each.removesuffix("?").split(":")) for each in panel.fields.split()]
    assert named == found


def test_a_job_tells_its_tags_that_are_words(url: str, database: Any) -> None:
    enqueue(database, "send", **{"pgsync:tags": ["eu", 7, "big"]})
    enqueue(database, "send")
    assert [each["tags"] for each in ask(f"{url}/api/jobs").json()] == [[], ["eu", "big"]]


def test_each_endpoint_but_health_needs_the_token(url: str) -> None:
    for endpoint in ENDPOINTS:
        path = endpoint.path.format(operation="x", key="y")
        status = requests.get(f"{url}{path}", timeout=60).status_code
        assert (status == 401) is endpoint.needs_token


def test_jobs_are_filtered_and_paged_by_links(url: str, database: Any) -> None:
    jobs = enqueue(database, "send", 120, to="ada")
    enqueue(database, "send", to="bob")
    seen: list[int] = []
    following = f"{url}/api/jobs?task=send&arg=to%3Dada&state=available"
    while following:
        answer = ask(following)
        seen += [each["id"] for each in answer.json()]
        following = ""
        if "next" in answer.links:
            following = requests.compat.urljoin(answer.url, answer.links["next"]["url"])
    assert seen == sorted(jobs, reverse=True)


@pytest.mark.parametrize(
    "query",
    ["before=x", "before=", "before=1&before=2", "state=odd", "arg=x", "since=soon", "stat=x"],
)
def test_what_does_not_fit_is_refused_by_its_name(url: str, query: str) -> None:
    answer = ask(f"{url}/api/jobs?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"{query.partition('=')[0]}: ")


def test_another_method_is_told_which_there_are(url: str) -> None:
    answer = requests.post(f"{url}/api/locks", headers=BEARER, timeout=60)
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]


def test_mounted_elsewhere_the_document_says_where(served: Callable[[str], str], dsn: str) -> None:
    assert document("/ops")["servers"] == [{"url": "/ops"}]
    assert ask(f"{served(dsn)}/api").json()["servers"] == [{"url": "/"}]
