"""A server that listens on TCP, which the embedded one never does."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path

import psycopg

from pgsync.database.binaries import find_binaries
from pgsync.database.embedded.account import choose_account
from pgsync.database.embedded.borrowed import reachable_binaries
from tests.eventually import eventually

__all__ = ["TcpServer"]


class TcpServer:
    """PostgreSQL on a port of the loopback interface, with its data in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._data = folder / "data"

    def __enter__(self) -> TcpServer:
        account = choose_account(self._data)
        binaries = reachable_binaries(find_binaries(), account)
        self._data.mkdir()
        account.own(self._data)
        data = account.data_argument(self._data, binaries.major)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.dsn = f"postgresql://pgsync@127.0.0.1:{port}/postgres?sslmode=disable"

        def begin(program: Path, *arguments: str) -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                [*account.command(program), "-D", data, *arguments],
                cwd=self._data,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                user=account.uid,
                group=account.gid,
                extra_groups=[] if account.uid is not None else None,
            )

        made = begin(binaries.initdb, "--username=pgsync", "--auth=trust", "--no-sync", "-EUTF8")
        assert made.wait(60) == 0
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            "fsync": "off",
        }
        self._process = begin(
            binaries.postgres, *(f"--{name}={value}" for name, value in settings.items())
        )
        eventually(self._answers)
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.send_signal(signal.SIGINT)  # end without waiting for clients
        try:
            self._process.wait(20)
        finally:
            self._process.kill()

    def _answers(self) -> bool:
        assert self._process.poll() is None
        try:
            psycopg.connect(self.dsn).close()
        except psycopg.OperationalError:
            return False
        return True
