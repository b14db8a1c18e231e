"""What attempts leave behind besides their end: releases, and lines that handlers log."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from pgsync import Coordinator, ReleaseJob, current_job

pytestmark = pytest.mark.core


def notes(database: Any, job: int) -> list[tuple[Any, ...]]:
    query = "SELECT event, attempt, detail FROM pgsync.job_notes WHERE job = %s ORDER BY number"
    found: list[tuple[Any, ...]] = database.execute(query, [job]).fetchall()
    return found


def texts(note: tuple[Any, ...]) -> list[str]:
    return [text for _, text in note[2]["lines"]]


def say(text: object) -> None:
    job = current_job()
    assert job
    job.log(text)


def crash(n: int) -> None:
    say(f"before {n}")
    os._exit(3)


def test_a_handlers_lines_are_kept_with_its_attempt(face: Any, database: Any) -> None:
    @face.task(max_attempts=2, backoff=0)
    def send(n: int) -> None:
        say(f"sends {n}")
        thread = threading.Thread(target=current_job().log, args=("from a thread",))
        thread.start()
        thread.join()
        if current_job().attempt == 1:
            raise RuntimeError("no route")

    @face.task()
    async def look(n: int) -> None:
        say(n)

    job, other = send.enqueue(n=7).id, look.enqueue(n=8).id
    face.run_worker(drain=True)
    first, second = notes(database, job)
    assert first[:2] == ("log", 1)
    assert second[:2] == ("log", 2)
    assert texts(first) == texts(second) == ["sends 7", "from a thread"]
    assert first[2]["dropped"] == 0
    assert [texts(note) for note in notes(database, other)] == [["8"]]


def test_the_last_lines_are_kept_cut_and_as_the_database_can_store_them(
    sync: Coordinator, database: Any
) -> None:
    @sync.task()
    def chatty() -> None:
        for n in range(250):
            say(n)
        say("x" * 5000)
        say("a\0b\ud800c")

    job = chatty.enqueue().id
    sync.run_worker(drain=True)
    ((event, _, detail),) = notes(database, job)
    lines = [text for _, text in detail["lines"]]
    assert (event, len(lines), detail["dropped"]) == ("log", 200, 52)
    assert lines[0] == "52"
    assert lines[-2] == "x" * 1000 + "…"
    assert lines[-1] == "a\ufffdb?c"


def test_lines_of_a_process_that_dies_are_kept(sync: Coordinator, database: Any) -> None:
    task = sync.task(run_in="process", max_attempts=1)(crash)
    job = task.enqueue(n=1).id
    sync.run_worker(drain=True)
    assert [texts(note) for note in notes(database, job)] == [["before 1"]]
    state = sync.job(job)
    assert state
    assert state.state == "discarded"


def test_a_release_is_noted_with_its_reason(face: Any, database: Any) -> None:
    seen: list[int] = []

    @face.task()
    def send() -> None:
        seen.append(1)
        if len(seen) < 3:
            raise ReleaseJob(0, f"not yet, {len(seen)}")

    job = send.enqueue().id
    face.run_worker(drain=True)
    assert notes(database, job) == [
        ("released", 1, {"delay": "00:00:00", "reason": "not yet, 1"}),
        ("released", 1, {"delay": "00:00:00", "reason": "not yet, 2"}),
    ]


def test_of_each_job_the_last_fifty_are_kept_and_old_ones_forgotten(database: Any) -> None:
    for n in range(60):
        database.execute(
            "SELECT pgsync.keep_logs(1, '{7, 8}', '{1, 1}',"
            " ARRAY[jsonb_build_object('lines', %s::int), '{}'])",
            [n],
        )
    count = "SELECT job, count(*), min(number), max(number) FROM pgsync.job_notes GROUP BY job"
    assert sorted(database.execute(count).fetchall()) == [(7, 50, 11, 60), (8, 50, 11, 60)]
    database.execute("UPDATE pgsync.job_note SET at = now() - interval '8 days' WHERE job = 7")
    assert database.execute("SELECT pgsync.prune_notes(batch => 40)").fetchone() == (40,)
    assert database.execute("SELECT pgsync.prune_notes()").fetchone() == (10,)
    database.execute("UPDATE pgsync.job_note SET at = now() - interval '8 days'")
    database.execute("SELECT pgsync.retain_queue('default', '30 days')")
    assert database.execute("SELECT pgsync.prune_notes()").fetchone() == (0,)
