"""What the embedded server refuses, and what it says where it cannot start."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgsync.database.binaries import find_binaries
from pgsync.database.embedded import EmbeddedServer
from pgsync.errors import ConnectionFailed, InvalidArgument, ServerUnsupported
from tests.database.embedded import embedded, query


def test_server_that_cannot_start_says_why(home: Path) -> None:
    with pytest.raises(ConnectionFailed, match=r'(?s)did not start; the end of .*"nonsense"'):
        embedded(home, wal_sync_method="nonsense").start()
    with embedded(home) as server:
        assert query(server.dsn, "SELECT value FROM kept") == "here"


def test_initdb_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bindir = tmp_path / "bin"
    bindir.mkdir()
    for name, line in (("postgres", "echo 'postgres (PostgreSQL) 18.1'"), ("initdb", "bad")):
        (bindir / name).write_text(
            f"#!/bin/sh\n{line} || {{ echo 'no share folder' >&2; exit 1; }}\n"
        )
        (bindir / name).chmod(0o755)
    monkeypatch.setenv("PGSYNC_PG_BINDIR", str(bindir))
    with pytest.raises(ConnectionFailed, match=r"(?s)initdb said:.*no share folder"):
        embedded(tmp_path / "home").start()
    assert not list((tmp_path / "home").glob("data*"))


def test_folder_of_another_major_version(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text("13\n")
    with pytest.raises(ServerUnsupported, match="made by PostgreSQL 13"):
        embedded(tmp_path).start()
    with pytest.raises(InvalidArgument, match="data folder of another PostgreSQL server"):
        embedded(tmp_path / "data").start()


def test_folders_that_are_something_else(tmp_path: Path) -> None:
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "data" / "letter.txt").touch()
    with pytest.raises(InvalidArgument, match="not a PostgreSQL data folder"):
        embedded(tmp_path / "mine").start()
    (tmp_path / "file").touch()
    with pytest.raises(InvalidArgument, match="cannot be made"):
        embedded(tmp_path / "file").start()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fsync = off; x": "1"}, "not the name of a PostgreSQL setting"),
        ({"work_mem": "4MB\nfsync = off"}, "must be one line"),
        ({"port": "5433"}, "decides port itself"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=message):
        EmbeddedServer(tmp_path, settings=settings)


def test_settings_are_quoted(home: Path) -> None:
    odd = r"it's \ odd"
    with embedded(home, cluster_name="x", **{"pgsync.note": odd}) as server:
        assert query(server.dsn, "SHOW pgsync.note") == odd


def test_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSYNC_DATA_DIR", str(tmp_path / "named"))
    assert EmbeddedServer().path == tmp_path / "named"
    monkeypatch.delenv("PGSYNC_DATA_DIR")
    assert EmbeddedServer().path.name == f"postgres-{find_binaries().major}"
