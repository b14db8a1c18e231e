"""The doctor: each thing is broken on a real server, seen, and well again where it is mended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgsync import Coordinator
from pgsync.cli.main import cli
from pgsync.database.embedded import EmbeddedServer
from pgsync.database.migrations import migrate
from pgsync.doctor import Finding, checks, examine
from pgsync.doctor import server as server_checks

pytestmark = pytest.mark.core


def _look(connection: psycopg.Connection[Any], name: str) -> list[Finding]:
    """What the checks of this name, or the settings of it, say now; ok findings left out."""
    dsn = connection.info.dsn
    findings = [
        finding
        for check in checks(dsn)
        if check.name in (name, "settings")
        for finding in check.look(connection)
    ]
    assert name in [finding.check for finding in findings]
    return [each for each in findings if each.check == name and each.level != "ok"]


_BROKEN = {
    "isolation": ("failure", "SET default_transaction_isolation = 'serializable'", "serializ"),
    "track_counts": ("failure", "SET track_counts = off", "dead rows"),
    "client_connection_check_interval": (
        "warning",
        "SET client_connection_check_interval = 0",
        "keeps its place",
    ),
    "idle_session_timeout": ("failure", "SET idle_session_timeout = '1h'", "1h"),
    "synchronous_commit": ("warning", "SET synchronous_commit = off", "forgets"),
    "jit": ("warning", "SET jit = on; SET jit_above_cost = 10", "cost of 10"),
    "functions": (
        "warning",
        "UPDATE pgsync.schema_migration SET checksum = 'x' WHERE component = 'api'",
        "another version",
    ),
    "schema": (
        "failure",
        "DELETE FROM pgsync.schema_migration WHERE component = 'kernel' AND version = 7",
        "needs migration 7",
    ),
    "autovacuum of tables": (
        "failure",
        "ALTER TABLE pgsync.job_ready SET (autovacuum_enabled = false)",
        "pgsync.job_ready",
    ),
    "dead rows": (
        "warning",
        """
        CREATE TABLE pgsync.full_of_dead_rows (n) WITH (autovacuum_enabled = false)
            AS SELECT n FROM generate_series(1, 100001) AS n;
        DELETE FROM pgsync.full_of_dead_rows;
        SELECT pg_stat_force_next_flush();
        """,
        "100001 dead rows beside 0",
    ),
    "workers": (
        "warning",
        """
        SELECT pgsync.register_worker('w', 'far.away', 7, '1', ARRAY['q'], 1);
        UPDATE pgsync.worker SET seen_at = clock_timestamp() - interval '5 minutes'
        """,
        "process 7 on far.away",
    ),
    "deaf workers": (
        "warning",
        """
        SELECT pgsync.register_worker('w', 'far.away', 7, '1', ARRAY['q'], 1);
        SELECT pgsync.worker_hears(max(w.id), false) FROM pgsync.workers AS w
        """,
        "(w on far.away) has heard of no new job for 00:00",
    ),
    "queues without workers": (
        "failure",
        """
        SELECT pgsync.enqueue('t', queue => 'a lonely one');
        UPDATE pgsync.job_ready SET run_at = run_at - interval '2 minutes'
        """,
        "'a lonely one' has jobs that could run, for 00:02",
    ),
    "paused queues": (
        "warning",
        """
        SELECT pgsync.pause_queue('q', 'ann'), pgsync.enqueue('t', queue => 'q');
        UPDATE pgsync.queue SET paused_at = paused_at - interval '2 hours'
        """,
        "by ann",
    ),
    "failed duties": (
        "failure",
        "SELECT pgsync.record_duty('keep floors', 'd', pgsync.clock(), '1 s', 0, 'it broke')",
        "'keep floors' failed: it broke",
    ),
    "partitions ahead": (
        "warning",
        """
        DO $$ BEGIN EXECUTE format('DROP TABLE pgsync.job_finished_%s',
            to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYYMMDD')); END $$
        """,
        "no partition for 2",
    ),
    "partitions past their time": (
        "warning",
        """
        CREATE TABLE pgsync.job_finished_20200101 PARTITION OF pgsync.job_finished
            FOR VALUES FROM ('2020-01-01 00:00Z') TO ('2020-01-02 00:00Z')
        """,
        "job_finished_20200101",
    ),
    "history outside its partitions": (
        "warning",
        """
        SELECT pgsync.cancel_job(pgsync.enqueue('t'));
        UPDATE pgsync.job_finished SET finished_at = '2021-01-01'
        """,
        "job_finished_default",
    ),
}


@pytest.mark.parametrize("name", _BROKEN)
def test_what_is_broken_is_found_with_its_remedy(
    name: str, database: psycopg.Connection[Any]
) -> None:
    level, statements, words = _BROKEN[name]
    usual = _look(database, name)
    if name != "synchronous_commit":  # The test's server has that one off.
        assert usual == []
    database.execute(statements.encode())
    (finding,) = _look(database, name)
    assert finding.level == level
    assert words in finding.found
    assert finding.remedy


def test_a_duty_is_late_after_three_of_its_intervals(database: psycopg.Connection[Any]) -> None:
    def late() -> int:
        return sum(int(found.found.split()[0]) for found in _look(database, "late duties"))

    assert late() == 0
    database.execute("UPDATE pgsync.schema_migration SET applied_at = now() - interval '4 h'")
    never = late()
    assert never > 10
    database.execute("CALL pgsync.do_duties(ARRAY['promote due jobs'])")
    assert late() == never - 1
    database.execute("UPDATE pgsync.duty_run SET last_run_at = last_run_at - interval '5 h'")
    assert late() == never
    assert "longest 'promote due jobs'" in _look(database, "late duties")[0].found


def test_a_lock_past_its_deadline(database: psycopg.Connection[Any], sync: Coordinator) -> None:
    with sync.lock("report", ttl=60, owner="ann"):
        assert _look(database, "locks past their deadline") == []
        database.execute("UPDATE pgsync.lock_holder SET expires_at = expires_at - interval '2 min'")
        (finding,) = _look(database, "locks past their deadline")
    assert "'report' of ann should have ended 00:0" in finding.found


def test_clocks_that_differ(
    database: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _look(database, "clock") == []
    now = server_checks.time.time()
    monkeypatch.setattr(server_checks.time, "time", lambda: now - 3600)
    (finding,) = _look(database, "clock")
    assert "3.6e+03 s apart" in finding.found


@pytest.fixture
def role(server_dsn: str, dsn: str) -> Iterator[str]:
    """A role that may connect, and no more."""
    name = "pgsync_test_" + str(conninfo_to_dict(dsn)["dbname"])[-16:]
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
    yield name
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def test_missing_rights_are_granted_as_the_remedies_say(
    dsn: str, role: str, database: psycopg.Connection[Any]
) -> None:
    as_role = make_conninfo(dsn, user=role)
    refused = CliRunner().invoke(cli, ["doctor", "--dsn", as_role, "--json"])
    assert refused.exit_code == 4
    assert "permission denied" in refused.output
    database.execute(
        sql.SQL(
            "GRANT USAGE ON SCHEMA pgsync TO {0}; GRANT SELECT ON pgsync.schema_migration TO {0}"
        )
        .format(sql.Identifier(role))
        .as_string()
        .encode()
    )
    database.execute("REVOKE EXECUTE ON FUNCTION pgsync.clock() FROM public")
    names = ("rights on tables", "rights on functions", "rights of a daemon")
    with psycopg.connect(as_role, autocommit=True) as connection:
        levels = [[f.level for f in _look(connection, name)] for name in names]
        assert levels == [["failure"], ["failure"], ["warning", "warning"]]
        remedies = [f.remedy or "" for name in names for f in _look(connection, name)]
        for remedy in remedies:
            database.execute(remedy.partition("or ")[2].encode() or remedy.encode())
        assert [f.found for name in names for f in _look(connection, name)] == []


def test_a_server_that_is_full(tmp_path: Path) -> None:
    settings = {
        "fsync": "off",
        "autovacuum": "off",
        "max_connections": "10",
        "max_locks_per_transaction": "20",
    }
    with EmbeddedServer(tmp_path / "server", settings=settings) as server, ExitStack() as stack:
        migrate(server.dsn)
        database = stack.enter_context(psycopg.connect(server.dsn, autocommit=True))
        for name in ("connections", "locks"):
            assert _look(database, name) == []
        for name, level in (("autovacuum", "failure"), ("fsync", "warning")):
            assert [f.level for f in _look(database, name)] == [level]
        database.execute("SELECT pg_advisory_lock(n) FROM generate_series(1, 120) AS n")
        assert [f.level for f in _look(database, "locks")] == ["warning"]
        database.execute("SELECT pg_advisory_lock(n) FROM generate_series(1, 190) AS n")
        assert [f.level for f in _look(database, "locks")] == ["failure"]
        for _ in range(5):
            stack.enter_context(psycopg.connect(server.dsn))
        assert [f.level for f in _look(database, "connections")] == ["warning"]


def test_notifications_that_nobody_hears(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "server", settings={"fsync": "off"}) as server:
        with psycopg.connect(server.dsn, autocommit=True) as database:
            if database.info.server_version < 170000:
                pytest.skip("the queue is 8 GB there")
            database.execute("ALTER SYSTEM SET max_notify_queue_pages = 64")
        server.stop()
    with EmbeddedServer(tmp_path / "server", settings={"fsync": "off"}) as server:
        migrate(server.dsn)
        with (
            psycopg.connect(server.dsn, autocommit=True) as database,
            psycopg.connect(server.dsn) as deaf,
        ):
            assert _look(database, "notifications") == []
            deaf.execute("LISTEN a")
            deaf.commit()
            deaf.execute("SELECT 1")
            for n in range(30):
                database.execute("SELECT pg_notify('a', %s)", [f"{n:07000}"])
            (finding,) = _look(database, "notifications")
            assert finding.level == "warning"


def test_all_of_it_as_json(dsn: str, database: psycopg.Connection[Any]) -> None:
    well = CliRunner().invoke(cli, ["doctor", "--dsn", dsn, "--json"])
    assert well.exit_code == 0, well.output
    findings = json.loads(well.stdout)
    assert {"check", "level", "found", "remedy"} == set(findings[0])
    assert {each["level"] for each in findings} <= {"ok", "warning"}
    database.execute(_BROKEN["queues without workers"][1].encode())
    broken = CliRunner().invoke(cli, ["doctor", "--dsn", dsn])
    assert broken.exit_code == 4
    assert "FAIL  queues without workers: queue 'a lonely one'" in broken.stdout
    assert "do: pgsync worker --app" in broken.stdout


def test_without_a_schema_the_server_is_looked_at(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        findings = list(examine(connection, empty_dsn))
    assert findings[-1].check == "schema"
    assert findings[-1].level == "failure"
    assert "pgsync migrate" in findings[-1].found
