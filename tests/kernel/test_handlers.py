"""Handlers: what their context tells them, time limits, what failures lead to, and middleware."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgsync import (
    Backoff,
    CancelJob,
    Coordinator,
    DiscardJob,
    InvalidArgument,
    JobTimedOut,
    ReleaseJob,
    current_job,
)
from pgsync.database.calls import Call, scalar
from pgsync.queues.retry import RetryPolicy
from tests.eventually import eventually

pytestmark = pytest.mark.core

both_kinds = pytest.mark.parametrize("kind", ["blocking", "awaiting"])


def declare(sync: Coordinator, kind: str, function: Any, **options: Any) -> Any:
    """Declare ``function``, a blocking one, or for the other kind a coroutine that does the same
    and awaits what it returns where that can be."""
    name = options.pop("name", "handler")
    if kind == "blocking":
        return sync.task(name=name, **options)(lambda: function())

    async def awaiting() -> Any:
        outcome = function()
        return await outcome if asyncio.iscoroutine(outcome) else outcome

    return sync.task(name=name, **options)(awaiting)


def state_of(sync: Coordinator, job: int, wanted: str) -> Any:
    """The job, once it is in that state."""
    return eventually(lambda: (found := sync.job(job)) and found.state == wanted and found)


@contextmanager
def working(sync: Coordinator, **options: Any) -> Iterator[None]:
    sync.start(**options)
    try:
        yield
    finally:
        sync.stop()


def go_on_until_told(began: threading.Event, kind: str) -> Any:
    """A handler that works until its context has it end."""

    def blocking() -> None:
        context = current_job()
        assert context is not None
        began.set()
        until = time.monotonic() + 20
        while time.monotonic() < until:
            context.check()
            time.sleep(0.005)

    async def awaiting() -> None:
        context = current_job()
        assert context is not None
        began.set()
        until = time.monotonic() + 20
        while time.monotonic() < until:
            context.check()
            await asyncio.sleep(0.005)

    return blocking if kind == "blocking" else awaiting


@both_kinds
def test_a_stopping_worker_tells_its_handlers(sync: Coordinator, kind: str) -> None:
    began = threading.Event()
    job = declare(sync, kind, go_on_until_told(began, kind)).enqueue().id
    sync.start(grace=15)
    assert began.wait(10)
    stopped_at = time.monotonic()
    sync.stop()
    assert time.monotonic() - stopped_at < 10
    found = sync.job(job)
    assert found is not None
    # Long before the grace: it ended itself. Released, it is due at once, and promoted if in time.
    assert (found.state, found.attempt) in [("scheduled", 0), ("available", 0)]


def test_a_cancelled_handler_is_told_by_its_check(sync: Coordinator) -> None:
    began = threading.Event()
    job = declare(sync, "blocking", go_on_until_told(began, "blocking")).enqueue().id
    with working(sync):
        assert began.wait(10)
        assert sync.cancel_job(job) == "running"
        assert state_of(sync, job, "cancelled").result == {"reason": "cancelled while it ran"}


@both_kinds
def test_a_request_to_cancel_is_heard_before_the_next_heartbeat(
    sync: Coordinator, kind: str
) -> None:
    began = threading.Event()
    handler = declare(sync, kind, go_on_until_told(began, kind))
    took = []
    with working(sync):
        for _ in range(5):
            began.clear()
            job = handler.enqueue().id
            assert began.wait(10)
            asked_at = time.monotonic()
            sync.cancel_job(job)
            state_of(sync, job, "cancelled")
            took.append(time.monotonic() - asked_at)
    # Heartbeats are 5 s apart.
    assert sorted(took)[2] < 1


def test_an_operation_that_releases_itself_is_recorded_as_released(
    sync: Coordinator, database: Any
) -> None:
    @sync.operation("later", lock="later", ttl=60)
    def later(run: Any) -> None:
        raise ReleaseJob(60, "not yet")

    job = later.enqueue().id
    assert sync.run_worker(drain=True).released == 1
    runs = database.execute("SELECT state, job_id FROM pgsync.operations").fetchall()
    assert runs == [("released", job)]


@both_kinds
def test_a_timeout_is_a_failed_attempt(sync: Coordinator, kind: str) -> None:
    ends, ended = threading.Event(), threading.Event()

    def blocking() -> str:
        ends.wait(20)
        ended.set()
        return "late"

    async def awaiting() -> None:
        await asyncio.Event().wait()

    handler = blocking if kind == "blocking" else awaiting
    job = declare(sync, kind, handler, timeout=0.2, backoff=3600).enqueue().id
    with working(sync):
        found = state_of(sync, job, "retryable")
        assert [(each["attempt"], each["error"]) for each in found.errors] == [
            (1, "JobTimedOut: timed out after 0.2 s")
        ]
        ends.set()
        if kind == "blocking":
            assert ended.wait(10)
    # Its late result changes nothing.
    again = sync.job(job)
    assert again is not None
    assert (again.state, again.attempt, again.result) == ("retryable", 1, None)


@both_kinds
def test_within_its_timeout_a_job_completes(sync: Coordinator, kind: str) -> None:
    seen: list[tuple[float, float]] = []

    def handler() -> str:
        context = current_job()
        assert context is not None
        assert context.deadline is not None
        assert context.deadline_at is not None
        left = context.deadline_at - datetime.now(UTC)
        seen.append((context.deadline - time.monotonic(), left.total_seconds()))
        context.check()
        return "fine"

    task = declare(sync, kind, handler, timeout=60)
    jobs = task.enqueue_many([{}] * 50)
    assert sync.run_worker(drain=True).completed == 50
    found = sync.job(jobs[0])
    assert found is not None
    assert found.result == "fine"
    assert all(50 < each <= 60 for pair in seen for each in pair)


def test_a_coroutine_that_will_not_be_cancelled_has_failed_all_the_same(sync: Coordinator) -> None:
    ends = threading.Event()

    async def stubborn() -> str:
        while not ends.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue
        return "late"

    async def polite() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "made the best of it"
        return "never"

    options: dict[str, Any] = {"timeout": 0.1, "backoff": 3600}
    jobs = [
        declare(sync, "awaiting", each, name=each.__name__, **options).enqueue().id
        for each in (stubborn, polite)
    ]
    try:
        with working(sync, grace=1):
            for job in jobs:
                found = state_of(sync, job, "retryable")
                assert found.errors[0]["error"] == "JobTimedOut: timed out after 0.1 s"
            ends.set()
    finally:
        ends.set()  # else a failure would leave it looping


def test_the_place_of_an_overdue_handler_is_not_free(sync: Coordinator) -> None:
    ends, ran = threading.Event(), threading.Event()
    stuck = declare(sync, "blocking", lambda: ends.wait(20), timeout=0.1, max_attempts=1)
    quick = declare(sync, "blocking", ran.set, name="quick")
    with working(sync, concurrency=1):
        first = stuck.enqueue().id
        state_of(sync, first, "discarded")
        second = quick.enqueue().id
        # Longer than a worker's pause between two polls.
        assert not ran.wait(1.5)
        found = sync.job(second)
        assert found is not None
        assert found.state == "available"
        ends.set()
        state_of(sync, second, "completed")


def test_check_raises_at_the_deadline(sync: Coordinator) -> None:
    began, told = threading.Event(), threading.Event()
    go_on = go_on_until_told(began, "blocking")

    def handler() -> None:
        try:
            go_on()
        except JobTimedOut:
            told.set()
            raise

    job = declare(sync, "blocking", handler, timeout=0.2, max_attempts=1).enqueue().id
    with working(sync):
        assert told.wait(10)
        found = state_of(sync, job, "discarded")
    assert len(found.errors) == 1
    assert found.errors[0]["error"] == "JobTimedOut: timed out after 0.2 s"


@both_kinds
def test_a_second_attempt_may_follow_one_that_still_runs(sync: Coordinator, kind: str) -> None:
    ends = threading.Event()
    attempts: list[int] = []

    def blocking() -> str:
        context = current_job()
        assert context is not None
        attempts.append(context.attempt)
        if context.attempt == 1:
            ends.wait(20)
        return f"attempt {context.attempt}"

    async def awaiting() -> str:
        context = current_job()
        assert context is not None
        attempts.append(context.attempt)
        if context.attempt == 1:
            await asyncio.Event().wait()
        return f"attempt {context.attempt}"

    handler = blocking if kind == "blocking" else awaiting
    job = declare(sync, kind, handler, timeout=0.3, backoff=0).enqueue().id
    with working(sync):
        assert state_of(sync, job, "completed").result == "attempt 2"
        ends.set()
    assert attempts == [1, 2]


def test_an_impossible_timeout_is_refused(sync: Coordinator) -> None:
    for timeout in (0, -1, float("inf"), "5"):
        with pytest.raises(InvalidArgument, match="timeout"):
            declare(sync, "blocking", lambda: None, timeout=timeout)


def raising(error: BaseException) -> Any:
    def handler() -> None:
        raise error

    return handler


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
    assert began.wait(10)
    sync.stop()
    assert f"on_discard did not end for jobs [{job}]" in caplog.messages


def test_the_first_middleware_is_outermost(face: Any) -> None:
    seen: list[str] = []

    def named(name: str) -> None:
        def blocking(job: Any, call: Any) -> Any:
            seen.append(f"{name} {job.job.task}")
            result = call()
            seen.append(f"{name} ends")
            return f"{name}({result})"

        async def awaiting(job: Any, call: Any) -> Any:
            seen.append(f"{name} {job.job.task}")
            result = await call()
            seen.append(f"{name} ends")
            return f"{name}({result})"

        face.tasks.use(blocking)
        face.tasks.use(awaiting)

    named("a")
    named("b")

    @face.task(name="blocking")
    def blocking(n: int) -> str:
        seen.append("handler")
        return str(n)

    @face.task(name="awaiting")
    async def awaiting(n: int) -> str:
        await asyncio.sleep(0)
        seen.append("handler")
        return str(n)

    for task, name in ((blocking, "blocking"), (awaiting, "awaiting")):
        seen.clear()
        job = task.enqueue(n=1).id
        assert face.run_worker(drain=True).completed == 1
        assert seen == [f"a {name}", f"b {name}", "handler", "b ends", "a ends"]
        assert face.job(job).result == "a(b(1))"


@both_kinds
def test_what_middleware_raises_is_the_handlers_answer(sync: Coordinator, kind: str) -> None:
    ran: list[str] = []

    def refuse(job: Any, call: Any) -> Any:
        if job.job.task == "later":
            raise ReleaseJob(60)
        try:
            return call()
        except KeyError as error:
            raise DiscardJob("hopeless") from error

    async def refuse_async(job: Any, call: Any) -> Any:
        if job.job.task == "later":
            raise ReleaseJob(60)
        try:
            return await call()
        except KeyError as error:
            raise DiscardJob("hopeless") from error

    sync.tasks.use(refuse)
    sync.tasks.use(refuse_async)
    later = declare(sync, kind, lambda: ran.append("later"), name="later").enqueue().id
    hopeless = declare(sync, kind, raising(KeyError()), name="hopeless").enqueue().id
    sync.run_worker(drain=True)
    assert not ran
    states = [(found.state, found.attempt) for job in (later, hopeless) if (found := sync.job(job))]
    assert states == [("scheduled", 0), ("discarded", 1)]


def test_middleware_is_around_operations_in_workers_only(sync: Coordinator) -> None:
    seen: list[str] = []

    @sync.tasks.use
    def note(job: Any, call: Any) -> Any:
        assert current_job() is job
        seen.append(job.job.task)
        return call()

    @sync.operation("count", lock="count", ttl=60)
    def count(run: Any) -> int:
        return 1

    assert count() == 1
    assert seen == []
    count.enqueue()
    assert sync.run_worker(drain=True).completed == 1
    assert seen == ["count"]


def test_what_is_no_middleware_is_refused(sync: Coordinator) -> None:
    with pytest.raises(InvalidArgument, match="job, call"):
        sync.tasks.use(lambda job: None)  # type: ignore[arg-type,misc]
    assert sync.tasks.middleware == []
