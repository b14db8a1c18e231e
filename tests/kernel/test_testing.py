"""The helpers for users' tests, and the pytest plugin, on real queues."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgsync import AsyncCoordinator, Coordinator, InvalidArgument, Limit
from pgsync.testing import (
    assert_enqueued,
    assert_not_enqueued,
    drain,
    enqueued,
    fire_schedules,
    frozen_time,
    inline,
)

ROOT = Path(__file__).parents[2]
AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_what_is_enqueued_is_listed_and_drained(sync: Coordinator) -> None:
    sent: list[str] = []

    @sync.task(queue="mail")
    def send(to: str) -> None:
        sent.append(to)

    assert_not_enqueued(sync, send)
    send.enqueue(to="a")
    send.enqueue(to="b")
    assert [job.args for job in enqueued(sync, send, queue="mail")] == [{"to": "a"}, {"to": "b"}]
    assert enqueued(sync, queue="other") == []
    assert_enqueued(sync, send, count=1, to="a")
    with pytest.raises(AssertionError, match=r"found 0; enqueued are:\n  send\(.*'a'.*\) on queue"):
        assert_enqueued(sync, send, to="c")
    with pytest.raises(AssertionError, match="expected 0 jobs of send"):
        assert_not_enqueued(sync, "send", to="b")
    assert drain(sync, ["other"]).completed == 0
    assert drain(sync).completed == 2
    assert sorted(sent) == ["a", "b"]
    assert_not_enqueued(sync, send)


def test_inline_performs_at_once_and_raises(sync: Coordinator) -> None:
    done: list[int] = []

    @sync.task()
    def work(n: int) -> None:
        if n < 0:
            raise ZeroDivisionError(n)
        if n > 1:
            work.enqueue(n=n - 1)
        done.append(n)

    with inline(sync):
        job = work.enqueue(n=2)
        assert done == [1, 2]
        state = sync.job(job.id)
        assert state is not None
        assert state.state == "completed"
        with pytest.raises(ZeroDivisionError):
            work.enqueue(n=-1)
    work.enqueue(n=1)
    assert done == [1, 2]
    assert_enqueued(sync, work, count=1, n=1)


def test_the_asyncio_face_awaits_them(dsn: str) -> None:
    async def scenario() -> None:
        async with AsyncCoordinator(dsn) as sync:
            done: list[int] = []

            @sync.task()
            async def work(n: int) -> None:
                done.append(n)
                if n < 0:
                    raise ZeroDivisionError(n)

            await work.enqueue(n=1)
            await assert_enqueued(sync, work, count=1)
            with pytest.raises(AssertionError):
                await assert_not_enqueued(sync, work)
            assert (await drain(sync)).completed == 1
            with inline(sync):
                await work.enqueue(n=2)
                assert done == [1, 2]
                with pytest.raises(ZeroDivisionError):
                    await work.enqueue(n=-1)

    asyncio.run(scenario())


def test_time_stands_still_where_the_database_is_marked(
    sync: Coordinator, database: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []

    @sync.task()
    def later() -> None:
        ran.append(1)

    monkeypatch.delenv("PGSYNC_TESTING", raising=False)
    with (
        pytest.raises(InvalidArgument, match="not marked for tests"),
        frozen_time(sync, AT),
    ):
        pass
    monkeypatch.setenv("PGSYNC_TESTING", "1")
    with frozen_time(sync, AT) as time:
        later.options(delay=3600).enqueue()
        assert drain(sync).completed == 0
        assert time.move(3600) == AT.replace(hour=13)
        assert drain(sync).completed == 1
    row = database.execute(
        "SELECT pgsync.clock() BETWEEN now() AND now() + interval '1 minute'"
    ).fetchone()
    assert row == (True,)
    assert database.execute("SELECT to_regclass('pgsync.frozen_time')").fetchone() == (None,)


def test_limits_open_by_the_frozen_time(sync: Coordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSYNC_TESTING", "1")
    limiter = sync.limiter("graph", Limit(1, per=60))
    leased = sync.limiter("mail", Limit(9, per=60), lease=9)
    with frozen_time(sync, AT) as time:
        limiter.hit("7")
        leased.hit("7")
        assert not limiter.hit("7")
        time.move(60)
        assert limiter.hit("7")
        assert leased.hit("7").resets_at == AT.replace(minute=2)


def test_schedules_fire_by_the_frozen_time(
    face: Any, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On both faces; of the asyncio one the schedules are all that is asked."""
    monkeypatch.setenv("PGSYNC_TESTING", "1")
    sync = getattr(face, "wrapped", face)

    @sync.schedule("0 * * * *", name="hourly")
    def hourly() -> None: ...

    def fire() -> int:
        fired = fire_schedules(sync)
        return asyncio.run(fired) if asyncio.iscoroutine(fired) else fired

    with Coordinator(dsn) as blocking, frozen_time(sync, AT) as time:
        assert fire() == 0
        time.move(3599)
        assert fire() == 0
        time.move(1)
        assert fire() == 1
        assert fire() == 0
        assert_enqueued(blocking, "hourly", count=1)


_SUITE = """
from datetime import UTC, datetime
import pytest
from pgsync.testing import assert_enqueued, assert_not_enqueued, drain, frozen_time

@pytest.mark.parametrize("turn", [1, 2])
def test_each_has_a_fresh_database(pgsync, turn):
    @pgsync.task()
    def work(): ...
    assert_not_enqueued(pgsync, work)
    work.options(delay=60).enqueue()
    assert_enqueued(pgsync, work, count=1)

def test_time_is_the_tests(pgsync, pgsync_dsn):
    @pgsync.task()
    def work(): ...
    with frozen_time(pgsync, datetime(2026, 3, 1, tzinfo=UTC)) as time:
        work.options(delay=60).enqueue()
        assert drain(pgsync).completed == 0
        time.move(60)
        assert drain(pgsync).completed == 1
"""


def test_the_pytest_plugin_gives_each_test_a_database(
    tmp_path: Path, server_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSYNC_TEST_DSN", server_dsn)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PGSYNC_TESTING", raising=False)
    (tmp_path / "test_suite.py").write_text(_SUITE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "pgsync_pytest", "test_suite.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_the_plugin_is_declared_and_light() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"pgsync": "pgsync_pytest"}
    program = "import sys, pgsync_pytest; assert not {'pgsync', 'psycopg'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=240)
