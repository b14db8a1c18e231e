"""Workers that are killed, and workers whose sessions are: nothing is lost, and nothing is late."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgsync import ConnectionFailed, Coordinator, current_job
from pgsync.database.embedded import EmbeddedServer
from pgsync.version import __version__
from tests.eventually import eventually
from tests.faults.proxy import Proxy

pytestmark = [pytest.mark.core, pytest.mark.faults]

_WORKER = """
import sys, time
from pgsync import ConnectionFailed, Coordinator, current_job
from pgsync.database.embedded import EmbeddedServer
sync = Coordinator(sys.argv[1])
@sync.task()
def work(n):
    print(f"{n}\\n", end="", flush=True)
    time.sleep(3600)
sync.run_worker(concurrency=3)
"""


def test_jobs_of_a_killed_worker_run_again_long_before_it_would_be_missed(
    sync: Coordinator, dsn: str
) -> None:
    ran: set[int] = set()
    work: Any = sync.task(name="work")(lambda n: ran.add(n))
    ids = work.enqueue_many({"n": n} for n in range(3))
    victim = subprocess.Popen([sys.executable, "-c", _WORKER, dsn], stdout=subprocess.PIPE)
    assert victim.stdout is not None
    assert sorted(int(victim.stdout.readline()) for _ in range(3)) == [0, 1, 2]
    sync.start()
    try:
        victim.kill()
        victim.communicate()
        # After a minute of silence a worker is given up for dead whose session lives.
        eventually(lambda: len(ran) == 3, within=45)
        eventually(lambda: all((s := sync.job(i)) and s.state == "completed" for i in ids))
    finally:
        sync.stop()
    found = sync.job(ids[0])
    assert found is not None
    assert found.attempt == 2
    assert [error["error"] for error in found.errors] == ["the worker died"]


def end_sessions(database: psycopg.Connection[Any], application_name: str) -> int:
    ended = database.execute(
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = %s",
        [application_name],
    ).fetchone()
    assert ended is not None
    count: int = ended[0]
    return count


def test_a_worker_whose_session_is_ended_comes_back_and_loses_nothing(
    sync: Coordinator, database: psycopg.Connection[Any]
) -> None:
    began, end = threading.Event(), threading.Event()
    runs: list[int] = []

    def work(n: int) -> None:
        runs.append(n)
        if n == 0 and not began.is_set():
            began.set()
            end.wait(30)

    task: Any = sync.task(name="work")(work)
    ids = task.enqueue_many({"n": n} for n in range(200))
    sync.start(concurrency=2)
    try:
        assert began.wait(10)
        assert end_sessions(database, "pgsync worker") == 1
        eventually(lambda: database.execute("SELECT id FROM pgsync.worker").fetchall() == [(2,)])
        # The first run is late now: its job belongs to the new session's worker.
        end.set()
        eventually(lambda: all((s := sync.job(i)) and s.state == "completed" for i in ids))
    finally:
        sync.stop()
    counted = database.execute("SELECT count(*), count(DISTINCT id) FROM pgsync.job_history")
    assert counted.fetchone() == (200, 200)
    assert runs.count(0) == 2


def test_storms_of_terminations_lose_no_job(
    sync: Coordinator, database: psycopg.Connection[Any]
) -> None:
    task: Any = sync.task(name="work", max_attempts=100)(lambda n: time.sleep(0.001))
    ids = task.enqueue_many({"n": n} for n in range(1000))
    sync.start(concurrency=5)
    try:
        for _ in range(4):
            eventually(lambda: end_sessions(database, "pgsync worker"))
            end_sessions(database, "pgsync listener")
            end_sessions(database, "pgsync maintenance quick")
        eventually(
            lambda: (
                database.execute("SELECT count(*) FROM pgsync.job_history").fetchone()
                == (len(ids),)
            ),
            within=60,
        )
    finally:
        sync.stop()
    states = database.execute("SELECT DISTINCT state FROM pgsync.job_history").fetchall()
    assert states == [("completed",)]


def test_a_restart_of_the_database_amid_a_batch_loses_no_job_and_needs_no_new_worker(
    tmp_path: Path,
) -> None:
    # Of its own, and durable.
    with EmbeddedServer(tmp_path / "server") as server, Coordinator(server.dsn) as sync:
        sync.migrate()
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute("CREATE TABLE effect (n integer)")

        @sync.task(backoff=0.1, max_attempts=100)
        def work(n: int) -> None:
            job = current_job()
            assert job is not None
            with sync.database.connection() as connection, connection.transaction():
                connection.execute("INSERT INTO effect VALUES (%s)", [n])
                job.complete(within=connection)

        def effects() -> list[int]:
            try:
                with psycopg.connect(server.dsn, autocommit=True) as connection:
                    rows = connection.execute("SELECT n FROM effect ORDER BY n").fetchall()
            except psycopg.OperationalError:
                return []  # It recovers.
            return [n for (n,) in rows]

        work.enqueue_many({"n": n} for n in range(500))
        sync.start(concurrency=5)
        for done in (50, 200):
            eventually(lambda done=done: len(effects()) > done, within=60)
            pid = server.status().pid
            assert pid is not None
            os.kill(pid, signal.SIGQUIT)
            eventually(lambda pid=pid: server.status().pid != pid)
            server.start()
        eventually(lambda: len(effects()) >= 500, within=60)
        sync.stop()
        assert effects() == list(range(500))
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            ended = connection.execute(
                "SELECT count(*), count(DISTINCT id), min(state), max(state)"
                " FROM pgsync.job_history"
            ).fetchone()
        assert ended == (500, 500, "completed", "completed")


@pytest.mark.parametrize(
    "answer", [b"pg_is_in_recovery", __version__.encode()], ids=["server", "schema"]
)
def test_a_connection_that_breaks_in_the_first_check_has_failed(dsn: str, answer: bytes) -> None:
    with Proxy(dsn) as proxy, Coordinator(proxy.dsn) as sync:
        swallower = threading.Thread(target=proxy.swallow, args=[answer, 20.0])
        swallower.start()
        eventually(proxy.swallows)
        with pytest.raises(ConnectionFailed, match="the connection broke"):
            sync.run_worker(drain=True)
        swallower.join()
        assert sync.run_worker(drain=True).completed == 0


def test_a_worker_can_be_stopped_while_the_database_is_away(
    sync: Coordinator, database: psycopg.Connection[Any], server_dsn: str
) -> None:
    sync.start()
    eventually(lambda: database.execute("SELECT 1 FROM pgsync.workers").fetchone())
    name = database.info.dbname
    with psycopg.connect(server_dsn, autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
            [name],
        )
        began = time.monotonic()
        sync.stop()
        assert time.monotonic() - began < 10
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
