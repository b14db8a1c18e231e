"""Whole processes as the roles that are meant for them: a worker, a daemon, a dashboard."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgsync import AsyncCoordinator, Coordinator, Limit, TokenBucket
from pgsync.dashboard import create_app
from pgsync.dashboard.pages import PAGES
from pgsync.database.embedded import EmbeddedServer
from pgsync.database.migrations import migrate
from pgsync.doctor import examine
from pgsync.errors import ServerUnsupported
from tests.dashboard.conftest import READ_TOKEN, TOKEN, Browser
from tests.eventually import eventually
from tests.security.conftest import ROLES
from tests.serving import serving

Login = Callable[[str], str]

_FAILED = "SELECT duty, error FROM pgsync.maintenance WHERE outcome = 'failed'"


def test_an_app_and_its_worker_work_as_a_worker(login: Login, guarded: Any) -> None:
    with Coordinator(login("pgsync_worker")) as sync:
        ran: list[int] = []
        keyed: dict[str, Any] = {"key": "{n}", "max_running_per_key": 1, "tenant": "{n}"}
        send: Any = sync.task(name="send", **keyed)(lambda n: ran.append(n))
        told: Any = sync.task(name="told")(lambda n: ran.append(n))
        broken: Any = sync.task(name="broken", max_attempts=2, backoff=0)(lambda: 1 / 0)
        operation: Any = sync.operation("op", lock="op:{n}", ttl=60, limit=Limit(9, per=60))(
            lambda op, n: op.progress(n, 9)
        )
        sync.schedule(3600, name="hourly")(lambda: None)
        sync.limit_queue("default", max_running=100)
        sync.weigh_tenant("default", "1", 2)
        send.enqueue(n=1)
        send.enqueue_many([{"n": n} for n in range(2, 202)])
        broken.enqueue()
        operation(n=1)
        operation.enqueue(n=2)
        sync.batch("two", [send.job(n=500)], on_end=told.job(n=501))
        sync.chain([send.job(n=502), send.job(n=503)])
        send.options(delay=3600).enqueue(n=999)
        with (
            sync.lock("report", ttl=60, audited=True) as lock,
            sync.semaphore("slots", 2, ttl=60),
            sync.lock_all(["a", "b"], ttl=60),
        ):
            lock.renew()
            lock.check()
            with psycopg.connect(sync.dsn) as work:
                lock.guard(work)
                sync.fence("file", lock.token, within=work)
            with psycopg.connect(sync.dsn) as work, sync.transaction_lock(work, "c"):
                send.enqueue(n=504, within=work)
        handed = sync.lock("handed", ttl=60)
        handed.acquire()
        sync.restore_lock("handed", handed.hand_over(), ttl=60).release()
        with sync.elect("leader", retry=0.1) as election:
            assert election.wait(30)
        limiter = sync.limiter("graph", Limit(5, per=60), TokenBucket(5, per=60))
        limiter.hit("7")
        limiter.acquire("7", timeout=1)
        limiter.refund(limiter.hit("7"))
        limiter.penalize("7", 1, "asked to")
        limiter.clear("7")
        with limiter.reserve("8", 2):
            pass
        result = sync.run_worker(drain=True, scheduler=True)
    assert result.discarded == 1
    assert sorted(ran) == [*range(1, 202), *range(500, 505)]
    assert guarded.execute(_FAILED).fetchall() == []


def test_every_duty_can_be_done_by_a_worker(login: Login, guarded: Any) -> None:
    # What only an owner may do is due: a partition is missing, another is old.
    guarded.execute(
        "DO $$ BEGIN EXECUTE (SELECT 'DROP TABLE ' || max(inhrelid::regclass::text)"
        " FROM pg_inherits WHERE inhparent = 'pgsync.job_finished'::regclass"
        " AND inhrelid <> 'pgsync.job_finished_default'::regclass); END $$"
    )
    guarded.execute(
        "CREATE TABLE pgsync.job_finished_20200101 PARTITION OF pgsync.job_finished"
        " FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-01-02 00:00+00')"
    )
    with psycopg.connect(login("pgsync_worker"), autocommit=True) as worker:
        duties = [row[0] for row in worker.execute("SELECT d.duty FROM pgsync.duties() AS d")]
        row = worker.execute("CALL pgsync.do_duties(%s)", [duties]).fetchone()
    assert row is not None
    done = row[0]
    assert done["prepare history"] == 1
    assert done["drop old history"] == 1
    assert guarded.execute(_FAILED).fetchall() == []


_PROGRAM = "from pgsync.cli import main; main()"

_APP = """
from pgsync import Coordinator
sync = Coordinator()

@sync.task(name="greet")
def greet() -> None: ...

@sync.schedule(1)
def tick() -> None: ...
"""


@pytest.fixture
def daemon(tmp_path: Path, login: Login) -> Iterator[subprocess.Popen[bytes]]:
    (tmp_path / "its_app.py").write_text(_APP)
    environment = {**os.environ, "PGSYNC_DSN": login("pgsync_worker")}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, "daemon", "--app", "its_app:sync"],
            cwd=tmp_path,
            env=environment,
            stderr=log,
        )
    yield process
    process.terminate()
    process.wait(60)
    log_text = (tmp_path / "log").read_text()
    assert process.returncode == 0, log_text
    assert "denied" not in log_text, log_text


def test_a_daemon_lives_and_works_as_a_worker(
    daemon: subprocess.Popen[bytes], guarded: Any
) -> None:
    guarded.execute("SELECT pgsync.enqueue('greet')")
    done = (
        "SELECT array_agg(DISTINCT h.task ORDER BY h.task) FROM pgsync.job_history AS h"
        " WHERE h.state = 'completed'"
    )
    eventually(lambda: guarded.execute(done).fetchone() == (["greet", "tick"],), within=60)
    slow = (
        "SELECT count(*) > 0 FROM pgsync.maintenance WHERE duty = 'drop old history'"
        " AND outcome = 'done'"
    )
    eventually(lambda: guarded.execute(slow).fetchone() == (True,), within=60)
    assert guarded.execute(_FAILED).fetchall() == []


def test_a_dashboard_looks_as_a_reader_and_says_that_it_may_not_act(
    login: Login, guarded: Any
) -> None:
    guarded.execute("SELECT pgsync.enqueue('send')")
    with serving(create_app(AsyncCoordinator(login("pgsync_reader")), TOKEN, READ_TOKEN)) as url:
        browser = Browser(url)
        for page in PAGES:
            if page.key or page.path == "/":
                assert browser.get(page.path).status_code == 200, page.path
        assert browser.get("/jobs/1").status_code == 200
        assert browser.get("/api/queues").status_code == 200
        assert requests.get(f"{url}/readyz", timeout=60).status_code == 200
        refused = browser.act("queues", "pause", name="default")
        assert refused.status_code == 403
        assert "permission denied for function pause_queue" in refused.text
    assert guarded.execute("SELECT count(*) FROM pgsync.queue").fetchone() == (0,)


def test_a_role_that_may_not_create_roles_is_told_what_to_ask_for(tmp_path: Path) -> None:
    with (
        EmbeddedServer(tmp_path / "server", settings={"fsync": "off"}) as server,
        psycopg.connect(server.dsn, autocommit=True) as dba,
    ):
        dba.execute("CREATE ROLE owner LOGIN")
        dba.execute("CREATE SCHEMA pgsync AUTHORIZATION owner")
        owner = make_conninfo(server.dsn, user="owner")
        with pytest.raises(ServerUnsupported, match="CREATE ROLE pgsync_reader NOLOGIN"):
            migrate(owner, roles=True)
        # The schema is there all the same, and without roles nothing else fails.
        assert migrate(owner) == []
        for name in ROLES:
            dba.execute(f"CREATE ROLE {name} NOLOGIN")
        assert migrate(owner, roles=True) == []
        wrong = "SELECT count(*) FROM pgsync.role_grants WHERE wanted <> granted"
        assert dba.execute(wrong).fetchone() == (0,)


def test_the_doctor_says_what_a_login_may_and_what_it_lacks(login: Login, guarded: Any) -> None:
    def found(dsn: str) -> dict[str, str]:
        with psycopg.connect(dsn, autocommit=True) as connection:
            examined = examine(connection, dsn)
            return {
                f"{each.check} {each.level}": f"{each.found}; {each.remedy}"
                for each in examined
                if each.check.startswith("r") or each.level == "failure"
            }

    worker = login("pgsync_worker")
    well = found(worker)
    assert "works here as pgsync_worker" in well["roles ok"]
    assert [name for name in well if name.endswith("failure")] == []
    assert "works here as pgsync_reader" in found(login("pgsync_reader"))["roles ok"]
    guarded.execute("REVOKE INSERT ON pgsync.job_ready FROM pgsync_worker")
    assert "on TABLE pgsync.job_ready; pgsync migrate --roles" in found(worker)["roles failure"]
    name = conninfo_to_dict(worker)["user"]
    guarded.execute(f"REVOKE pgsync_worker FROM {name}")
    assert f"GRANT pgsync_worker TO {name}" in found(worker)["schema failure"].replace(
        "this role", str(name)
    )
