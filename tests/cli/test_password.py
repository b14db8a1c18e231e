"""A server that asks for a password: a wrong one is refused in one line that does not repeat it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgsync.database.embedded import EmbeddedServer
from tests.eventually import eventually

_RIGHT, _WRONG = "the-right-one", "the-wrong-one"


def _accepts(dsn: str) -> bool:
    try:
        psycopg.connect(dsn).close()
    except psycopg.OperationalError:
        return False
    return True


def _migrate(dsn: str) -> subprocess.CompletedProcess[str]:
    program = "from pgsync.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, "migrate", "--dsn", dsn],
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.core
def test_a_wrong_password_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "server", settings={"fsync": "off"}) as server:
        rules = tmp_path / "server" / "data" / "pg_hba.conf"
        rules.write_text("local all guarded scram-sha-256\n" + rules.read_text())
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE guarded LOGIN SUPERUSER PASSWORD '{_RIGHT}'")
            connection.execute("SELECT pg_reload_conf()")
        right = make_conninfo(server.dsn, user="guarded", password=_RIGHT)
        wrong = make_conninfo(server.dsn, user="guarded", password=_WRONG)
        eventually(lambda: _accepts(right) and not _accepts(wrong))

        refused = _migrate(wrong)
        assert refused.returncode == 2
        assert len(refused.stderr.strip().splitlines()) == 1
        assert "password authentication failed" in refused.stderr
        assert _WRONG not in refused.stderr + refused.stdout
        assert _migrate(right).returncode == 0
