"""What failures lead to: another attempt, and when, or the end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pgsync import Backoff, Coordinator, InvalidArgument
from pgsync.queues.retry import RetryPolicy
from tests.kernel.handlers import both_kinds, declare, raising

pytestmark = pytest.mark.core


def raise_instead(error: BaseException, attempt: int) -> None:
    raise RuntimeError("the policy is broken")


@both_kinds
@pytest.mark.parametrize(
    ("options", "error", "state"),
    [
        ({"discard_on": ValueError}, ValueError(), "discarded"),
        ({"discard_on": (KeyError, LookupError)}, IndexError(), "discarded"),
        ({"discard_on": ValueError}, KeyError(), "retryable"),
        ({"retry_on": ConnectionError}, ConnectionResetError(), "retryable"),
        ({"retry_on": (ConnectionError,)}, ValueError(), "discarded"),
        ({"retry_on": ()}, ValueError(), "discarded"),
        ({"retry_on": OSError, "discard_on": FileNotFoundError}, FileNotFoundError(), "discarded"),
        ({"retry": lambda error, attempt: None}, ValueError(), "discarded"),
        ({"retry": lambda error, attempt: 60}, ValueError(), "retryable"),
        ({"retry": lambda error, attempt: 60, "discard_on": ValueError}, ValueError(), "discarded"),
        ({"retry": lambda error, attempt: 60, "max_attempts": 1}, ValueError(), "discarded"),
        ({"retry": raise_instead}, ValueError(), "retryable"),
        ({"retry": lambda error, attempt: "soon"}, ValueError(), "retryable"),
    ],
)
def test_the_error_decides_whether_a_job_is_tried_again(
    sync: Coordinator, kind: str, options: dict[str, Any], error: Exception, state: str
) -> None:
    task = declare(sync, kind, raising(error), backoff=3600, **options)
    job = task.enqueue().id
    sync.run_worker(drain=True)
    found = sync.job(job)
    assert found is not None
    assert found.state == state


def failed_by_hand(database: Any, session: Any, worker: int, job: int, **bounds: Any) -> str:
    """Fail the attempt that runs, with a retry after 60 s, and say what became of the job."""
    given = {"retry_until": None, "max_exceptions": None, **bounds}
    state: str = session.execute(
        "SELECT pgsync.fail_job(%(worker)s, r.id, r.attempt, %(error)s, '60 s',"
        " %(retry_until)s, %(max_exceptions)s) FROM pgsync.job_running AS r WHERE r.id = %(job)s",
        {"worker": worker, "job": job, "error": '{"error": "no", "traceback": "..."}', **given},
    ).fetchone()[0]
    return state


def test_a_job_is_tried_again_until_so_long_after_its_first_attempt(
    database: Any, clock: Any, new_worker: Any
) -> None:
    session, worker = new_worker()
    # Its delay does not count.
    job = database.execute("SELECT pgsync.enqueue('x', delay => '1 day')").fetchone()[0]
    clock.move(86_400)
    for state in ("retryable", "retryable", "discarded"):
        database.execute("SELECT pgsync.promote_due_jobs()")
        session.execute("SELECT FROM pgsync.claim_jobs(%s, '{default}', 1)", [worker])
        clock.move(10)
        bound = timedelta(seconds=150)
        assert failed_by_hand(database, session, worker, job, retry_until=bound) == state
        clock.move(60)


def test_deaths_of_workers_are_no_exceptions(
    sync: Coordinator, database: Any, new_worker: Any
) -> None:
    session, worker = new_worker()
    job = database.execute("SELECT pgsync.enqueue('x', max_attempts => 10)").fetchone()[0]
    for death, state in ((True, None), (False, "retryable"), (True, None), (False, "discarded")):
        database.execute("UPDATE pgsync.job_scheduled SET run_at = pgsync.clock()")
        database.execute("SELECT pgsync.promote_due_jobs()")
        session.execute("SELECT FROM pgsync.claim_jobs(%s, '{default}', 1)", [worker])
        if death:
            session.execute("SELECT pgsync.give_back_jobs(%s, 'the worker died')", [worker])
        else:
            found = failed_by_hand(database, session, worker, job, max_exceptions=2)
            assert found == state
    history = sync.job(job)
    assert history is not None
    assert [each["error"] for each in history.errors] == ["the worker died", "no"] * 2


@both_kinds
@pytest.mark.parametrize(
    "bound", [{"retry_until": 1}, {"max_exceptions": 1}, {"retry_until": timedelta(seconds=59)}]
)
def test_a_bound_of_a_task_ends_its_retries(
    sync: Coordinator, kind: str, bound: dict[str, Any]
) -> None:
    job = declare(sync, kind, raising(ValueError()), backoff=Backoff((60,), jitter=0), **bound)
    ended = job.enqueue().id
    assert sync.run_worker(drain=True).discarded == 1
    found = sync.job(ended)
    assert found is not None
    assert (found.state, found.attempt, found.max_attempts) == ("discarded", 1, 5)


def test_retry_decides_when() -> None:
    seen: list[tuple[BaseException, int]] = []
    error = ValueError("no")

    def choose(error: BaseException, attempt: int) -> Any:
        seen.append((error, attempt))
        return {1: 7, 2: timedelta(minutes=2), 3: Backoff((1, 2, 30), jitter=0), 4: None}[attempt]

    policy = RetryPolicy(choose=choose)
    delays = [policy.delay(error, attempt) for attempt in (1, 2, 3, 4)]
    assert delays == [timedelta(seconds=7), timedelta(minutes=2), timedelta(seconds=30), None]
    assert seen == [(error, 1), (error, 2), (error, 3), (error, 4)]


def test_impossible_policies_are_refused(sync: Coordinator) -> None:
    for options in (
        {"retry_on": (3,)},
        {"discard_on": int},
        {"retry": 3},
        {"on_discard": "log"},
        {"retry_until": -1},
        {"max_exceptions": 0},
    ):
        with pytest.raises(InvalidArgument, match=next(iter(options))):
            declare(sync, "blocking", lambda: None, **options)
