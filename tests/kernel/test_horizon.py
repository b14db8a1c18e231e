"""Who pins the vacuum horizon: an open snapshot, a prepared transaction, a slot: seen and named."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
from click.testing import CliRunner

from pgsync.cli.main import cli
from pgsync.database.embedded import EmbeddedServer
from pgsync.database.migrations import migrate

_SETTINGS = {"fsync": "off", "max_prepared_transactions": "5", "wal_level": "logical"}


def test_the_culprits_are_named_oldest_first(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "server", settings=_SETTINGS) as server:
        migrate(server.dsn)
        with (
            psycopg.connect(server.dsn, autocommit=True) as database,
            psycopg.connect(server.dsn, application_name="analyst") as analyst,
            psycopg.connect(server.dsn, autocommit=True) as two_phase,
        ):
            seen = "SELECT kind, pid, name, state, query, ended_by FROM pgsync.oldest_snapshot"
            assert database.execute(seen).fetchall() == []
            analyst.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            analyst.execute("SELECT 'a long report'")
            database.execute("CREATE TABLE other (n integer)")
            two_phase.execute("BEGIN")
            two_phase.execute("INSERT INTO other VALUES (1)")
            two_phase.execute("PREPARE TRANSACTION 'left behind'")
            database.execute("INSERT INTO other VALUES (2)")
            rows = database.execute(seen).fetchall()
            assert [row[:4] for row in rows] == [
                ("session", analyst.info.backend_pid, "analyst", "idle in transaction"),
                ("prepared transaction", None, "left behind", "prepared"),
            ]
            assert "a long report" in rows[0][4]

            def warnings(*options: str) -> list[dict[str, str]]:
                doctor = ["doctor", "--dsn", server.dsn, "--json", *options]
                found = CliRunner().invoke(cli, doctor)
                assert found.exit_code == 0
                findings = json.loads(found.stdout)
                return [f for f in findings if f["check"] == "vacuum" and f["level"] == "warning"]

            assert warnings() == []
            session, prepared = warnings("--snapshot-age", "0")
            assert f"session {analyst.info.backend_pid} 'analyst'" in session["found"]
            assert prepared["remedy"] == "ROLLBACK PREPARED 'left behind'"

            # What ended_by says ends it.
            for row in rows:
                database.execute(row[5].encode())
            assert database.execute("SELECT count(*) FROM pg_prepared_xacts").fetchone() == (0,)
            database.execute("SELECT pg_terminate_backend(%s, 5000)", [analyst.info.backend_pid])
            analyst.close()
            assert database.execute(seen).fetchall() == []


def test_a_replication_slot_that_nobody_reads_is_named(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "server", settings=_SETTINGS) as server:
        migrate(server.dsn)
        with psycopg.connect(server.dsn, autocommit=True) as database:
            seen = "SELECT kind, pid, name, state, ended_by FROM pgsync.oldest_snapshot"
            database.execute("SELECT pg_create_logical_replication_slot('left_behind', 'pgoutput')")
            database.execute("CREATE TABLE other (n integer)")
            rows = database.execute(seen).fetchall()
            assert [row[:4] for row in rows] == [
                ("replication slot", None, "left_behind", "inactive")
            ]
            database.execute(rows[0][4].encode())
            assert database.execute(seen).fetchall() == []
