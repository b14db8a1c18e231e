"""Bad input at the command line's door: one clear line, exit 2, no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgsync import Coordinator, Limit
from tests.cli.old_server import OldServer


@pytest.fixture
def pgsync() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line in a process of its own."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        program = "from pgsync.cli import main; main()"
        return subprocess.run(
            [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=240
        )

    return run


def _refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_nobody_listens(pgsync: Any) -> None:
    dsn = "postgresql://u:sesame@127.0.0.1:1/x"
    done = pgsync("status", "--dsn", dsn)
    _refused(done, "cannot connect", "refused")
    assert "sesame" not in done.stderr


def test_an_unreadable_dsn(pgsync: Any) -> None:
    _refused(pgsync("status", "--dsn", "not a dsn"), "cannot be read", "postgresql://")


def test_an_unknown_database(pgsync: Any, server_dsn: str) -> None:
    dsn = make_conninfo(server_dsn, dbname="no_such_database")
    _refused(pgsync("migrate", "--dsn", dsn), "no_such_database", "does not exist")


def test_an_unknown_role(pgsync: Any, dsn: str) -> None:
    _refused(pgsync("status", "--dsn", make_conninfo(dsn, user="nobody_known")), "nobody_known")


def test_an_old_server(pgsync: Any) -> None:
    with OldServer("13.4") as server:
        done = pgsync("migrate", "--dsn", server.dsn)
    _refused(done, "PostgreSQL 13", "needs 15 or newer")


def test_no_schema(pgsync: Any, empty_dsn: str) -> None:
    _refused(pgsync("status", "--dsn", empty_dsn), "pgsync migrate")


def test_a_read_only_database(pgsync: Any, empty_dsn: str, server_dsn: str) -> None:
    name = conninfo_to_dict(empty_dsn)["dbname"]
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(
            sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(
                sql.Identifier(str(name))
            )
        )
    _refused(pgsync("migrate", "--dsn", empty_dsn), "read only")


def test_missing_rights(pgsync: Any, empty_dsn: str, server_dsn: str) -> None:
    role = "pgsync_test_" + str(conninfo_to_dict(empty_dsn)["dbname"])[-16:]
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        try:
            done = pgsync("migrate", "--dsn", make_conninfo(empty_dsn, user=role))
        finally:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
    _refused(done, "permission denied", "grant")


def test_a_schema_from_the_future(pgsync: Any, dsn: str, database: Any) -> None:
    database.execute("UPDATE pgsync.schema_migration SET name = '9.0.0' WHERE component = 'api'")
    for command in ("migrate", "status"):
        _refused(pgsync(command, "--dsn", dsn), "9.0.0", "upgrade pgsync")


def test_an_unknown_app(pgsync: Any) -> None:
    _refused(pgsync("worker", "--app", "no_such_module:sync"), "no_such_module")


def test_a_held_lock_is_exit_3(pgsync: Any, dsn: str, sync: Coordinator) -> None:
    with sync.lock("report", ttl=60, owner="the test"):
        done = pgsync("locks", "run", "--dsn", dsn, "report", "--", "true")
    assert done.returncode == 3
    assert "the test" in done.stderr
    assert pgsync("locks", "run", "--dsn", dsn, "report", "--", "false").returncode == 1


def test_lists_as_json(pgsync: Any, dsn: str, sync: Coordinator) -> None:
    with sync.lock("report", ttl=60):
        rows = json.loads(pgsync("locks", "list", "--dsn", dsn, "--json").stdout)
    assert [row["name"] for row in rows] == ["report"]
    assert 0 < rows[0]["remaining"] <= 60


def test_an_operator_pauses_retries_and_cancels(
    pgsync: Any, dsn: str, sync: Coordinator, database: Any
) -> None:
    job = database.execute("SELECT pgsync.enqueue('t', queue => 'q')").fetchone()[0]
    assert pgsync("queues", "pause", "--dsn", dsn, "q", "--by", "me").returncode == 0
    row = json.loads(pgsync("queues", "list", "--dsn", dsn, "--json").stdout)[0]
    assert (row["name"], row["paused"], row["available"]) == ("q", True, 1)
    assert pgsync("queues", "resume", "--dsn", dsn, "q").stdout == "resumed\n"
    assert pgsync("jobs", "cancel", "--dsn", dsn, str(job)).stdout == f"{job} cancelled\n"
    assert pgsync("jobs", "retry", "--dsn", dsn, str(job)).stdout == f"{job} available\n"
    assert (
        f"job {job}: t on queue q, available"
        in pgsync("jobs", "show", "--dsn", dsn, str(job)).stdout
    )


def test_an_operator_raises_one_tenant(pgsync: Any, dsn: str, sync: Coordinator) -> None:
    limiter = sync.limiter("graph", Limit(1, per=60), remember=0)
    limiter.hit("7")
    assert not limiter.hit("7")
    done = pgsync("limits", "set", "--dsn", dsn, "graph:7", "5/60", "--by", "ann", "--why", "big")
    assert done.stdout == "graph:7: 5 per 60 s\n", done
    assert limiter.hit("7").remaining == 3
    (shown,) = json.loads(pgsync("limits", "show", "--dsn", dsn, "--json", "graph:7").stdout)
    assert (shown["max"], shown["hits"], shown["is_set"]) == (5, 2, True)
    (listed,) = json.loads(pgsync("limits", "list", "--dsn", dsn, "--json").stdout)
    assert (listed["key"], listed["fill"]) == ("graph:7", 0.4)
    (setting,) = json.loads(pgsync("limits", "overrides", "--dsn", dsn, "--json").stdout)
    assert (setting["set_by"], setting["reason"]) == ("ann", "big")
    assert pgsync("limits", "unset", "--dsn", dsn, "graph:7", "--per", "60").returncode == 0
    assert not limiter.hit("7")
    assert pgsync("limits", "unset", "--dsn", dsn, "graph:7", "--per", "60").returncode == 3
    assert pgsync("limits", "set", "--dsn", dsn, "graph:7", "lots").returncode == 2


def test_control_characters_do_not_reach_the_terminal(pgsync: Any, dsn: str, database: Any) -> None:
    database.execute("SELECT pgsync.enqueue(E'evil\\x1b[2J')")
    assert "\x1b" not in pgsync("jobs", "list", "--dsn", dsn).stdout


def test_the_sql_is_printed_without_connecting(pgsync: Any) -> None:
    done = pgsync("migrate", "--sql", "--dsn", "postgresql://127.0.0.1:1/x")
    assert done.returncode == 0
    assert "CREATE OR REPLACE FUNCTION pgsync.try_lock" in done.stdout
