"""What the tests of all modules stand on: a stand-in for the Graph API, and a connection to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session, sessionmaker

from pgsync import Coordinator
from pgsync.modules.database import sessions_for
from pgsync.modules.models import Connection
from pgsync.modules.whatsapp import WhatsApp
from pgsync.modules.whatsapp.standin import GraphStandin
from tests.tenants import new_connection

TOKEN = "EAAtest-token-that-must-not-leak"


@pytest.fixture
def standin() -> Iterator[GraphStandin]:
    """A Graph API of the test's own, with 25 templates."""
    with GraphStandin(token=TOKEN) as graph:
        yield graph


@pytest.fixture
def sessions(dsn: str) -> Iterator[sessionmaker[Session]]:
    """Sessions on the test's database."""
    maker = sessions_for(dsn, pool_size=16)
    yield maker
    maker.kw["bind"].dispose()


@pytest.fixture
def connection(sessions: sessionmaker[Session], standin: GraphStandin) -> Connection:
    """A connection of a workspace to the stand-in."""
    return new_connection(sessions, standin)


@pytest.fixture
def whatsapp(sync: Coordinator, sessions: sessionmaker[Session], standin: GraphStandin) -> WhatsApp:
    """The WhatsApp module on the test's database and stand-in."""
    return WhatsApp(sync, sessions, graph_url=standin.url)
