"""The primary dies, its synchronous standby is promoted: all go on, and no job is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgsync import Coordinator, LockLost, PgsyncError
from pgsync.database.migrations import migrate
from tests.eventually import eventually
from tests.faults.pair import Pair, kill_for_good

pytestmark = pytest.mark.faults

_WITHIN = 10.0
_QUICK = {"fsync": "off"}  # processes die here, not machines

_APP = """
from pgsync import Coordinator
sync = Coordinator()
@sync.task(name="work")
def work(n):
    pass
@sync.schedule(1, name="tick")
def tick():
    pass
"""


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with Pair(tmp_path / "servers", _QUICK) as both:
        migrate(both.primary.dsn)
        yield both


class Enqueuing(threading.Thread):
    """An app that enqueues one job after another, and notes what was acknowledged, and when."""

    def __init__(self, sync: Coordinator) -> None:
        super().__init__()
        self._work = sync.task(name="work")(lambda n: None)
        self._ending = threading.Event()
        self.acknowledged: dict[int, float] = {}

    def run(self) -> None:
        number = 0
        while not self._ending.is_set():
            number += 1
            try:
                self._work.enqueue(n=number)
            except PgsyncError:
                time.sleep(0.05)  # the app's own patience, for the next one
            else:
                self.acknowledged[number] = time.monotonic()

    def end(self) -> None:
        self._ending.set()
        self.join()

    def acknowledged_since(self, moment: float) -> bool:
        return any(at > moment for at in list(self.acknowledged.values()))


def test_a_promoted_standby_is_found_and_no_acknowledged_job_is_lost(
    pair: Pair, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(_APP)
    daemon = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from pgsync.cli import main; main()",
            "daemon",
            "--app",
            "app:sync",
        ],
        env={**os.environ, "PGSYNC_DSN": pair.dsn},
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    lost: list[str] = []
    done = "SELECT count(*) FROM pgsync.job_finished WHERE task = 'work'"
    fired = "SELECT count(*) FROM pgsync.schedule_fire"
    try:
        with Coordinator(pair.dsn) as sync:
            app = Enqueuing(sync)
            lock = sync.lock("report", ttl=300, on_lost=lost.append)
            lock.acquire()
            app.start()
            try:
                with psycopg.connect(pair.dsn, autocommit=True) as primary:
                    eventually(lambda: _count(primary, done) > 20, within=60)
                kill_for_good(pair.primary)
                # The holder hears of it before anybody else could have its lock.
                eventually(lambda: lost, _WITHIN)
                with pytest.raises(LockLost):
                    lock.check()
                pair.promote()
                until = time.monotonic() + _WITHIN
                with psycopg.connect(pair.primary.dsn, autocommit=True) as primary:
                    ended, fires = _count(primary, done), _count(primary, fired)
                    eventually(lambda: app.acknowledged_since(until - _WITHIN), _WITHIN)
                    eventually(lambda: _count(primary, done) > ended, until - time.monotonic())
                    eventually(lambda: _count(primary, fired) > fires, until - time.monotonic())
                with sync.lock("report", ttl=60, wait=5):
                    pass
            finally:
                app.end()
            assert daemon.poll() is None
            with psycopg.connect(pair.primary.dsn, autocommit=True) as primary:
                live = "SELECT count(*) FROM pgsync.jobs WHERE task = 'work'"
                eventually(lambda: _count(primary, live) == 0, within=60)
                ran = "SELECT (args->>'n')::int FROM pgsync.job_history WHERE state = 'completed'"
                completed = {number for (number,) in primary.execute(ran)}
    finally:
        daemon.terminate()
        _, logged = daemon.communicate(timeout=240)
    assert set(app.acknowledged) - completed == set()
    assert daemon.returncode == 0, logged


def _count(connection: psycopg.Connection[Any], query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    count: int = row[0]
    return count
