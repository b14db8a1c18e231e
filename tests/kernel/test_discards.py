"""Tasks are told of their discarded jobs, whoever discarded them."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from pgsync import CancelJob, Coordinator, DiscardJob, current_job
from pgsync.database.calls import Call, scalar
from tests.eventually import eventually
from tests.kernel.handlers import both_kinds, declare, raising, state_of, working

pytestmark = pytest.mark.core


@both_kinds
@pytest.mark.parametrize("callback", ["blocking", "awaiting"])
def test_on_discard_is_called_once_for_each_discarded_job(
    sync: Coordinator, kind: str, callback: str
) -> None:
    told: list[tuple[int, int, str, int]] = []

    def tell(job: Any, error: BaseException) -> None:
        context = current_job()
        assert context is not None
        told.append((job.id, job.attempt, repr(error), context.id))

    async def tell_async(job: Any, error: BaseException) -> None:
        await asyncio.sleep(0)
        tell(job, error)

    wanted: dict[str, Any] = {"on_discard": tell if callback == "blocking" else tell_async}
    hopeless = declare(sync, kind, raising(DiscardJob("no")), name="hopeless", **wanted)
    broken = declare(
        sync, kind, raising(ValueError("no")), name="broken", max_attempts=2, backoff=0, **wanted
    )
    fine = declare(sync, kind, lambda: "fine", name="fine", **wanted)
    cancels = declare(sync, kind, raising(CancelJob("no")), name="cancels", **wanted)
    jobs = [task.enqueue().id for task in (hopeless, broken, fine, cancels)]
    with working(sync):
        for job, state in zip(
            jobs, ("discarded", "discarded", "completed", "cancelled"), strict=True
        ):
            state_of(sync, job, state)
    # A stop waits for the callbacks, and they are told.
    assert (
        sync.database.run(Call("SELECT count(*) FROM pgsync.job_untold_discard", {}, scalar)) == 0
    )
    assert sorted(told) == [
        (jobs[0], 1, "DiscardJob('no')", jobs[0]),
        (jobs[1], 2, "ValueError('no')", jobs[1]),
    ]


def discarded_by_death(database: Any, new_worker: Any, task: str) -> int:
    """A job whose only attempt ended with the death of its worker."""
    job: int = database.execute("SELECT pgsync.enqueue(%s, max_attempts => 1)", [task]).fetchone()[
        0
    ]
    session, worker = new_worker()
    session.execute("SELECT FROM pgsync.claim_jobs(%s, '{default}', 1)", [worker])
    session.close()
    eventually(lambda: database.execute("SELECT pgsync.rescue_jobs()").fetchone()[0])
    return job


@both_kinds
def test_on_discard_is_called_for_jobs_whose_worker_died(
    sync: Coordinator, database: Any, new_worker: Any, kind: str
) -> None:
    told: list[tuple[int, str, str]] = []
    job = discarded_by_death(database, new_worker, "handler")
    discarded_by_death(database, new_worker, "not known here")
    declare(
        sync,
        kind,
        lambda: None,
        on_discard=lambda job, error: told.append((job.id, job.task, repr(error))),
    )
    with working(sync):
        eventually(lambda: told)
        left = "SELECT task FROM pgsync.job_untold_discard"
        eventually(lambda: database.execute(left).fetchall() == [("not known here",)])
    assert told == [(job, "handler", "WorkerDied('the worker died')")]


@both_kinds
def test_on_discard_is_called_for_jobs_that_are_discarded_by_hand(
    sync: Coordinator, database: Any, kind: str
) -> None:
    told: list[tuple[int, int, str]] = []

    def tell(job: Any, error: BaseException) -> None:
        told.append((job.id, job.attempt, repr(error)))

    waits = declare(sync, kind, lambda: None, name="waits", on_discard=tell)
    failed, named, cancelled = (waits.enqueue().id for _ in range(3))
    silent = declare(sync, kind, lambda: None, name="silent").enqueue().id
    database.execute(
        'UPDATE pgsync.job_ready SET attempt = 1, errors = \'[{"error": "it broke"}]\''
        " WHERE id = %s",
        [failed],
    )
    database.execute("SELECT pgsync.discard_job(%s), pgsync.cancel_job(%s)", [failed, cancelled])
    database.execute(
        "SELECT pgsync.discard_jobs(ids => ARRAY[%s, %s], by => 'ann')", [named, silent]
    )
    with working(sync):
        eventually(lambda: len(told) == 2)
    assert sorted(told) == [
        (failed, 1, "JobDiscarded('it broke')"),
        (named, 0, "JobDiscarded('discarded by ann')"),
    ]
    left = database.execute("SELECT task FROM pgsync.job_untold_discard").fetchall()
    assert left == [("silent",)]


def test_a_job_that_was_discarded_by_hand_and_is_retried_is_not_told_of(database: Any) -> None:
    job = database.execute("SELECT pgsync.enqueue('x')").fetchone()[0]
    take = "SELECT id FROM pgsync.take_discards('{x}')"
    for again in (True, False):
        database.execute("SELECT pgsync.discard_job(%s)", [job])
        if again:
            database.execute("SELECT pgsync.retry_job(%s)", [job])
            assert database.execute(take).fetchall() == []
    assert database.execute(take).fetchall() == [(job,)]


def test_a_discard_that_was_taken_and_not_told_is_given_to_another(
    database: Any, new_worker: Any, clock: Any
) -> None:
    def take() -> list[int]:
        rows = database.execute("SELECT id FROM pgsync.take_discards('{x}')").fetchall()
        return [job for (job,) in rows]

    job = discarded_by_death(database, new_worker, "x")
    assert take() == [job]
    assert take() == []
    clock.move(301)
    assert take() == [job]
    assert database.execute("SELECT pgsync.discards_told(%s)", [[job]]).fetchone() == (1,)
    clock.move(301)
    assert take() == []


def test_a_worker_that_dies_before_it_tells_leaves_that_to_another(
    database: Any, new_worker: Any, clock: Any
) -> None:
    def take() -> list[tuple[int, str]]:
        taken: list[tuple[int, str]] = database.execute(
            "SELECT id, error FROM pgsync.take_discards('{x}')"
        ).fetchall()
        return taken

    job = database.execute("SELECT pgsync.enqueue('x', max_attempts => 1)").fetchone()[0]
    session, worker = new_worker()
    session.execute("SELECT FROM pgsync.claim_jobs(%s, '{default}', 1)", [worker])
    session.execute(
        'SELECT pgsync.fail_job(%s, %s, 1, \'{"error": "no"}\', will_tell => true)', [worker, job]
    )
    session.close()
    assert take() == []
    clock.move(301)
    assert take() == [(job, "no")]


def test_discards_that_nobody_asks_for_are_forgotten(
    database: Any, new_worker: Any, clock: Any
) -> None:
    discarded_by_death(database, new_worker, "x")
    assert database.execute("SELECT pgsync.prune_discards()").fetchone() == (0,)
    clock.move(8 * 86_400)
    assert database.execute("SELECT pgsync.prune_discards()").fetchone() == (1,)


@both_kinds
def test_an_error_in_on_discard_is_logged(
    sync: Coordinator, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    def tell(job: Any, error: BaseException) -> None:
        raise SystemExit("nobody listens")

    handler = raising(DiscardJob("no"))
    job = declare(sync, kind, handler, on_discard=tell).enqueue().id
    assert sync.run_worker(drain=True).discarded == 1
    logged = [each for each in caplog.records if "on_discard" in each.getMessage()]
    assert [each.getMessage() for each in logged] == [f"on_discard of job {job} (handler) failed"]
    assert "nobody listens" in str(logged[0].exc_info)


def test_a_callback_that_outlasts_the_grace_is_named(
    sync: Coordinator, caplog: pytest.LogCaptureFixture
) -> None:
    began = threading.Event()

    async def tell(job: Any, error: BaseException) -> None:
        began.set()
        await asyncio.Event().wait()

    handler = raising(DiscardJob("no"))
    job = declare(sync, "blocking", handler, on_discard=tell).enqueue().id
    sync.start(grace=0.1)
    assert began.wait(60)
    sync.stop()
    assert f"on_discard did not end for jobs [{job}]" in caplog.messages
