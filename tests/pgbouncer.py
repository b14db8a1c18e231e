"""A PgBouncer of the test's own, before the server that the tests run on."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgsync.database.embedded.account import choose_account
from tests.eventually import eventually

__all__ = ["PgBouncer", "require_pgbouncer"]

_PORT = "6432"
"""Only a part of the socket's name: it does not listen on TCP."""


def require_pgbouncer() -> str:
    """Its program. Where there is none the test is skipped, but in CI, where it fails."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        reason = "pgbouncer is not installed (Debian: apt-get install pgbouncer)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return program


class PgBouncer:
    """Pools sessions of the server that ``dsn`` leads to; its log is in a refusal to start."""

    def __init__(self, dsn: str, mode: str, settings: Mapping[str, Any] | None = None) -> None:
        self._program = require_pgbouncer()
        self._server = conninfo_to_dict(dsn)
        self._settings = {"pool_mode": mode, **(settings or {})}

    def __enter__(self) -> PgBouncer:
        # Short, since a socket's path may have 107 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="bouncer-", dir="/tmp"))
        # As root, it and PostgreSQL run as the same other user, who may enter the socket's folder.
        account = choose_account(Path(str(self._server.get("host", ""))).parent / "data")
        self._log = self._folder / "log"
        configuration = self._folder / "pgbouncer.ini"
        configuration.write_text(self._configuration())
        account.own(self._folder)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*account.command(Path(self._program)), str(configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                user=account.uid,
                group=account.gid,
                extra_groups=[] if account.uid is not None else None,
            )
        try:
            eventually(self._answers)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder)

    @property
    def dsn(self) -> str:
        """The way through it to the database of the DSN that it was made with."""
        return make_conninfo(
            "", host=str(self._folder), port=_PORT, user="any", dbname=self._server["dbname"]
        )

    def console(self, command: str) -> list[dict[str, Any]]:
        """What its own console answers, for example to ``SHOW POOLS``."""
        admin = make_conninfo(self.dsn, dbname="pgbouncer")
        with psycopg.connect(admin, autocommit=True) as connection:
            cursor = psycopg.ClientCursor(connection, row_factory=psycopg.rows.dict_row)
            return cursor.execute(command.encode()).fetchall()

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            psycopg.connect(self.dsn).close()
        except psycopg.OperationalError:
            return False
        return True

    def _configuration(self) -> str:
        place = {name: self._server.get(name) for name in ("host", "port", "user", "password")}
        way = " ".join(f"{name}='{value}'" for name, value in place.items() if value)
        settings = {
            "unix_socket_dir": self._folder,
            "unix_socket_mode": "0777",
            "listen_port": _PORT,
            "auth_type": "any",
            "admin_users": "any",
            **self._settings,
        }
        lines = (f"{name} = {value}" for name, value in settings.items())
        return "\n".join(["[databases]", f"* = {way}", "[pgbouncer]", *lines, ""])
