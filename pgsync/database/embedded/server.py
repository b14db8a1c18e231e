"""The embedded server: started by the first process that uses it, ended after the last one."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psycopg

from pgsync.database.binaries import find_binaries
from pgsync.database.embedded import supervisor
from pgsync.database.embedded.account import choose_account
from pgsync.database.embedded.borrowed import reachable_binaries
from pgsync.database.embedded.cluster import (
    USER,
    check_settings,
    ensure_data,
    server_environment,
    write_settings,
)
from pgsync.database.embedded.filelock import FileLock, is_shared
from pgsync.database.embedded.folder import ServerFolder, default_path, replace_file
from pgsync.database.embedded.sockets import PORT, socket_folder
from pgsync.database.embedded.status import ServerStatus
from pgsync.errors import ConnectionFailed

__all__ = ["EmbeddedServer"]

DATABASE = "pgsync"

_TIMEOUT = 60.0  # seconds for a server to start or to stop
_POLL = 0.01


class EmbeddedServer:
    """A private PostgreSQL server that the processes of one user share.

    ``start()`` returns the DSN and takes a hold on the server; the server ends a few seconds after
    the last process that holds it has gone, however it went. As a context manager it starts, and
    gives its hold back at the end; the last one out stops the server at once.

    Args:
        path: the server's folder; else ``PGSYNC_DATA_DIR``, else one in the user's data folder
            for each major version of PostgreSQL.
        settings: PostgreSQL settings above pgsync's own; they count for whoever starts the server,
            not for who finds it running.
        grace: seconds that the server goes on after its last user.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        grace: float = 2.0,
    ) -> None:
        self._settings = check_settings(settings or {})
        self._grace = grace
        self._mutex = threading.RLock()
        self._last_error = ""
        self._folder = ServerFolder(
            (default_path(find_binaries().major) if path is None else Path(path)).absolute()
        )
        self._hold = FileLock(self._folder.users_lock)

    @property
    def path(self) -> Path:
        """The server's folder, which holds its data, socket and log."""
        return self._folder.path

    @property
    def dsn(self) -> str:
        """The DSN of the running server, over its Unix socket.

        Raises:
            ConnectionFailed: if it does not run.
        """
        return self._dsn(DATABASE)

    def start(self, persistent: bool = False, *, timeout: float = _TIMEOUT) -> str:
        """Make the server run, hold it, and return its DSN; nothing changes where it runs already.

        A ``persistent`` server stays until ``stop()``, whoever uses it. ``timeout`` is in seconds.

        Raises:
            ConnectionFailed: if it does not come up in that time; the log's end is in the message.
            InvalidArgument: if its folder cannot be used.
            ServerUnsupported: if the folder was made by another major version of PostgreSQL.
        """
        with self._mutex:
            self._folder.create()
            with self._starting_or_stopping(timeout) as start_lock:
                try:
                    if not self._hold.held:
                        self._hold.acquire(shared=True, timeout=timeout)
                    return self._bring_up(start_lock, persistent, time.monotonic() + timeout)
                except BaseException:
                    self._hold.release()
                    raise

    def stop(self, *, timeout: float = _TIMEOUT) -> bool:
        """Stop the server for everybody, and say whether it ran. ``timeout`` is in seconds.

        Raises:
            ConnectionFailed: if it does not end in that time.
        """
        with self._mutex:
            self._hold.release()
            if not self._folder.path.is_dir():
                return False
            with self._starting_or_stopping(timeout):
                return self._bring_down(time.monotonic() + timeout)

    def release(self) -> None:
        """Give this process's hold back; the server ends soon where nobody else holds it."""
        with self._mutex:
            self._hold.release()

    def status(self) -> ServerStatus:
        """What the server does now; changes nothing, and waits for nothing."""
        postmaster = self._folder.postmaster()
        running = postmaster is not None and postmaster.ready
        try:
            dsn = self.dsn if running else None
        except ConnectionFailed:  # it ended between the two looks
            running, dsn = False, None
        return ServerStatus(
            running=running,
            persistent=running and self._folder.read_wanted() == "persistent",
            in_use=running and is_shared(self._folder.users_lock),
            path=self._folder.path,
            log=self._folder.log,
            major=self._folder.major(),
            pid=postmaster.pid if postmaster else None,
            dsn=dsn,
        )

    def hold_descriptor(self) -> int:
        """The descriptor of this process's hold, for a program that goes on in its place."""
        return self._hold.fileno()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        with self._mutex:
            if not self._folder.path.is_dir():
                self._hold.release()
                return
            with self._starting_or_stopping(_TIMEOUT):
                self._hold.release()
                last = not is_shared(self._folder.users_lock)
                if last and self._folder.read_wanted() != "persistent":
                    self._bring_down(time.monotonic() + _TIMEOUT)

    @contextmanager
    def _starting_or_stopping(self, timeout: float) -> Iterator[FileLock]:
        """Nobody else starts or stops the server meanwhile."""
        start_lock = FileLock(self._folder.start_lock)
        start_lock.acquire(timeout=timeout)
        try:
            yield start_lock
        finally:
            start_lock.release()

    def _bring_up(self, start_lock: FileLock, persistent: bool, deadline: float) -> str:
        log_start = self._folder.log_size()
        if persistent or self._folder.read_wanted() != "persistent" or not self._folder.running():
            self._folder.write_wanted("persistent" if persistent else "while-used")
        child: subprocess.Popen[bytes] | None = None
        while not (self._ready() and self._has_database()):
            if not self._folder.supervised():
                if child is not None and child.poll() is not None:
                    raise self._failed("did not start", log_start)
                if child is None:
                    self._prepare(start_lock)
                    child = self._supervise()
            if time.monotonic() > deadline:
                raise self._failed(f"did not become ready in time {self._last_error}", log_start)
            time.sleep(_POLL)
        if child is None and not self._folder.supervised():
            self._supervise()  # the last one was killed, and its server lives on
        return self.dsn

    def _prepare(self, start_lock: FileLock) -> None:
        """Make all that a start needs: the data, the settings, the supervisor's orders."""
        account = choose_account(self._folder.data)
        binaries = reachable_binaries(find_binaries(), account)
        durable = self._settings.get("fsync", "on") != "off"
        ensure_data(self._folder, binaries, account, start_lock, durable=durable)
        write_settings(self._folder, self._settings, account)
        socket_path = str(socket_folder(self._folder, account))
        command = [
            *account.command(binaries.postgres),
            "-D",
            account.data_argument(self._folder.data, binaries.major),
            "-c",
            f"unix_socket_directories={socket_path}",
            "-c",
            "listen_addresses=",
            "-c",
            f"port={PORT}",
        ]
        orders = supervisor.Orders(
            command,
            str(self._folder.data),
            socket_path,
            account.uid,
            account.gid,
            self._grace,
        )
        replace_file(self._folder.orders, json.dumps(orders._asdict()))

    def _supervise(self) -> subprocess.Popen[bytes]:
        with self._folder.open_log() as log:
            child = subprocess.Popen(
                [sys.executable, "-I", "-S", supervisor.__file__, str(self._folder.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=server_environment(),
                start_new_session=True,
            )
        # Reaps it when it ends before this process does.
        threading.Thread(target=child.wait, name="pgsync-embedded-reaper", daemon=True).start()
        return child

    def _bring_down(self, deadline: float) -> bool:
        ran = self._folder.running()
        self._folder.write_wanted("stopped")
        child: subprocess.Popen[bytes] | None = None
        while self._folder.running() or self._folder.supervised():
            if not self._folder.supervised() and (child is None or child.poll() is not None):
                child = self._supervise()
            if time.monotonic() > deadline:
                raise self._failed("did not stop in time", 0)
            time.sleep(_POLL)
        return ran

    def _ready(self) -> bool:
        postmaster = self._folder.postmaster()
        if postmaster is None or not postmaster.ready:
            return False
        with socket.socket(socket.AF_UNIX) as trial:
            trial.settimeout(5.0)
            try:
                trial.connect(f"{postmaster.socket_folder}/.s.PGSQL.{postmaster.port}")
            except OSError:
                return False
        return True

    def _has_database(self) -> bool:
        """Make the database unless it is there; False where the server does not answer."""
        try:
            dsn = self._dsn("postgres")
            with psycopg.connect(dsn, connect_timeout=10, autocommit=True) as connection:
                known = connection.execute(
                    "SELECT FROM pg_database WHERE datname = %s", [DATABASE]
                ).fetchone()
                if known is None:
                    connection.execute(f"CREATE DATABASE {DATABASE}")
        except (psycopg.OperationalError, ConnectionFailed) as error:
            self._last_error = str(error).strip()
            return False
        return True

    def _dsn(self, database: str) -> str:
        postmaster = self._folder.postmaster()
        if postmaster is None:
            raise ConnectionFailed(
                f"the embedded server in {self._folder.path} does not run; call start(), or run "
                "pgsync db start"
            )
        host = quote(postmaster.socket_folder, safe="")
        return f"postgresql://{USER}@/{database}?host={host}&port={postmaster.port}"

    def _failed(self, what: str, log_start: int) -> ConnectionFailed:
        tail = self._folder.log_tail(log_start) or "(its log is empty)"
        return ConnectionFailed(
            f"the embedded server in {self._folder.path} {what}; the end of {self._folder.log}:\n"
            f"{tail}"
        )
