"""What the overview tells, once and again and again."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from pgsync.cli.main import cli
from tests.eventually import eventually


@pytest.fixture
def busy(database: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """A queue with jobs that wait, run late and were given up, and the statistics of it."""
    database.execute(
        "SELECT pgsync.enqueue('t', queue => 'mail') FROM generate_series(1, 3);"
        "UPDATE pgsync.job_ready SET run_at = run_at - interval '90 seconds' WHERE id = 1;"
        "SELECT pgsync.discard_job(2);"
        "UPDATE pgsync.throughput_mark SET counted_until = counted_until - interval '5 minutes';"
        "UPDATE pgsync.job_finished SET finished_at = finished_at - interval '1 minute',"
        " started_at = finished_at - interval '1 minute';"
        "SELECT pgsync.count_throughput(), pgsync.snapshot_queues()"
    )
    return database


def test_what_goes_on_and_what_needs_a_person(dsn: str, busy: Any) -> None:
    (found,) = json.loads(CliRunner().invoke(cli, ["status", "--dsn", dsn, "--json"]).stdout)
    assert (found["available"], found["running"], found["discarded_past_hour"]) == (2, 0, 1)
    assert 90 < found["oldest_ready"] < 600
    assert found["queues"][0]["queue"] == "mail"
    assert [each["check"] for each in found["attention"]] == [
        "discarded jobs",
        "queues without workers",
    ]
    shown = CliRunner().invoke(cli, ["status", "--dsn", dsn]).stdout
    for words in (
        "2 available",
        "1 in the past hour, 1 of them discarded",
        "jobs retry",
    ):
        assert words in shown
    assert re.search(r"0:0[1-9]:\d\d", shown)


def test_a_watch_tells_what_changes_until_it_is_interrupted(
    dsn: str, database: psycopg.Connection[Any]
) -> None:
    program = "from pgsync.cli import main; main()"
    command = ["status", "--watch", "--interval", "0.2", "--json", "--dsn", dsn]
    with subprocess.Popen(
        [sys.executable, "-uc", program, *command], stdout=subprocess.PIPE, text=True
    ) as watch:
        assert watch.stdout is not None
        lines = iter(watch.stdout.readline, "")
        assert json.loads(next(lines))[0]["available"] == 0
        database.execute("SELECT pgsync.enqueue('t')")
        eventually(lambda: json.loads(next(lines))[0]["available"] == 1)
        # One look fails where the database ends the session; the next finds it again.
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        eventually(lambda: json.loads(next(lines))[0].get("available") == 1)
        watch.send_signal(signal.SIGINT)
        assert watch.wait(20) == 0
