"""How a worker ends: what runs is finished, what waits is put back, and nothing is left over."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from pgsync import (
    Coordinator,
)
from tests.eventually import eventually

pytestmark = pytest.mark.core


def test_a_stop_finishes_what_runs_and_puts_back_the_rest(sync: Coordinator) -> None:
    began, end = threading.Event(), threading.Event()

    @sync.task()
    def slow() -> None:
        began.set()
        end.wait(20)

    ids = slow.enqueue_many([{}] * 3)
    sync.start(concurrency=1)
    assert began.wait(60)
    threading.Timer(0.1, end.set).start()
    sync.stop()
    states = [sync.job(job) for job in ids]
    assert [(s.state, s.attempt) for s in states if s] == [
        ("completed", 1),
        ("available", 0),
        ("available", 0),
    ]


def test_a_stop_puts_back_at_once_what_was_claimed_ahead(sync: Coordinator, database: Any) -> None:
    began, end = threading.Event(), threading.Event()

    @sync.task()
    def quick() -> None: ...

    @sync.task()
    def slow() -> None:
        began.set()
        end.wait(20)

    def running() -> int:
        count: int = database.execute("SELECT count(*) FROM pgsync.job_running").fetchone()[0]
        return count

    # Many quick jobs give the worker a pace, by which it claims the slow ones ahead.
    quick.enqueue_many([{}] * 3000)
    slow.enqueue_many([{}] * 500)
    sync.start(concurrency=1)
    assert began.wait(60)
    eventually(lambda: running() > 1)
    stopping = threading.Thread(target=sync.stop)
    stopping.start()
    eventually(lambda: running() == 1)
    end.set()
    stopping.join(20)
    left = database.execute("SELECT count(*), max(attempt) FROM pgsync.job_ready").fetchone()
    assert left == (499, 0)


def test_a_worker_that_waits_for_what_runs_says_that_it_stops(
    sync: Coordinator, database: Any
) -> None:
    began, end = threading.Event(), threading.Event()

    @sync.task()
    def slow() -> None:
        began.set()
        end.wait(60)

    slow.enqueue()
    sync.start()
    assert began.wait(30)
    stopping = threading.Thread(target=sync.stop)
    stopping.start()
    query = "SELECT state FROM pgsync.workers WHERE 'worker' = ANY (kinds)"
    eventually(lambda: database.execute(query).fetchall() == [("stopping",)], 30)
    end.set()
    stopping.join(30)
    assert database.execute(query).fetchall() == []


def test_what_outlasts_the_grace_goes_back_unspent(sync: Coordinator) -> None:
    began, end = threading.Event(), threading.Event()

    @sync.task()
    def stuck() -> None:
        began.set()
        end.wait(30)

    @sync.task()
    async def stuck_too() -> None:
        await asyncio.Event().wait()

    ids = [stuck.enqueue().id, stuck_too.enqueue().id]
    sync.start(grace=0.1)
    assert began.wait(60)
    sync.stop()
    end.set()
    states = [sync.job(job) for job in ids]
    assert [(s.state, s.attempt) for s in states if s] == [("available", 0)] * 2


_WORKER = """
import sys, time
from pgsync import Coordinator
sync = Coordinator(sys.argv[1])
@sync.task()
def work(seconds):
    print("began", flush=True)
    time.sleep(seconds)
report = sync.run_worker(concurrency=1)
print(report.completed, report.released, flush=True)
"""


def test_sigterm_ends_a_worker_in_order(sync: Coordinator, dsn: str, database: Any) -> None:
    for seconds in (0.3, 60):
        database.execute(f"SELECT pgsync.enqueue('work', '{{\"seconds\": {seconds}}}')")
    worker = subprocess.Popen([sys.executable, "-c", _WORKER, dsn], stdout=subprocess.PIPE)
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"began\n"
    worker.send_signal(signal.SIGTERM)
    assert worker.communicate(timeout=60)[0].split()[0] == b"1"
    assert worker.returncode == 0
    rows = database.execute("SELECT state, attempt FROM pgsync.jobs").fetchall()
    assert rows == [("available", 0)]
    assert database.execute("SELECT count(*) FROM pgsync.workers").fetchone() == (0,)


_LEFT_OPEN = """
import sys, time
from pgsync import Coordinator
sync = Coordinator(sys.argv[1])
sync.lock("report", ttl=60, auto_renew=True).acquire()
sync.limiter
@sync.task()
def endless():
    print("began", flush=True)
    time.sleep(3600)
endless.enqueue()
sync.start()
sys.stdin.readline()
"""


def test_a_script_that_just_ends_exits_promptly_and_in_silence(dsn: str) -> None:
    script = subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", _LEFT_OPEN, dsn],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert script.stdout is not None
    assert script.stdout.readline() == b"began\n"
    began = time.monotonic()
    _, errors = script.communicate(b"\n", timeout=30)
    # The development mode tells of callbacks that a busy machine made slow.
    told = [line for line in errors.splitlines() if not line.startswith(b"Executing <")]
    assert (script.returncode, told) == (0, [])
    assert time.monotonic() - began < 15
