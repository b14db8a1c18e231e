"""Several worker processes in one tree: killed, stopped, orphaned, and unable to start."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pgsync import AsyncCoordinator, Coordinator, InvalidArgument
from tests.eventually import eventually

pytestmark = pytest.mark.faults

_APP = """
import ctypes, os, time
from pgsync import Coordinator, current_job
sync = Coordinator()
@sync.task()
def work():
    while not os.path.exists("end"):
        time.sleep(0.01)
@sync.task()
def who():
    return os.getpid()
def told(job, error):
    with open(f"told-{job.id}", "w") as file:
        file.write(repr(error))
@sync.task(on_discard=told)
def poison():
    if current_job().attempt == 1:
        os._exit(7)
    ctypes.string_at(0)
"""

_CANNOT_START = """
import multiprocessing, os
from pgsync import Coordinator
sync = Coordinator()
if multiprocessing.parent_process() is not None:
    os._exit(3)
"""


@pytest.fixture
def app() -> str:
    """What the command line works for."""
    return _APP


def workers(database: Any) -> list[int]:
    """The processes of the workers that are registered."""
    return [pid for (pid,) in database.execute("SELECT pid FROM pgsync.workers ORDER BY id")]


def running(database: Any) -> list[int]:
    """The processes of the jobs that run."""
    rows = database.execute(
        "SELECT w.pid FROM pgsync.job_running AS r JOIN pgsync.worker AS w ON w.id = r.worker"
    )
    return [pid for (pid,) in rows]


def enqueue(database: Any) -> int:
    job: int = database.execute("SELECT pgsync.enqueue('work')").fetchone()[0]
    return job


def alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_a_killed_process_is_replaced_and_sigterm_ends_all_in_order(
    pgsync: Any, database: Any, tmp_path: Path
) -> None:
    tree = pgsync("daemon", "--app", "app:sync", "--processes", "2", "--concurrency", "1")
    first = eventually(lambda: len(pids := workers(database)) == 2 and pids)
    assert tree.pid not in first
    job = enqueue(database)
    victim = eventually(lambda: running(database))[0]
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: len(now := workers(database)) == 2 and victim not in now)
    # Its job runs again, and the end waits for it.
    eventually(lambda: running(database))
    tree.send_signal(signal.SIGTERM)
    eventually(lambda: len(workers(database)) == 1)
    (tmp_path / "end").touch()
    output, errors = tree.communicate(timeout=240)
    assert tree.returncode == 0, errors
    assert "completed=1" in output
    assert "ended with -9; starting another" in errors
    row = database.execute("SELECT state, attempt FROM pgsync.all_jobs WHERE id = %s", [job])
    assert row.fetchone() == ("completed", 2)
    assert workers(database) == []


def test_a_job_that_kills_its_process_is_discarded_after_its_attempts(
    pgsync: Any, database: Any, tmp_path: Path
) -> None:
    job = database.execute("SELECT pgsync.enqueue('poison', max_attempts => 2)").fetchone()[0]
    tree = pgsync("daemon", "--app", "app:sync", "--processes", "2", "--concurrency", "1")
    # A worker that lives is told what became of it.
    told = tmp_path / f"told-{job}"
    assert "WorkerDied('the worker died')" in eventually(
        lambda: told.exists() and told.read_text(), within=60
    )
    state, errors = database.execute(
        "SELECT state, errors FROM pgsync.job_history WHERE id = %s", [job]
    ).fetchone()
    assert state == "discarded"
    assert [(each["attempt"], each["error"]) for each in errors] == [
        (1, "the worker died"),
        (2, "the worker died"),
    ]
    assert tree.poll() is None


def test_a_second_sigterm_ends_all_at_once(pgsync: Any, database: Any) -> None:
    tree = pgsync("worker", "--app", "app:sync", "--processes", "2", "--grace", "3600")
    job = enqueue(database)
    eventually(lambda: running(database) and len(workers(database)) == 2)
    tree.send_signal(signal.SIGTERM)
    eventually(lambda: len(workers(database)) == 1)  # the idle one has ended
    assert running(database)
    tree.send_signal(signal.SIGTERM)
    _, errors = tree.communicate(timeout=240)
    assert tree.returncode == 0, errors
    row = database.execute("SELECT state, attempt FROM pgsync.jobs WHERE id = %s", [job])
    assert row.fetchone() == ("available", 0)


def test_the_processes_end_with_a_parent_that_is_killed(pgsync: Any, database: Any) -> None:
    tree = pgsync("worker", "--app", "app:sync", "--processes", "2")
    pids = eventually(lambda: len(found := workers(database)) == 2 and found)
    tree.kill()
    eventually(lambda: not any(alive(pid) for pid in pids))
    assert workers(database) == []


@pytest.mark.timeout(300)
def test_processes_that_cannot_start_end_the_tree_and_it_says_so(pgsync: Any) -> None:
    tree = pgsync("worker", "--app", "app:sync", "--processes", "2", app=_CANNOT_START)
    _, errors = tree.communicate(timeout=240)
    assert tree.returncode == 1, errors
    assert "ended before they were ready, 5 times in a row" in errors.splitlines()[-1]
    assert "exit code 3" in errors.splitlines()[-1]


_PROGRAM = """
import app
if __name__ == "__main__":
    ids = app.who.enqueue_many([{}] * 400)
    report = app.sync.run_worker(processes=2, concurrency=2, drain=True)
    print(report.completed, len({app.sync.job(job).result for job in ids} - {app.os.getpid()}) > 0)
    app.sync.close()
"""


def test_a_program_drains_with_several_processes(dsn: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(_APP)
    (tmp_path / "program.py").write_text(_PROGRAM)
    done = subprocess.run(
        [sys.executable, "program.py"],
        env={**os.environ, "PGSYNC_DSN": dsn},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.stdout == "400 True\n", done.stderr


async def cancelled(app: str, dsn: str) -> None:
    async with AsyncCoordinator(dsn) as sync:
        working = asyncio.create_task(sync.run_worker(processes=2, app=app))
        async with asyncio.timeout(30):
            while not working.done():
                async with sync.database.connection() as connection:
                    found = await connection.execute("SELECT count(*) FROM pgsync.worker")
                    if await found.fetchone() == (2,):
                        break
                await asyncio.sleep(0.02)
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working


def test_processes_end_when_the_task_that_awaits_them_is_cancelled(
    dsn: str, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSYNC_DSN", dsn)
    asyncio.run(cancelled("tests.faults.importable:sync", dsn))
    eventually(lambda: workers(database) == [])


def test_a_coordinator_that_no_process_could_import_is_refused(sync: Coordinator) -> None:
    with pytest.raises(InvalidArgument, match="name a function that makes it"):
        sync.run_worker(processes=2, drain=True)
    with pytest.raises(InvalidArgument, match="processes must be 1 or more"):
        sync.run_worker(processes=0, drain=True)
