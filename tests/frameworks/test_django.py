"""Django's tasks: its own framework where it is Django 6, the backport django-tasks before."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.frameworks.django_settings")

import django
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connections, transaction
from django.utils import timezone

django.setup()

from pgsync import Coordinator, InvalidArgument  # noqa: E402
from pgsync.doors.django import TaskBackend, framework, worker  # noqa: E402
from tests.frameworks import django_app, django_settings  # noqa: E402

ROOT = Path(__file__).parents[2]
Status = framework.TaskResultStatus


@pytest.fixture(autouse=True)
def site(dsn: str) -> Iterator[None]:
    """The site on the test's database."""
    connections.close_all()
    connections.settings["default"].update(django_settings.database(dsn))
    django_app.done.clear()
    yield
    connections.close_all()


def drain(*queues: str) -> str:
    """Have a worker perform what is available, and return its report."""
    out = io.StringIO()
    call_command("pgsync_worker", "--drain", *(f"--queue={queue}" for queue in queues), stdout=out)
    return out.getvalue()


def test_a_task_runs_and_its_result_is_kept(database: psycopg.Connection[Any]) -> None:
    result = django_app.send.enqueue("a@example.org", copies=2)
    assert result.status == Status.READY
    assert not result.is_finished
    row = database.execute("SELECT task, queue, args FROM pgsync.jobs").fetchone()
    content = {"args": ["a@example.org"], "kwargs": {"copies": 2}}
    assert row == ("tests.frameworks.django_app.send", "mail", content)
    assert "completed=0" in drain("default")
    assert "completed=1" in drain()
    result.refresh()
    assert result.status == Status.SUCCESSFUL
    name = database.info.dbname
    assert result.return_value == {"to": "a@example.org", "copies": 2, "database": name}
    again = django_app.send.get_result(result.id)
    assert (again.args, again.kwargs) == (["a@example.org"], {"copies": 2})
    assert again.enqueued_at <= again.started_at == again.last_attempted_at <= again.finished_at
    assert again.attempts == 1
    assert again.errors == []


def test_a_task_exists_if_djangos_transaction_commits(database: psycopg.Connection[Any]) -> None:
    count = "SELECT count(*) FROM pgsync.jobs"
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        django_app.send.enqueue("never")
        raise ZeroDivisionError
    with transaction.atomic():
        result = django_app.send.enqueue("soon")
        assert database.execute(count).fetchone() == (0,)
        assert django_app.send.get_result(result.id).status == Status.READY
    assert database.execute(count).fetchone() == (1,)


def test_a_failure_is_tried_again_and_told() -> None:
    result = django_app.third_time.enqueue(2)
    failing = django_app.third_time.enqueue(times=3)
    while "completed=0, retryable=0" not in drain():
        pass
    assert sorted(django_app.done) == [(1, []), (1, []), (2, [LookupError]), (2, [LookupError])]
    result.refresh()
    assert (result.status, result.return_value, result.attempts) == (Status.SUCCESSFUL, 2, 2)
    assert result.started_at < result.last_attempted_at
    failing.refresh()
    assert (failing.status, failing.attempts) == (Status.FAILED, 2)
    assert [error.exception_class for error in failing.errors] == [LookupError] * 2
    assert "raise LookupError" in failing.errors[1].traceback
    with pytest.raises(ValueError, match="failed"):
        _ = failing.return_value


def test_what_a_task_says_of_itself_comes_before_the_options(
    database: psycopg.Connection[Any],
) -> None:
    django_app.broken.enqueue()
    django_app.later.using(priority=-7).enqueue(0)
    rows = database.execute("SELECT task, priority, max_attempts FROM pgsync.jobs ORDER BY id")
    names = ["tests.frameworks.django_app.broken", "tests.frameworks.django_app.later"]
    assert rows.fetchall() == [(names[0], 0, 1), (names[1], 7, 2)]
    assert "discarded=1" in drain()


def test_signals_tell_the_life_of_a_task() -> None:
    told: list[tuple[str, str, str]] = []
    signals = {
        "enqueued": framework.task_enqueued,
        "started": framework.task_started,
        "finished": framework.task_finished,
    }

    def hear(name: str) -> Any:
        return lambda sender, task_result, **_: told.append(
            (name, task_result.task.name, task_result.status)
        )

    heard = {name: hear(name) for name in signals}
    for name, signal in signals.items():
        signal.connect(heard[name])
    try:
        django_app.send.enqueue("a")
        drain()
        django_app.broken.enqueue()
        drain()
    finally:
        for name, signal in signals.items():
            signal.disconnect(heard[name])
    assert told == [
        ("enqueued", "send", "READY"),
        ("started", "send", "RUNNING"),
        ("finished", "send", "SUCCESSFUL"),
        ("enqueued", "broken", "READY"),
        ("started", "broken", "RUNNING"),
        ("finished", "broken", "FAILED"),
    ]


def test_a_deferred_task_waits_and_can_be_cancelled(sync: Coordinator) -> None:
    hour = timezone.now() + timedelta(hours=1)
    result = django_app.send.using(run_after=hour).enqueue("later")
    assert "completed=0" in drain()
    job = sync.job(int(result.id))
    assert job is not None
    assert (job.state, job.run_at) == ("scheduled", hour)
    sync.cancel_job(int(result.id), "no longer")
    result.refresh()
    assert result.status == Status.FAILED
    assert [error.traceback for error in result.errors] == ["no longer"]


def test_coroutines_enqueue_and_are_performed() -> None:
    async def enqueue() -> Any:
        return await django_app.later.aenqueue(0.01)

    async def read(id: str) -> Any:
        return await django_app.later.aget_result(id)

    result = asyncio.run(enqueue())
    assert "completed=1" in drain()
    assert asyncio.run(read(result.id)).return_value == "slept"


def test_what_cannot_be_is_told() -> None:
    backend = framework.task_backends["default"]
    for unknown in ("99", "x", "9" * 40):
        with pytest.raises(framework.TaskResultDoesNotExist):
            backend.get_result(unknown)
    with pytest.raises(Exception, match="Queue 'other' is not valid"):
        django_app.send.using(queue_name="other")
    with pytest.raises(TypeError):
        django_app.send.enqueue(object())
    with pytest.raises(ImproperlyConfigured, match="OPTIONS takes backoff, database"):
        TaskBackend("default", {"OPTIONS": {"retries": 3}})
    framework.task_backends["other"] = object()
    with pytest.raises(InvalidArgument, match="has the backend object"):
        worker("other")
    del framework.task_backends["other"]


def test_a_job_calls_nothing_that_is_no_task(database: psycopg.Connection[Any]) -> None:
    for name in ("tests.frameworks.django_app.no_task", "os.getpid", "no.where"):
        database.execute("SELECT pgsync.enqueue(%s)", [name])
    assert "completed=0, retryable=3" in drain()
    assert django_app.done == []


def test_migrate_installs_the_schema_and_the_command_line_performs(empty_dsn: str) -> None:
    environment = {**os.environ, "PGSYNC_DSN": empty_dsn, "PYTHONPATH": str(ROOT)}

    def run(*command: str) -> str:
        return subprocess.run(
            [sys.executable, *command],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=240,
        ).stdout

    run("-m", "django", "migrate")
    setup = "import django; django.setup(); from tests.frameworks.django_app import send; "
    run("-c", f"{setup}send.enqueue('a')")
    cli = ["-c", "from pgsync.cli import main; main()"]
    app = "pgsync.doors.django:worker"
    assert "completed=1" in run(*cli, "worker", "--app", app, "--queue", "mail", "--drain")
    with psycopg.connect(empty_dsn) as connection:
        states = connection.execute("SELECT state FROM pgsync.job_history").fetchall()
    assert states == [("completed",)]
