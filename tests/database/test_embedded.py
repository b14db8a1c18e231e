"""The embedded server, shared by processes that come and go."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from pgsync.errors import ConnectionFailed
from tests.database.embedded import GRACE, dsn_of, embedded, query, spawn
from tests.eventually import eventually


def test_new_folder(tmp_path: Path) -> None:
    path = tmp_path / "not" / "yet" / "there"
    with embedded(path) as server:
        assert query(server.dsn, "SHOW server_encoding") == "UTF8"
        assert query(server.dsn, "SELECT length('ärger')") == "5"
        assert query(server.dsn, "SELECT current_database()") == "pgsync"
        assert query(server.dsn, "SHOW listen_addresses") == ""
        assert query(server.dsn, "SHOW timezone") == "UTC"
        assert query(server.dsn, "SHOW fsync") == "off"
        assert query(server.dsn, "SHOW data_checksums") == "on"
        locks = (
            "SELECT current_setting('max_locks_per_transaction')::int"
            " * current_setting('max_connections')::int >= 40000"
        )
        assert query(server.dsn, locks) == "True"
        socket = Path(query(server.dsn, "SHOW unix_socket_directories"))
        assert path / "data" not in (socket, *socket.parents)
        assert socket.stat().st_mode & 0o077 == 0
        assert (path / "data").stat().st_mode & 0o077 == 0
        assert server.status().running
        assert server.start() == server.dsn
    assert not server.status().running
    with pytest.raises(ConnectionFailed, match="call start"):
        _ = server.dsn


def test_restart_keeps_the_data(home: Path) -> None:
    server = embedded(home)
    for _ in range(2):
        assert query(server.start(), "SELECT value FROM kept") == "here"
        assert server.stop() is True
        assert not server.status().running
    assert server.stop() is False


def test_two_that_start_at_once_share_one_server(
    tmp_path: Path, users: list[subprocess.Popen[str]]
) -> None:
    path = tmp_path / "home"
    users += [spawn(path), spawn(path), spawn(path)]
    dsns = {dsn_of(process) for process in users}
    assert len(dsns) == 1
    started = {query(dsn, "SELECT pg_postmaster_start_time()") for dsn in dsns}
    assert len(started) == 1
    assert (path / "server.log").read_text().count("starting PostgreSQL") == 1
    embedded(path).stop()


def test_it_outlives_its_starter_and_ends_after_the_last_user(
    home: Path, users: list[subprocess.Popen[str]]
) -> None:
    users += [spawn(home)]
    dsn_of(users[0])
    users += [spawn(home)]
    dsn = dsn_of(users[1])
    pid = embedded(home).status().pid
    users[0].kill()
    users[0].wait(30)
    assert query(dsn, "SELECT value FROM kept") == "here"
    users[1].kill()
    users[1].wait()
    eventually(lambda: not embedded(home).status().running)
    assert query(embedded(home).start(), "SELECT value FROM kept") == "here"
    assert embedded(home).status().pid != pid
    assert "shutting down" in (home / "server.log").read_text()


def test_leaving_a_shared_server_does_not_stop_it(
    home: Path, users: list[subprocess.Popen[str]]
) -> None:
    users += [spawn(home)]
    dsn = dsn_of(users[0])
    with embedded(home) as server:
        assert server.dsn == dsn
    assert query(dsn, "SELECT value FROM kept") == "here"
    users[0].communicate("go\n")
    eventually(lambda: not embedded(home).status().running)


def test_persistent_stays_until_it_is_stopped(home: Path) -> None:
    server = embedded(home)
    dsn = server.start(persistent=True)
    server.release()
    with embedded(home):
        assert embedded(home).status().persistent
    held_for = time.monotonic() + 5 * GRACE
    eventually(lambda: time.monotonic() > held_for)  # nothing shall happen in this time
    assert query(dsn, "SELECT value FROM kept") == "here"
    assert not embedded(home).status().in_use
    assert embedded(home).stop() is True
    assert not embedded(home).status().running


def test_deep_folder_gets_a_short_socket(home: Path, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    home.rename(deep)
    with embedded(deep) as server:
        socket = Path(query(server.dsn, "SHOW unix_socket_directories"))
        assert deep not in socket.parents
        assert socket.stat().st_mode & 0o077 == 0
        assert query(server.dsn, "SELECT value FROM kept") == "here"
    assert not socket.exists()
