"""Workers: what they run, and what becomes of each outcome."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from pgsync import (
    Backoff,
    CancelJob,
    Coordinator,
    DiscardJob,
    InvalidArgument,
    ReleaseJob,
    current_job,
)
from pgsync.daemon import wakeups
from tests.eventually import eventually
from tests.kernel.handlers import working

pytestmark = pytest.mark.core


def drain(face: Any, **options: Any) -> Any:
    return face.run_worker(drain=True, **options)


def test_a_drain_runs_all_that_is_there(face: Any) -> None:
    seen: list[tuple[str, int]] = []
    blocking = face.task(name="blocking")(lambda n: seen.append(("blocking", n)))

    @face.task()
    async def awaiting(n: int) -> dict[str, int]:
        seen.append(("awaiting", n))
        return {"twice": 2 * n}

    blocking.enqueue_many({"n": n} for n in range(300))
    jobs = awaiting.enqueue_many({"n": n} for n in range(300))
    report = drain(face, concurrency=7)
    assert report.completed == 600
    expected = [(kind, n) for kind in ("awaiting", "blocking") for n in range(300)]
    assert sorted(seen) == expected
    assert face.job(jobs[21]).result == {"twice": 42}
    assert drain(face).completed == 0


def test_queues_may_have_any_name(face: Any) -> None:
    names = ["a,b", '"', "\\", '\\"', "{}", "null", " ", "d'été"]
    seen: list[str] = []
    for name in names:
        face.task(name=name, queue=name)(lambda name: seen.append(name)).enqueue(name=name)
    assert drain(face, queues=names).completed == len(names)
    assert sorted(seen) == sorted(names)


@pytest.mark.parametrize("kind", ["blocking", "awaiting"])
def test_no_more_than_the_concurrency_run_at_once(sync: Coordinator, kind: str) -> None:
    now = most = 0
    full = threading.Event()

    def enter() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if now == 3:
            full.set()

    @sync.task()
    def blocking() -> None:
        nonlocal now
        enter()
        full.wait(10)
        now -= 1

    @sync.task()
    async def awaiting() -> None:
        nonlocal now
        enter()
        await asyncio.to_thread(full.wait, 10)
        now -= 1

    task: Any = {"blocking": blocking, "awaiting": awaiting}[kind]
    task.enqueue_many([{}] * 20)
    assert drain(sync, concurrency=3).completed == 20
    assert most == 3


def test_current_job_is_the_handlers_own(sync: Coordinator) -> None:
    both = threading.Barrier(2)
    seen: dict[int, tuple[int, int]] = {}

    @sync.task()
    def look(n: int) -> None:
        both.wait(10)
        context = current_job()
        assert context is not None
        seen[n] = (context.id, context.attempt)

    ids = look.enqueue_many([{"n": 0}, {"n": 1}])
    drain(sync, concurrency=2)
    assert seen == {0: (ids[0], 1), 1: (ids[1], 1)}
    assert current_job() is None


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def outcomes() -> dict[str, tuple[Callable[[], Any], str, str]]:
    """Handlers by name, the state each leaves its job in, and a part of its error or reason."""

    def raises(error: BaseException) -> Callable[[], Any]:
        def handler() -> None:
            raise error

        return handler

    return {
        "fails": (raises(ValueError("no")), "retryable", "ValueError: no"),
        "gives_up": (raises(DiscardJob("hopeless")), "discarded", "hopeless"),
        "cancels": (raises(CancelJob("not needed")), "cancelled", "not needed"),
        "releases": (raises(ReleaseJob(60)), "scheduled", ""),
        "unspeakable": (raises(Unspeakable()), "retryable", "Unspeakable: <its text raises>"),
        "nul": (raises(ValueError("a\0b")), "retryable", "a\N{SYMBOL FOR NULL}b"),
        "surrogate": (raises(ValueError("a\ud800b")), "retryable", "a?b"),
        "long": (raises(ValueError("x" * 100_000)), "retryable", "characters left out"),
        "exits": (raises(SystemExit(3)), "retryable", "SystemExit: 3"),
        "cancels_itself": (raises(asyncio.CancelledError()), "retryable", "CancelledError"),
        "odd_cancel": (raises(CancelJob("a\0\ud800")), "cancelled", "a"),
        "not_json": (lambda: {1, 2}, "retryable", "must be JSON"),
        "nan": (lambda: float("nan"), "retryable", "must be JSON"),
        "nul_result": (lambda: "a\0b", "retryable", "NUL"),
        "overflow": (lambda: 10**140_000, "retryable", "overflows numeric"),
    }


@pytest.fixture
def any_number() -> Iterator[None]:
    """Python writes whole numbers of any length, of which PostgreSQL refuses the longest."""
    usual = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    yield
    sys.set_int_max_str_digits(usual)


@pytest.mark.parametrize("kind", ["blocking", "awaiting"])
def test_each_outcome_is_recorded_as_what_it_is(
    sync: Coordinator, kind: str, any_number: None
) -> None:
    jobs: dict[str, int] = {}
    for name, (handler, _, _) in outcomes().items():
        if kind == "awaiting":

            async def awaiting(handler: Callable[[], Any] = handler) -> Any:
                return handler()

            task: Any = sync.task(name=name, backoff=3600)(awaiting)
        else:
            task = sync.task(name=name, backoff=3600)(handler)
        jobs[name] = task.enqueue().id
    good: Any = sync.task(name="good")(lambda: "fine")
    kept = good.enqueue().id
    report = drain(sync)
    assert (report.completed, report.released, report.cancelled) == (1, 1, 2)
    for name, (_, state, words) in outcomes().items():
        found = sync.job(jobs[name])
        assert found is not None
        assert (name, found.state) == (name, state)
        told = found.errors[0]["error"] if found.errors else str(found.result or "")
        assert words in told
        assert found.attempt == (0 if state == "scheduled" else 1)
    found = sync.job(kept)
    assert found is not None
    assert (found.state, found.result) == ("completed", "fine")


def test_an_unknown_task_waits_for_a_worker_that_knows_it(sync: Coordinator, database: Any) -> None:
    job = database.execute("SELECT pgsync.enqueue('elsewhere')").fetchone()[0]
    assert drain(sync).retryable == 1
    found = sync.job(job)
    assert found is not None
    assert found.state == "retryable"
    assert "no task named 'elsewhere'" in found.errors[0]["error"]


def test_a_failing_job_ends_after_its_attempts(sync: Coordinator) -> None:
    @sync.task(max_attempts=3, backoff=0)
    def broken() -> None:
        raise ValueError(f"attempt {current_job().attempt}")  # type: ignore[union-attr]

    job = broken.enqueue()
    with working(sync):
        found = eventually(lambda: (s := sync.job(job.id)) and s.state == "discarded" and s)
    assert [error["error"] for error in found.errors] == [
        f"ValueError: attempt {n}" for n in (1, 2, 3)
    ]
    assert "raise ValueError" in found.errors[0]["traceback"]


def test_backoff_grows_as_declared() -> None:
    assert [Backoff((1, 5), factor=2).base(n) for n in (1, 2, 3, 4)] == [1, 5, 10, 20]
    assert Backoff((1,), factor=10).base(10_000) == 3600
    for _ in range(100):
        assert timedelta(seconds=9) <= Backoff((10,)).delay(1) <= timedelta(seconds=11)
    for bad in ({"delays": ()}, {"factor": -1}, {"jitter": 2}, {"longest": float("inf")}):
        with pytest.raises(InvalidArgument):
            Backoff(**bad)


def test_a_waiting_worker_is_woken_by_word_alone(
    face: Any, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pause in ("_POLL_SECONDS", "_LONGEST_POLL_SECONDS"):  # no poll comes to help
        monkeypatch.setattr(wakeups, pause, 600.0)
    ran = threading.Event()
    hold = threading.Event()
    wait = face.task(name="wait")(lambda: hold.wait(120))
    quick = face.task(name="quick")(lambda: ran.set())

    def settled() -> Any:
        """How many jobs have ended, and whether a worker with nothing new to do says so."""
        return database.execute(
            "SELECT (SELECT count(*) FROM pgsync.job_history), bool_and(idle) FROM pgsync.worker"
            " HAVING (SELECT count(*) FROM pgsync.job_running) = 1"
        ).fetchone()

    with working(face, concurrency=5):
        # A worker that has work, but room for more too, must hear of it as an idle one does.
        wait.enqueue()
        for done in range(5):
            eventually(lambda done=done: settled() == (done, True))
            ran.clear()
            quick.enqueue()
            assert ran.wait(60)
        hold.set()


def test_a_running_coroutine_is_cancelled_on_request(sync: Coordinator) -> None:
    began = threading.Event()

    @sync.task()
    async def endless() -> None:
        began.set()
        await asyncio.Event().wait()

    job = endless.enqueue()
    with working(sync):
        assert began.wait(60)
        assert sync.cancel_job(job.id) == "running"
        found = eventually(lambda: (s := sync.job(job.id)) and s.state == "cancelled" and s)
    assert found.result == {"reason": "cancelled while it ran"}


def test_impossible_options_are_refused(face: Any) -> None:
    for options in ({"queues": "default"}, {"queues": []}, {"queues": [""]}, {"concurrency": 0}):
        with pytest.raises(InvalidArgument):
            face.run_worker(drain=True, **options)


def test_the_view_names_the_worker(sync: Coordinator, database: Any) -> None:
    with working(sync, queues=["a", "*"], concurrency=4):
        row = eventually(
            lambda: database.execute(
                "SELECT pid, queues, concurrency, state, running FROM pgsync.workers"
            ).fetchone()
        )
        assert row == (os.getpid(), ["a", "*"], 4, "idle", 0)
    assert database.execute("SELECT count(*) FROM pgsync.workers").fetchone() == (0,)
