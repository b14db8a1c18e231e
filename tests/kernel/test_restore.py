"""A database restored from a dump: what docs/operating.md says of it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import psycopg

from pgsync import Coordinator
from pgsync.database.binaries import find_binaries
from pgsync.database.migrations import sql_folder

_GUIDE = sql_folder().parent / "docs" / "operating.md"


def _run(program: str, *arguments: str) -> None:
    found = find_binaries().program(program)
    assert found is not None, f"these tests need {program}: install PostgreSQL's client programs"
    subprocess.run([str(found), *arguments], check=True, timeout=110, capture_output=True)


def _raise_tokens(dsn: str) -> None:
    """The step of the guide, word for word."""
    (step,) = re.findall(r"\n(SELECT setval\('pgsync\.lock_token'.*)\n", _GUIDE.read_text())
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(step.encode())


def test_after_a_restore_nothing_is_held_tokens_rise_and_work_comes_back(
    sync: Coordinator, empty_dsn: str, tmp_path: Path
) -> None:
    dump = str(tmp_path / "app.dump")

    @sync.task(queue="dumps")
    def dumps() -> None:
        _run("pg_dump", "--format=custom", "--no-unlogged-table-data", f"--file={dump}", sync.dsn)

    @sync.task(queue="mail")
    def mail() -> None: ...

    running, ends_later = dumps.enqueue(), mail.enqueue()
    with sync.lock("report", ttl=600):
        sync.run_worker(queues=["dumps"], drain=True)
    assert sync.run_worker(queues=["mail"], drain=True).completed == 1
    with sync.lock("report", ttl=600) as lock:
        last = lock.token

    _run("pg_restore", "--no-owner", f"--dbname={empty_dsn}", dump)
    _raise_tokens(empty_dsn)
    with Coordinator(empty_dsn) as restored:
        assert restored.list_locks() == []
        with restored.lock("report", ttl=600) as lock:
            assert lock.token > last
        assert restored.job(ends_later.id).state == "available"
        assert restored.job(running.id).state == "running"
        with psycopg.connect(empty_dsn, autocommit=True) as connection:
            assert connection.execute("SELECT pgsync.rescue_jobs()").fetchone() == (1,)
        rescued = restored.job(running.id)
        assert (rescued.state, rescued.attempt) == ("available", 1)
