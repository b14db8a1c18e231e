"""A real server for the whole run, and a fresh database, cloned from a template, for each test.

``PGSYNC_TEST_DSN`` names another server (its role needs CREATEDB), and
``PGSYNC_TEST_POSTGRES=testcontainers`` starts one in Docker; otherwise the embedded one is used.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import settings
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgsync import AsyncCoordinator, Coordinator
from pgsync.database.embedded import EmbeddedServer
from pgsync.database.migrations import MIGRATION_LOCK, migrate
from tests.faces import Blocking

# Durability is what a few tests are about, and those start servers of their own.
_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_TEMPLATE = "pgsync_test_template"
_FOLDER = "PGSYNC_TEST_FOLDER"

# How long an example takes says something of the machine, and nothing of a law. Integration runs
# the same examples each time; new ones are sought by whoever runs the tests.
settings.register_profile("house", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("house")


def pytest_configure(config: pytest.Config) -> None:
    """Make the server's place, or start the container, before the workers of pytest-xdist begin."""
    if hasattr(config, "workerinput") or "PGSYNC_TEST_DSN" in os.environ:
        return
    choice = os.environ.get("PGSYNC_TEST_POSTGRES")
    if choice is None:
        _use_memory(config)
        return
    if choice != "testcontainers":
        raise pytest.UsageError(f"PGSYNC_TEST_POSTGRES={choice} is unknown; use testcontainers")
    from testcontainers.community.postgres import PostgresContainer

    try:
        container = PostgresContainer("postgres:18", driver=None)
        container.start()
    except Exception as error:  # noqa: BLE001 - docker's client raises many kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise pytest.UsageError(
            f"PGSYNC_TEST_POSTGRES=testcontainers needs a Docker engine: {reason}"
        ) from None
    config.add_cleanup(container.stop)
    os.environ["PGSYNC_TEST_DSN"] = container.get_connection_url()


def _use_memory(config: pytest.Config) -> None:
    """Put the server's files into memory where that can be: each test's database is a copy of a
    thousand small files, which a disk makes fifteen times slower."""
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 << 30:
        folder = tempfile.mkdtemp(prefix="pgsync-tests-", dir=memory)
        os.environ[_FOLDER] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.fixture(scope="session")
def server_dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The DSN of a server on which databases may be made."""
    if dsn := os.environ.get("PGSYNC_TEST_DSN"):
        yield dsn
        return
    # All workers of pytest-xdist share the folder, and so the server.
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    if folder := os.environ.get(_FOLDER):
        shared = Path(folder)
    with EmbeddedServer(shared / "server", settings=_SETTINGS) as server:
        # On a busy machine a session may take longer to begin than pgsync waits of itself.
        yield make_conninfo(server.dsn, connect_timeout=60)


@pytest.fixture(scope="session")
def template(server_dsn: str) -> str:
    """A database with the whole schema, made once for all workers."""
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [MIGRATION_LOCK])
        mine = os.environ.get("PYTEST_XDIST_TESTRUNUID", uuid.uuid4().hex)
        name = f"{_TEMPLATE}_{mine[:12]}"
        exists = connection.execute("SELECT FROM pg_database WHERE datname = %s", [name])
        if exists.fetchone() is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            made = make_conninfo(server_dsn, dbname=name)
            migrate(made, modules=True)
            with psycopg.connect(made) as inside:
                # A duty that never ran is late soon after this time, however long the run takes.
                inside.execute(
                    "UPDATE pgsync.schema_migration SET applied_at = applied_at + interval '1 day'"
                )
    return name


@pytest.fixture
def make_database(server_dsn: str) -> Iterator[Callable[[str], str]]:
    """Makes databases from a template and drops them after the test."""
    made: list[str] = []

    def make(template: str) -> str:
        name = f"pgsync_test_{uuid.uuid4().hex[:16]}"
        with psycopg.connect(server_dsn, autocommit=True) as connection:
            connection.execute(
                # Seven times quicker than writing the template's pages to the log.
                sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )
        made.append(name)
        return make_conninfo(server_dsn, dbname=name)

    yield make
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        for name in made:
            connection.execute(
                sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            )


@pytest.fixture
def dsn(make_database: Callable[[str], str], template: str) -> str:
    """A database of the test's own, with the schema."""
    return make_database(template)


@pytest.fixture
def empty_dsn(make_database: Callable[[str], str]) -> str:
    """A database of the test's own, with nothing in it."""
    return make_database("template0")


@pytest.fixture
def database(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A plain connection to the test's database, as another client would have it."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def sync(dsn: str) -> Iterator[Coordinator]:
    """A blocking coordinator on the test's database."""
    with Coordinator(dsn) as coordinator:
        yield coordinator


@pytest.fixture(params=["blocking", "asyncio"])
def new_face(request: pytest.FixtureRequest, dsn: str) -> Iterator[Callable[[], Any]]:
    """Makes coordinators of one face; what the asyncio one awaits, the test just calls."""
    with Blocking() as portal:
        made: list[Any] = []

        def make() -> Any:
            if request.param == "blocking":
                coordinator = Coordinator(dsn)
            else:
                coordinator = portal.wrap(lambda: AsyncCoordinator(dsn))
            made.append(coordinator)
            return coordinator

        yield make
        for coordinator in made:
            coordinator.close()


@pytest.fixture
def face(new_face: Callable[[], Any]) -> Any:
    """A coordinator of each face in turn: the test runs twice."""
    return new_face()
