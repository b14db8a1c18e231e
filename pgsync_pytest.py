"""pytest's plugin of pgsync: a server for the run, a fresh database and a coordinator for a test.

It stands outside the package, so that pytest's start does not import pgsync: the fixtures do, when
they are asked for. ``PGSYNC_TEST_DSN`` names a server to use (its role needs CREATEDB); without it
an embedded one is started.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pgsync import Coordinator

_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@pytest.fixture(scope="session")
def pgsync_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The DSN of a server for the whole run, which the workers of pytest-xdist share."""
    if dsn := os.environ.get("PGSYNC_TEST_DSN"):
        yield dsn
        return
    from pgsync.database.embedded import EmbeddedServer

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with EmbeddedServer(shared / "pgsync-server", settings=_SETTINGS) as server:
        yield server.dsn


@pytest.fixture(scope="session")
def _pgsync_template(pgsync_server: str) -> Iterator[str]:
    """A database with the schema, from which each test's is copied."""
    from psycopg import sql
    from psycopg.conninfo import make_conninfo

    from pgsync.database.dsn import connect
    from pgsync.database.migrations import migrate

    name = f"pgsync_template_{uuid.uuid4().hex[:12]}"
    with connect(pgsync_server) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    migrate(make_conninfo(pgsync_server, dbname=name))
    yield name
    with connect(pgsync_server) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def pgsync_dsn(pgsync_server: str, _pgsync_template: str) -> Iterator[str]:
    """The DSN of a database of the test's own, with the schema, marked for tests."""
    from psycopg import sql
    from psycopg.conninfo import make_conninfo

    from pgsync.database.dsn import connect
    from pgsync.testing import TEST_MARK

    name = f"pgsync_test_{uuid.uuid4().hex[:16]}"
    mine, template = sql.Identifier(name), sql.Identifier(_pgsync_template)
    with connect(pgsync_server) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(mine, template)
        )
        connection.execute(
            sql.SQL("COMMENT ON DATABASE {} IS {}").format(mine, sql.Literal(TEST_MARK))
        )
    yield make_conninfo(pgsync_server, dbname=name)
    with connect(pgsync_server) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(mine))


@pytest.fixture
def pgsync(pgsync_dsn: str) -> Iterator[Coordinator]:
    """A blocking coordinator on the test's own database."""
    from pgsync import Coordinator

    with Coordinator(pgsync_dsn) as coordinator:
        yield coordinator
