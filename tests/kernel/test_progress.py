"""What handlers tell of their progress is seen while they run."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pgsync import Coordinator, InvalidArgument, current_job
from tests.eventually import eventually

pytestmark = pytest.mark.core


def test_the_last_word_of_a_running_job_is_seen(face: Any, database: Any) -> None:
    go_on = threading.Event()

    @face.task(name="work")
    def work() -> None:
        for done in range(100):
            current_job().progress(done, total=200, note="half of it")
        go_on.wait(30)

    job = work.enqueue()
    quiet = face.task(name="quiet")(lambda: go_on.wait(30)).enqueue()
    face.start()
    try:
        told = eventually(lambda: face.job(job.id).progress)
        assert told.pop("at")
        assert told == {"done": 99, "total": 200, "note": "half of it"}
        row = database.execute(
            "SELECT progress ->> 'done' FROM pgsync.jobs WHERE id = %s", [job.id]
        ).fetchone()
        assert row == ("99",)
        assert face.job(quiet.id).progress is None
    finally:
        go_on.set()
        face.stop()
    assert face.job(job.id).state == "completed"


def test_a_late_attempt_tells_nothing(database: Any, new_worker: Any) -> None:
    session, worker = new_worker()
    job = database.execute("SELECT pgsync.enqueue('work')").fetchone()[0]
    session.execute("SELECT count(*) FROM pgsync.claim_jobs(%s, '{default}', 1)", [worker])
    tell = "SELECT pgsync.report_progress(%s, ARRAY[%s::bigint], ARRAY[%s], ARRAY['{}'::jsonb])"
    assert session.execute(tell, [worker, job, 2]).fetchone() == (0,)
    assert session.execute(tell, [worker + 1, job, 1]).fetchone() == (0,)
    assert session.execute(tell, [worker, job, 1]).fetchone() == (1,)


def test_progress_that_says_nothing_is_refused(sync: Coordinator) -> None:
    @sync.task()
    def work() -> None:
        job = current_job()
        for wrong in ((-1,), ("1",), (1, -1), (1, 2, "x" * 501), (1, 2, 3)):
            with pytest.raises(InvalidArgument):
                job.progress(*wrong)
        job.progress(0.5, 1)

    work.enqueue()
    assert sync.run_worker(drain=True).completed == 1
