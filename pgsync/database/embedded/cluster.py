"""Making the data folder of an embedded server, and writing its settings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pgsync.database.binaries import Binaries
from pgsync.database.embedded.account import Account
from pgsync.database.embedded.filelock import FileLock
from pgsync.database.embedded.folder import ServerFolder, replace_file
from pgsync.errors import ConnectionFailed, InvalidArgument, ServerUnsupported

USER = "pgsync"

SETTINGS: Mapping[str, str] = {
    "max_connections": "200",
    # 256 * 200 connections = 51,200 places: 10,000 advisory locks stay under a quarter of them.
    "max_locks_per_transaction": "256",
    "shared_buffers": "256MB",
    "wal_compression": "on",
    # A client that was killed while its statement waited is noticed after this time.
    "client_connection_check_interval": "2s",
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] %q%a ",
}
"""What pgsync raises above PostgreSQL's defaults; ``EmbeddedServer(settings=)`` goes above it."""

_INITDB_TIMEOUT = 120.0
_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_RESERVED = {"unix_socket_directories", "listen_addresses", "port", "data_directory"}


def check_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """Return ``settings`` if they can be written into a configuration file.

    Raises:
        InvalidArgument: for a name or a value that PostgreSQL could not read, or one of the
            settings that the embedded server decides for itself.
    """
    for name, value in settings.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name):
            raise InvalidArgument(f"{name!r} is not the name of a PostgreSQL setting")
        if name.lower() in _RESERVED:
            raise InvalidArgument(f"the embedded server decides {name} itself; leave it out")
        if any(mark in value for mark in "\0\r\n"):
            raise InvalidArgument(f"the setting {name} must be one line of text, not {value!r}")
    return dict(settings)


def write_settings(folder: ServerFolder, settings: Mapping[str, str], account: Account) -> None:
    """Write the settings of the next start, which ``ALTER SYSTEM`` can still override."""
    quoted = {
        name: value.replace("\\", "\\\\").replace("'", "''")
        for name, value in {**SETTINGS, **settings}.items()
    }
    lines = ["# Written by pgsync at each start; use ALTER SYSTEM, or postgresql.conf below it."]
    lines += [f"{name} = '{value}'" for name, value in quoted.items()]
    conf = folder.data / "pgsync.conf"
    replace_file(conf, "\n".join(lines) + "\n")
    account.own(conf)


def ensure_data(
    folder: ServerFolder,
    binaries: Binaries,
    account: Account,
    start_lock: FileLock,
    *,
    durable: bool,
) -> None:
    """Make the data folder unless it is there; a kill at any moment leaves all of it or nothing.

    Raises:
        ServerUnsupported: if it is there, and was made by another major version.
        InvalidArgument: if something else is in its place.
        ConnectionFailed: if initdb fails.
    """
    major = folder.major()
    if major is None:
        if folder.data.exists() and any(folder.data.iterdir()):
            raise InvalidArgument(
                f"{folder.data} is not empty and not a PostgreSQL data folder; move it away, or "
                "set PGSYNC_DATA_DIR to another folder"
            )
        _make_data(folder, binaries, account, start_lock, durable=durable)
    elif major != binaries.major:
        raise ServerUnsupported(
            f"{folder.data} was made by PostgreSQL {major}, and {binaries.bindir} is "
            f"{binaries.version}; set PGSYNC_PG_BINDIR to a PostgreSQL {major}, or PGSYNC_DATA_DIR "
            "to another folder and move the data with pg_dump"
        )


def server_environment() -> dict[str, str]:
    """What a server needs of this process's environment: no PG*, no locale, no secrets."""
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return {**kept, "LC_ALL": "C"}


def _make_data(
    folder: ServerFolder,
    binaries: Binaries,
    account: Account,
    start_lock: FileLock,
    *,
    durable: bool,
) -> None:
    for left in folder.path.glob("data.new-*"):
        shutil.rmtree(left, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(prefix="data.new-", dir=folder.path))
    account.own(fresh)
    _run_initdb(fresh, binaries, account, start_lock, durable=durable)
    with (fresh / "postgresql.conf").open("a", encoding="utf-8") as conf:
        conf.write("\ninclude_if_exists = 'pgsync.conf'\t# written by pgsync at each start\n")
        conf.flush()
        os.fsync(conf.fileno())
    fresh.rename(folder.data)
    _sync_folder(folder.path)


def _run_initdb(
    fresh: Path, binaries: Binaries, account: Account, start_lock: FileLock, *, durable: bool
) -> None:
    locale = ["--locale=C", "--encoding=UTF8"]
    if binaries.major >= 17:
        locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    try:
        done = subprocess.run(
            [
                *account.command(binaries.initdb),
                f"--pgdata={account.data_argument(fresh, binaries.major)}",
                f"--username={USER}",
                "--auth-local=trust",
                "--auth-host=reject",
                "--data-checksums",
                *locale,
                *([] if durable else ["--no-sync"]),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_INITDB_TIMEOUT,
            check=False,
            cwd=fresh,
            env=server_environment(),
            user=account.uid,
            group=account.gid,
            extra_groups=[] if account.uid is not None else None,
            # Where this process is killed, initdb keeps the lock until it has ended too.
            pass_fds=[start_lock.fileno()],
        )
    except subprocess.TimeoutExpired as error:
        raise ConnectionFailed(
            f"initdb did not finish in {_INITDB_TIMEOUT:g} seconds in {fresh}; is that disk alive?"
        ) from error
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        shutil.rmtree(fresh, ignore_errors=True)
        raise ConnectionFailed(f"the embedded server's data was not made; initdb said:\n{said}")


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
