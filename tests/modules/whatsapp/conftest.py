"""A stand-in for the Graph API, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgsync.modules.whatsapp.graph import GraphClient
from pgsync.modules.whatsapp.standin import GraphStandin
from tests.modules.whatsapp.calls import TOKEN, Api, make


@pytest.fixture(scope="module")
def server() -> Iterator[GraphStandin]:
    """One server a file, since starting and stopping it takes a tenth of a second."""
    with GraphStandin(token=TOKEN, templates=230) as graph:
        graph.templates.add(name="hello", language="de", body="Hello {{1}}")
        yield graph


@pytest.fixture
def graph(server: GraphStandin) -> GraphStandin:
    """The server with no faults, no limits and an empty log."""
    server.clear_faults()
    server.clear_throttles()
    server.log.clear()
    return server


@pytest.fixture
def client(graph: GraphStandin) -> Iterator[GraphClient]:
    with make(graph) as client:
        yield client


@pytest.fixture
def api(graph: GraphStandin) -> Iterator[Api]:
    """A plain HTTP client of the same server."""
    api = Api(graph)
    yield api
    api.session.close()
