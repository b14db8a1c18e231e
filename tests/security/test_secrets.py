"""A secret that is planted is found nowhere: not in logs, tables, pages, or what commands print."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
from psycopg.conninfo import make_conninfo

from pgsync import AsyncCoordinator, Coordinator
from pgsync.dashboard import create_app
from pgsync.dashboard.pages import PAGES
from pgsync.modules.database import sessions_for
from pgsync.modules.whatsapp import WhatsApp
from pgsync.modules.whatsapp.standin import GraphStandin
from pgsync.queues.sealing import new_key
from tests.dashboard.conftest import READ_TOKEN, Browser
from tests.eventually import eventually
from tests.serving import serving
from tests.tenants import new_connection

PASSWORD = "planted-in-the-dsn"
DASHBOARD = "planted-for-the-dashboard"
ACCESS = "EAAplanted-for-the-graph-api"
BEARER = "planted-in-a-header"
CARD = "planted-in-arguments"

# A traceback quotes lines of code, so the secrets are not in them.
_APP = """
import os
from pgsync import Coordinator

sync = Coordinator()
PASSWORD, BEARER = os.environ["PASSWORD"], os.environ["BEARER"]

@sync.task(name="pay", encrypt=True, max_attempts=1)
def pay(card: str) -> None:
    raise RuntimeError("the bank is away")

@sync.task(name="connect", max_attempts=1)
def connect() -> None:
    Coordinator(f"postgresql://me:{PASSWORD}@127.0.0.1:1/shop").job(1)

@sync.task(name="quote", max_attempts=1)
def quote() -> None:
    raise RuntimeError(f"cannot reach postgresql://me:{PASSWORD}@db/shop")

@sync.task(name="call", max_attempts=1)
def call() -> None:
    raise RuntimeError({"Authorization": f"Bearer {BEARER}"})
"""

_DAEMON = ["daemon", "--app", "its_app:sync", "--dashboard-port", "0", "--health-port", "0"]
_DAEMON += ["--log-level", "debug", "--log-format", "json"]
_PROGRAM = "from pgsync.cli import main; main()"


def leaks(text: str) -> list[str]:
    return re.findall(r".{0,60}planted-\S.{0,30}", text)


def all_rows(database: psycopg.Connection[Any]) -> str:
    """All that the tables of pgsync hold, but the one place where the access token belongs."""
    tables = database.execute(
        "SELECT c.oid::regclass::text FROM pg_class AS c WHERE c.relkind = 'r'"
        " AND c.relnamespace IN ('pgsync'::regnamespace, 'pgsync_modules'::regnamespace)"
        " AND c.oid <> 'pgsync_modules.connection'::regclass"
    ).fetchall()
    rows: list[Any] = []
    for (table,) in tables:
        rows += database.execute(f"SELECT t::text FROM {table} AS t").fetchall()
    return repr(rows)


@pytest.fixture
def environment(dsn: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The secrets where processes have them."""
    key = new_key()
    monkeypatch.setenv("PGSYNC_ARGS_KEYS", key)
    return {
        **os.environ,
        "PGSYNC_DSN": make_conninfo(dsn, password=PASSWORD),
        "PGSYNC_DASHBOARD_TOKEN": DASHBOARD,
        "PGSYNC_ARGS_KEYS": key,
        "PASSWORD": PASSWORD,
        "BEARER": BEARER,
    }


@pytest.fixture
def run(tmp_path: Path, environment: dict[str, str]) -> Any:
    """Runs a command to its end and returns what it printed."""

    def run(*arguments: str, **variables: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, *arguments],
            cwd=tmp_path,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=240,
        )
        return done.stdout + done.stderr

    return run


@pytest.fixture
def daemon_log(tmp_path: Path, environment: dict[str, str]) -> Iterator[Path]:
    """A daemon's log, as JSON with all that it has to say."""
    (tmp_path / "its_app.py").write_text(_APP)
    path = tmp_path / "log"
    with path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *_DAEMON],
            cwd=tmp_path,
            env=environment,
            stderr=log,
        )
    yield path
    process.terminate()
    process.wait(60)


def test_a_daemon_whose_jobs_fail_tells_no_secret(
    daemon_log: Path, environment: dict[str, str], database: Any, dsn: str, run: Any
) -> None:
    with Coordinator(dsn) as sync:
        pay: Any = sync.task(name="pay", encrypt=True, max_attempts=1)(lambda card: None)
        pay.enqueue(card=CARD)
    for task in ("connect", "quote", "call"):
        database.execute("SELECT pgsync.enqueue(%s, max_attempts => 1)", [task])
    ended = "SELECT count(*) FROM pgsync.job_history AS h WHERE h.state = 'discarded'"
    eventually(lambda: database.execute(ended).fetchone() == (4,), within=60)
    assert leaks(all_rows(database)) == []
    log = daemon_log.read_text()
    assert '"job": 1' in log
    assert leaks(log) == []
    assert environment["PGSYNC_ARGS_KEYS"] not in log + all_rows(database)
    for job in range(1, 5):
        assert leaks(run("jobs", "show", str(job))) == []
    with serving(create_app(AsyncCoordinator(dsn), DASHBOARD, READ_TOKEN)) as url:
        browser = Browser(url, DASHBOARD)
        pages = [page.path for page in PAGES if page.key or page.path == "/"]
        for path in [*pages, "/jobs/1", "/jobs/2", "/jobs/3", "/jobs/4", "/metrics", "/api/jobs"]:
            answer = browser.get(path)
            assert leaks(answer.text + repr(answer.headers)) == [], path
        assert leaks(requests.get(url, headers={"Authorization": f"Bearer {BEARER}"}).text) == []


@pytest.mark.parametrize("command", ["config", "config --json", "doctor", "status", "migrate"])
def test_commands_print_no_secret(run: Any, command: str) -> None:
    printed = run(*command.split())
    assert printed
    assert leaks(printed) == []
    refused = run(*command.split(), PGSYNC_DSN=f"postgresql://me:{PASSWORD}@127.0.0.1:1/shop")
    assert refused
    assert leaks(refused) == []
    unreadable = run(*command.split(), PGSYNC_DSN=f"postgresql://me:{PASSWORD}@[/shop")
    assert leaks(unreadable) == []


@pytest.mark.parametrize("fault", ["error", "html", "reset"])
def test_a_sync_that_the_api_refuses_tells_no_token(
    sync: Coordinator, dsn: str, database: Any, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    sessions = sessions_for(dsn)
    with GraphStandin(token=ACCESS) as graph, caplog.at_level(logging.DEBUG):
        connection = new_connection(sessions, graph)
        whatsapp = WhatsApp(sync, sessions, graph_url=graph.url)
        details = {"code": 190, "details": f"token {ACCESS}"} if fault == "error" else {}
        graph.inject(fault, times=None, **details)
        whatsapp.template_sync.enqueue(connection_id=connection.id)
        sync.run_worker(queues=["sync"], drain=True)
    sessions.kw["bind"].dispose()
    runs = database.execute("SELECT count(*) FROM pgsync.operations").fetchone()
    assert runs != (0,)
    assert leaks(all_rows(database)) == []
    assert leaks(caplog.text) == []
