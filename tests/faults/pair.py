"""A primary and its synchronous standby, which is promoted over it at will."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgsync.database.binaries import find_binaries
from pgsync.database.embedded import EmbeddedServer
from tests.eventually import eventually
from tests.faults.disk import Disk

__all__ = ["Node", "Pair", "kill_for_good", "signal_postmaster"]

_STREAMS = "SELECT FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'sync'"
_SETTINGS = {"wal_keep_size": "256MB", "wal_retrieve_retry_interval": "200ms"}


class Node:
    """One of the servers, in a folder of its own, with ``limited`` on a disk that can be filled."""

    def __init__(self, folder: Path, settings: Mapping[str, str], *, limited: bool) -> None:
        folder.mkdir(mode=0o711)
        self.folder = folder
        self.server = EmbeddedServer(folder, settings=settings)
        self._ends = ExitStack()
        self.disk = self._ends.enter_context(Disk(folder)) if limited else None

    @property
    def dsn(self) -> str:
        """The way to it alone."""
        return self.server.dsn

    def drop(self) -> None:
        """Stop it, and remove all that it had."""
        self.server.stop()
        self._ends.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Pair:
    """A primary and its synchronous standby; ``limited`` as in :class:`Node`."""

    def __init__(
        self, folder: Path, settings: Mapping[str, str] | None = None, *, limited: bool = False
    ) -> None:
        self._folder = folder
        self._settings = {**_SETTINGS, **(settings or {})}
        self._limited = limited
        self._made = 0
        self.primary: Node
        self.standby: Node

    def __enter__(self) -> Pair:
        self._folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.primary = self.standby = self._node()
        self.primary.server.start()
        try:
            self.make_standby()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.standby.drop()
        if self.primary is not self.standby:
            self.primary.drop()

    @property
    def dsn(self) -> str:
        """The way to whichever of the two is the primary."""
        # First the one that must be passed over as long as it is a standby.
        both = [conninfo_to_dict(node.dsn) for node in (self.standby, self.primary)]
        several = {name: ",".join(str(each[name]) for each in both) for name in ("host", "port")}
        return make_conninfo(
            **{**both[0], **several}, target_session_attrs="read-write", connect_timeout=2
        )

    def promote(self) -> Node:
        """Make the standby the primary, whatever the primary does; the old one, to be dropped."""
        with psycopg.connect(self.standby.dsn, autocommit=True) as connection:
            assert connection.execute("SELECT pg_promote(true, 60)").fetchone() == (True,)
        old, self.primary = self.primary, self.standby
        return old

    def make_standby(self) -> None:
        """Make a new standby of the primary, and have commits wait for it."""
        node = self._node()
        backup = [
            str(find_binaries().program("pg_basebackup")),
            *("--dbname", self.primary.dsn, "--pgdata", str(node.folder / "data")),
            *("--write-recovery-conf", "--checkpoint", "fast", "--no-sync"),
        ]
        try:
            subprocess.run(backup, check=True, timeout=120)
            node.server.start()
        except BaseException:
            node.drop()
            raise
        self.standby = node
        with psycopg.connect(self.primary.dsn, autocommit=True) as connection:
            # Not before the copy: once promoted it must not wait for a standby of its own.
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
        eventually(self.in_step, within=60)

    def in_step(self) -> bool:
        """Whether commits wait for the standby, and it follows."""
        try:
            with psycopg.connect(self.primary.dsn, autocommit=True) as connection:
                return connection.execute(_STREAMS).fetchone() is not None
        except psycopg.OperationalError:
            return False

    def _node(self) -> Node:
        self._made += 1
        folder = self._folder / str(self._made)
        return Node(folder, self._settings, limited=self._limited)


def kill_for_good(node: Node) -> None:
    """SIGKILL its postmaster, and see to it that nobody starts it again."""
    folder = node.server._folder
    folder.write_wanted("stopped")
    signal_postmaster(node, signal.SIGKILL)
    eventually(lambda: not folder.running(), within=60)


def signal_postmaster(node: Node, number: signal.Signals) -> int:
    """Send its postmaster a signal; the process it was."""
    pid = node.server.status().pid
    assert pid is not None
    os.kill(pid, number)
    return pid
