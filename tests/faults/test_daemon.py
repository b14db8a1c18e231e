"""The daemon as a service: settings reloaded, parts alone, health of a tree, logs, systemd."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from pgsync import Coordinator
from tests.eventually import eventually
from tests.faults.proxy import Proxy
from tests.health_page import Page, free_port

pytestmark = pytest.mark.faults

_APP = """
import logging
from pgsync import Coordinator, Limit
sync = Coordinator(app="shop")
graph = sync.limiter("graph", Limit(1000, per=60))
@sync.task(name="hit")
def hit():
    graph.hit("all")
@sync.task(max_attempts=1)
def fail(token):
    logging.getLogger("shop").info("a word from the handler")
    raise ValueError("wrong")
@sync.operation("refresh", lock="refresh:{page}", ttl=30)
def refresh(op, page):
    logging.getLogger("shop").info("a word from the operation")
@sync.schedule(3600)
def hourly():
    pass
"""


@pytest.fixture
def app() -> str:
    """What the command line works for."""
    return _APP


def test_a_server_that_vanished_behind_a_living_proxy_is_left(
    dsn: str, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, seconds in (
        ("worker", "_HEARTBEAT_SECONDS", 0.3),
        ("link", "_LONGEST_SILENCE", 2.0),
        ("link", "_LOOK_SECONDS", 0.1),
        ("scheduler", "_LONGEST_SILENCE", 1.0),
    ):
        monkeypatch.setattr(f"pgsync.daemon.{module}.{name}", seconds)
    done = "SELECT count(*) FROM pgsync.job_history WHERE state = 'completed' AND task = %s"
    with Proxy(dsn) as proxy, Coordinator(proxy.dsn) as sync:
        sync.task(name="greet")(lambda: None)
        sync.schedule(1, name="tick")(lambda: None)
        sync.start(queues=["default"])
        eventually(lambda: database.execute(done, ["tick"]).fetchone() > (0,), within=60)
        proxy.stall_all(3600)
        vanished_at = database.execute("SELECT clock_timestamp()").fetchone()
        fired = "SELECT count(*) FROM pgsync.schedule_fires WHERE fired_at > %s"
        eventually(lambda: database.execute(fired, vanished_at).fetchone() > (2,), within=60)
        # Not before: what was claimed by a session that vanished is rescued in a minute.
        database.execute("SELECT pgsync.enqueue('greet')")
        eventually(lambda: database.execute(done, ["greet"]).fetchone() == (1,), within=60)
        sync.stop()


def known(database: Any) -> list[Any]:
    """What the daemons say of themselves."""
    columns = "kinds, queues, concurrency"
    return database.execute(f"SELECT {columns} FROM pgsync.workers ORDER BY id").fetchall()


def ended(program: subprocess.Popen[str]) -> str:
    """End it in order; what it logged."""
    program.send_signal(signal.SIGTERM)
    _, logged = program.communicate(timeout=240)
    assert program.returncode == 0, logged
    return logged


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_hangup_reloads_the_settings(
    pgsync: Any, database: Any, tmp_path: Path, processes: str
) -> None:
    settings = tmp_path / "pgsync.toml"
    settings.write_text("queues = 'first'\nconcurrency = 2\n")
    daemon = pgsync("daemon", "--processes", processes)
    kinds = ["worker", "scheduler", "maintenance"]
    every = int(processes)
    eventually(lambda: known(database) == [(kinds, ["first"], 2)] * every, within=60)
    settings.write_text("[queues]\nsecond = 10\nfail = 2\n")
    daemon.send_signal(signal.SIGHUP)
    eventually(lambda: known(database) == [(kinds, ["second", "fail"], 10)] * every)
    # It works on them: and a file that cannot be read changes nothing.
    settings.write_text("queues = 3 = 4")
    daemon.send_signal(signal.SIGHUP)
    job = database.execute(
        "SELECT pgsync.enqueue('fail', '{\"token\": 1}', queue => 'second', max_attempts => 1)"
    ).fetchone()[0]
    state = "SELECT state FROM pgsync.all_jobs WHERE id = %s"
    eventually(lambda: database.execute(state, [job]).fetchone() == ("discarded",))
    logged = ended(daemon)
    assert "settings reloaded" in logged
    assert "settings were not reloaded: pgsync.toml cannot be read" in logged


def test_only_the_scheduler(pgsync: Any, database: Any) -> None:
    daemon = pgsync("daemon", "--only", "scheduler")
    eventually(lambda: known(database) == [(["scheduler"], [], 0)], within=60)
    eventually(lambda: database.execute("SELECT 1 FROM pgsync.schedules").fetchone())
    ended(daemon)
    assert known(database) == []


def test_a_tree_tells_the_health_and_counts_of_all_its_processes(
    pgsync: Any, database: Any
) -> None:
    page = Page(free_port())
    tree = pgsync("daemon", "--processes", "2", "--health-port", str(page.port))
    eventually(lambda: page.get("/readyz") == (200, "ok\n"), within=60)
    assert page.samples()["pgsync_listen_connected",] == 1
    database.execute("SELECT pgsync.enqueue('hit') FROM generate_series(1, 20)")
    hits = ("pgsync_limit_decisions_total", "graph", "allowed")
    eventually(lambda: page.samples().get(hits) == 20)
    for (pid,) in database.execute("SELECT pid FROM pgsync.workers").fetchall():
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: page.get("/readyz")[0] == 503)
    assert page.get("/livez")[0] == 200
    eventually(lambda: page.get("/readyz")[0] == 200, within=60)
    # A counter that fell would look like as many new hits.
    assert page.samples()[hits] == 20
    ended(tree)


def test_the_dashboard_is_served_on_request(pgsync: Any, database: Any) -> None:
    page = Page(free_port())
    arguments = ("daemon", "--dashboard-port", str(page.port))
    without_token = pgsync(*arguments, PGSYNC_DASHBOARD_TOKEN="")
    _, told = without_token.communicate(timeout=240)
    assert without_token.returncode == 2
    assert "PGSYNC_DASHBOARD_TOKEN" in told
    daemon = pgsync(*arguments, PGSYNC_DASHBOARD_TOKEN="0123456789abcdef")
    eventually(lambda: page.get("/readyz") == (200, "ok"), within=60)
    assert page.get("/sign-in")[0] == 200
    eventually(lambda: known(database))
    # Another one finds the port taken.
    second = pgsync(*arguments, PGSYNC_DASHBOARD_TOKEN="0123456789abcdef")
    _, told = second.communicate(timeout=240)
    assert second.returncode == 2
    assert "give another --dashboard-port" in told
    ended(daemon)
    assert known(database) == []


def test_systemd_hears_of_its_readiness_life_and_end(
    pgsync: Any, database: Any, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        # A path may have some hundred characters.
        name = f"\0pgsync-test-{os.getpid()}"
        line.bind(name)
        line.settimeout(60)
        daemon = pgsync("worker", NOTIFY_SOCKET="@" + name[1:], WATCHDOG_USEC="600000")
        assert line.recv(100) == b"WATCHDOG=1" or known(database)
        words = {b"WATCHDOG=1"}
        while b"READY=1" not in words:
            words.add(line.recv(100))
        assert known(database)
        for _ in range(3):
            assert line.recv(100) == b"WATCHDOG=1"
        daemon.send_signal(signal.SIGTERM)
        while (word := line.recv(100)) != b"STOPPING=1":
            assert word == b"WATCHDOG=1"
    assert daemon.wait(60) == 0


def test_json_logs_name_what_they_are_about_and_no_secret(
    pgsync: Any, database: Any, dsn: str
) -> None:
    secret = "s3same-0pen"
    daemon = pgsync(
        *("daemon", "--log-format", "json", "--log-level", "debug"),
        PGSYNC_DSN=make_conninfo(dsn, password=secret),
    )
    job = database.execute(
        "SELECT pgsync.enqueue('fail', jsonb_build_object('token', %s::text), max_attempts => 1)",
        [secret],
    ).fetchone()[0]
    database.execute("SELECT pgsync.enqueue('refresh', '{\"page\": 7}')")
    count = "SELECT count(*) FROM pgsync.job_history"
    eventually(lambda: database.execute(count).fetchone() == (2,), within=60)
    # A session that is lost is told of too.
    ids = "SELECT array_agg(id) FROM pgsync.workers"
    before = database.execute(ids).fetchone()
    database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'pgsync%'"
    )
    eventually(lambda: database.execute(ids).fetchone() not in (before, (None,)))
    logged = ended(daemon)
    assert secret not in logged
    lines = [json.loads(line) for line in logged.splitlines()]
    failed = next(line for line in lines if "attempt 1 failed: ValueError" in line["message"])
    assert (failed["job"], failed["task"], failed["level"]) == (job, "fail", "warning")
    said = next(line for line in lines if line["message"] == "a word from the handler")
    assert (said["job"], said["queue"], said["attempt"]) == (job, "default", 1)
    said = next(line for line in lines if line["message"] == "a word from the operation")
    assert (said["operation"], said["lock"], said["task"]) == ("refresh", "refresh:7", "refresh")
    assert any("lost its session" in line["message"] for line in lines)


def test_a_wrong_password_is_not_told(pgsync: Any, dsn: str) -> None:
    secret = "s3same-0pen"
    with suppress(subprocess.TimeoutExpired):
        daemon = pgsync(
            "worker", "--drain", PGSYNC_DSN=f"postgresql://u:{secret}@127.0.0.1:1/nothing"
        )
        output, errors = daemon.communicate(timeout=60)
        assert daemon.returncode == 2
        assert secret not in output + errors
