"""Operations from the command line: started, looked at, cancelled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pgsync import Coordinator
from pgsync.cli.main import cli
from pgsync.daemon import load_app

APP = """
from pgsync import Coordinator

def coordinator():
    sync = Coordinator()

    @sync.operation("greeting", lock="greeting:{name}", ttl=60, queue="greetings",
                    blocked="Greeting is already in progress")
    def greet(op, name, times=1):
        return [f"Hello {name}"] * times

    return sync
"""


@pytest.fixture
def pgsync(dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Runs ``pgsync operations`` on the test's database, with an app that has one operation."""
    (tmp_path / "greetings_app.py").write_text(APP)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PGSYNC_DSN", dsn)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, ["operations", *arguments])

    return run


def test_an_operation_is_started_performed_and_looked_at(
    pgsync: Callable[..., Result], database: Any
) -> None:
    app = ("--app", "greetings_app:coordinator", "--by", "ann")
    started = pgsync("start", "greeting", "name=Zoë", "times=2", *app)
    assert started.output.startswith("job "), started.output
    job = int(started.output.split()[1])
    assert pgsync("status", "greeting", "greeting:Zoë").exit_code == 3
    with load_app("greetings_app:coordinator") as sync:
        assert sync.run_worker(queues=["greetings"], drain=True).completed == 1
    (run,) = json.loads(pgsync("history", "greeting", "--json").output)
    assert (run["state"], run["actor"], run["key"]) == ("completed", "ann", "greeting:Zoë")
    (shown,) = json.loads(pgsync("status", "greeting", "greeting:Zoë", "--json").output)
    assert (shown["outcome"], shown["job_id"]) == (["Hello Zoë"] * 2, job)
    assert json.loads(pgsync("history", "greeting", "greeting:Bo", "--json").output) == []
    assert "greeting" in pgsync("list").output
    ended = pgsync("cancel", str(run["id"]))
    assert (ended.exit_code, "has ended" in ended.output) == (3, True)


def test_an_operation_runs_here_and_now_or_says_that_it_is_in_progress(
    pgsync: Callable[..., Result], dsn: str
) -> None:
    now = ("start", "greeting", "name=Bo", "--app", "greetings_app:coordinator", "--now")
    assert json.loads(pgsync(*now).output) == ["Hello Bo"]
    with Coordinator(dsn) as other, other.lock("greeting:Bo", ttl=60):
        refused = pgsync(*now)
    assert "Greeting is already in progress" in str(refused.exception or refused.output)
    assert refused.exit_code != 0


def test_what_cannot_be_started_is_said(pgsync: Callable[..., Result]) -> None:
    app = ("--app", "greetings_app:coordinator")
    unknown = pgsync("start", "meeting", *app)
    assert "it has greeting" in str(unknown.exception or unknown.output)
    assert pgsync("start", "greeting", "Bo", *app).exit_code == 2


def test_a_running_operation_is_cancelled(
    pgsync: Callable[..., Result], database: Any, sync: Coordinator
) -> None:
    answers: list[str] = []

    @sync.operation("greeting", lock="greeting:{name}", ttl=60)
    def greet(op: Any, name: str) -> None:
        answers.append(pgsync("cancel", str(op.id), "--by", "bob").output.strip())

    greet.enqueue(name="Bo")
    sync.run_worker(drain=True)
    assert answers == ["asked to stop"]
    noted = database.execute(
        "SELECT detail FROM pgsync.operation_events WHERE event = 'cancel_requested'"
    ).fetchone()
    assert noted == ({"by": "bob"},)
