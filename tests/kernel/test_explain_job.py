"""Why a job does not run: each reason on a real queue, with workers that live and die."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgsync import Coordinator
from tests.eventually import eventually
from tests.kernel.conftest import Clock

pytestmark = pytest.mark.core

Database = psycopg.Connection[Any]


def add(database: Database, **options: Any) -> int:
    row = database.execute(
        "SELECT pgsync.enqueue('mail', delay => %(delay)s, priority => %(priority)s,"
        " max_attempts => %(attempts)s)",
        {"delay": None, "priority": 0, "attempts": 5, **options},
    ).fetchone()
    assert row is not None
    job: int = row[0]
    return job


def claim(session: Database, worker: int) -> list[int]:
    rows = session.execute("SELECT id FROM pgsync.claim_jobs(%s, '{default}', 1)", [worker])
    return [row[0] for row in rows]


def test_there_is_no_such_job(face: Any) -> None:
    why = face.why_not_running(12345)
    assert (why.id, why.state, why.reason) == (12345, None, "unknown")
    assert "no job 12345" in why.detail


def test_not_due(face: Any, database: Database, clock: Clock) -> None:
    why = face.why_not_running(add(database, delay=timedelta(hours=1)))
    assert (why.state, why.reason, why.queue, why.task) == (
        "scheduled",
        "not due",
        "default",
        "mail",
    )
    assert (why.since, why.until) == (clock.now, clock.now + timedelta(hours=1))
    assert "due at 2026-03-01 13:00:00 UTC, in 01:00:00" in why.detail


def test_due_but_not_promoted_waits_for_a_worker(
    sync: Coordinator, database: Database, clock: Clock
) -> None:
    late, first = add(database, delay=timedelta(hours=1)), add(database)
    clock.move(3600)
    why = sync.why_not_running(late)
    assert (why.state, why.reason, why.until, why.ahead) == ("scheduled", "no live worker", None, 1)
    assert sync.why_not_running(first).ahead == 0


def test_no_worker_lives_for_its_queue(
    face: Any, dsn: str, database: Database, new_worker: Callable[..., Any]
) -> None:
    job = add(database)
    assert face.why_not_running(job).reason == "no live worker"
    assert "there is none" in face.why_not_running(job).detail
    session, _ = new_worker("first")
    assert face.why_not_running(job).reason == "next"
    session.close()
    eventually(lambda: face.why_not_running(job).reason == "no live worker")
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("SELECT pgsync.register_worker('else', 'host', 1, '0', '{mail,sms}', 1)")
        why = face.why_not_running(job)
        assert (why.reason, why.workers) == ("no live worker", [])
        assert "mail, sms" in why.detail
        other.execute("SELECT pgsync.register_worker('all', 'host', 1, '0', '{*}', 1)")
        why = face.why_not_running(job)
        assert (why.reason, why.workers) == ("next", ["all"])


def test_it_runs_and_then_its_worker_dies(
    sync: Coordinator, database: Database, new_worker: Callable[..., Any]
) -> None:
    job = add(database)
    session, worker = new_worker("busy one")
    assert claim(session, worker) == [job]
    why = sync.why_not_running(job)
    assert (why.state, why.reason, why.workers) == ("running", "runs", ["busy one"])
    assert "attempt 1 of 5 runs on busy one on host (pid 1) since" in why.detail
    sync.cancel_job(job)
    assert "asked to stop at" in sync.why_not_running(job).detail
    assert "1 of 1 busy" in sync.why_not_running(add(database)).detail
    database.execute("SELECT pg_terminate_backend(%s, 5000)", [session.info.backend_pid])
    eventually(lambda: sync.why_not_running(job).reason == "worker dead")
    assert f"worker {worker}" in sync.why_not_running(job).detail
    database.execute("SELECT pgsync.rescue_jobs()")
    assert sync.why_not_running(job).state == "cancelled"


def test_its_queue_is_paused(
    face: Any, database: Database, new_worker: Callable[..., Any], clock: Clock
) -> None:
    job, later = add(database), add(database, delay=timedelta(minutes=5))
    new_worker()
    face.pause_queue("default", "Ada")
    why = face.why_not_running(job)
    assert (why.reason, why.since) == ("queue paused", clock.now)
    assert "paused by Ada at 2026-03-01 12:00:00 UTC" in why.detail
    assert face.why_not_running(later).reason == "not due"
    assert "paused by Ada" in face.why_not_running(later).detail
    face.resume_queue("default")
    assert face.why_not_running(job).reason == "next"


def test_others_are_ahead(
    sync: Coordinator, database: Database, new_worker: Callable[..., Any]
) -> None:
    first, second, urgent = add(database), add(database), add(database, priority=-1)
    new_worker("only one")
    assert sync.why_not_running(urgent).reason == "next"
    assert sync.why_not_running(first).detail.startswith("behind 1 other, waiting for only one")
    why = sync.why_not_running(second)
    assert (why.reason, why.ahead) == ("behind others", 2)
    database.execute(
        "SELECT pgsync.add_jobs('mail', array_agg('{}'::jsonb)) FROM generate_series(1, 1200)"
    )
    last = add(database)
    why = sync.why_not_running(last)
    assert why.ahead == 1000
    assert "1000 others or more" in why.detail


def test_a_retry_is_not_due_and_then_it_ends(
    sync: Coordinator, database: Database, new_worker: Callable[..., Any], clock: Clock
) -> None:
    job = add(database, attempts=2)
    session, worker = new_worker()
    fail = "SELECT pgsync.fail_job(%s, %s, %s, '{\"error\": \"too bad\"}', '1 minute')"
    assert claim(session, worker) == [job]
    session.execute(fail, [worker, job, 1])
    why = sync.why_not_running(job)
    assert (why.state, why.reason) == ("retryable", "retry not due")
    assert why.until == clock.now + timedelta(minutes=1)
    assert "attempt 1 of 2 failed: too bad" in why.detail
    ended = clock.move(60)
    assert claim(session, worker) == [job]
    session.execute(fail, [worker, job, 2])
    why = sync.why_not_running(job)
    assert (why.state, why.reason, why.since) == ("discarded", "ended", ended)
    assert why.detail == "discarded at 2026-03-01 12:01:00 UTC, after 2 of 2 attempts: too bad"


def test_it_was_completed_or_cancelled(
    sync: Coordinator, database: Database, new_worker: Callable[..., Any]
) -> None:
    job, unwanted = add(database), add(database)
    session, worker = new_worker()
    assert claim(session, worker) == [job]
    session.execute("SELECT pgsync.complete_jobs(%s, %s, '{1}', '{null}')", [worker, [job]])
    sync.cancel_job(unwanted, "not wanted")
    assert sync.why_not_running(job).detail.startswith("completed at ")
    assert sync.why_not_running(unwanted).detail.endswith("after 0 of 5 attempts: not wanted")


def test_the_command_line_says_why(dsn: str, database: Database) -> None:
    job = add(database)

    def why(*arguments: str) -> subprocess.CompletedProcess[str]:
        program = "from pgsync.cli import main; main()"
        return subprocess.run(
            [sys.executable, "-c", program, "jobs", "why", "--dsn", dsn, *arguments],
            capture_output=True,
            text=True,
            timeout=240,
        )

    done = why(str(job))
    assert done.returncode == 0, done
    assert f"job {job}: mail on queue default, available" in done.stdout
    assert "no live worker: " in done.stdout
    (row,) = json.loads(why(str(job), "--json").stdout)
    assert (row["reason"], row["ahead"]) == ("no live worker", 0)
    done = why("999")
    assert (done.returncode, done.stdout.strip()[:19]) == (3, "there is no job 999")
