"""A real standby, made by a base backup, is refused with the way to the primary."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pgsync import ServerUnsupported
from pgsync.database.binaries import find_binaries
from pgsync.database.embedded import EmbeddedServer
from pgsync.database.migrations import migrate

_QUICK = {"fsync": "off"}


def test_a_standby_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "standby"
    copy.mkdir(mode=0o700)
    with EmbeddedServer(tmp_path / "primary", settings=_QUICK) as primary:
        subprocess.run(
            [
                str(find_binaries().program("pg_basebackup")),
                *("--dbname", primary.dsn, "--pgdata", str(copy / "data")),
                *("--write-recovery-conf", "--checkpoint", "fast", "--no-sync"),
            ],
            check=True,
            timeout=240,
        )
        with (
            EmbeddedServer(copy, settings=_QUICK) as standby,
            pytest.raises(ServerUnsupported, match=r"standby.*connect to the primary"),
        ):
            migrate(standby.dsn)
