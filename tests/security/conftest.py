"""Databases whose rights are those of pgsync's roles, and logins that have one of them.

Roles are the whole server's: all tests share the three, and each makes login roles of its own.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

ROLES = ("pgsync_reader", "pgsync_worker", "pgsync_admin")


@pytest.fixture
def guarded(database: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """The owner's connection to a database in which the roles are in use."""
    database.execute("SELECT pgsync.create_roles()")
    return database


@pytest.fixture
def login(dsn: str, guarded: psycopg.Connection[Any]) -> Iterator[Callable[[str], str]]:
    """Makes a login with one of the roles and returns its DSN."""
    made: list[sql.Identifier] = []

    def make(role: str) -> str:
        name = f"login_{uuid.uuid4().hex[:12]}"
        made.append(sql.Identifier(name))
        guarded.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'plain' IN ROLE {}").format(
                made[-1], sql.Identifier(role)
            )
        )
        return make_conninfo(dsn, user=name, password="plain")

    yield make
    for name in made:
        guarded.execute(
            "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity AS a WHERE a.usename = %s",
            [name.as_string().strip('"')],
        )
        guarded.execute(sql.SQL("DROP OWNED BY {}").format(name))
        guarded.execute(sql.SQL("DROP ROLE {}").format(name))


@pytest.fixture
def connected(login: Callable[[str], str]) -> Iterator[Callable[[str], psycopg.Connection[Any]]]:
    """A plain connection of a login with one of the roles."""
    made: list[psycopg.Connection[Any]] = []

    def connect(role: str) -> psycopg.Connection[Any]:
        made.append(psycopg.connect(login(role), autocommit=True))
        return made[-1]

    yield connect
    for connection in made:
        connection.close()
