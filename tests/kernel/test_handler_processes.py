"""Handlers in processes of their own: what they see, how they end, and what their deaths cost."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pgsync import Coordinator, InvalidArgument
from tests.eventually import eventually
from tests.kernel import process_handlers as handlers
from tests.kernel.handlers import working

pytestmark = pytest.mark.core


def declare(face: Any, function: Any, **options: Any) -> Any:
    return face.task(run_in="process", **{"backoff": 3600, **options})(function)


def pid_in(file: Path) -> int:
    """The process that says there that it has begun."""
    return int(eventually(lambda: file.exists() and file.read_text()))


def alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def state_of(face: Any, job: int, *wanted: str) -> Any:
    return eventually(lambda: (found := face.job(job)) and found.state in wanted and found)


def test_a_handler_runs_in_a_process_that_is_kept_for_the_next(face: Any) -> None:
    work = declare(face, handlers.work)
    jobs = work.enqueue_many({"n": n} for n in range(20))
    assert face.run_worker(drain=True, concurrency=2).completed == 20
    results = [face.job(job).result for job in jobs]
    assert [result["square"] for result in results] == [n * n for n in range(20)]
    pids = {result["pid"] for result in results}
    assert os.getpid() not in pids
    assert 1 <= len(pids) <= 2
    assert not any(alive(pid) for pid in pids)


def test_the_context_is_there(sync: Coordinator) -> None:
    seen: list[str] = []

    @sync.tasks.use
    def around(job: Any, call: Any) -> Any:
        result = call()
        seen.append(job.job.task)
        return {**result, "around": True}

    look = declare(sync, handlers.look, timeout=60)
    job = look.enqueue().id
    assert sync.run_worker(drain=True).completed == 1
    found = sync.job(job)
    assert found is not None
    assert 50 < found.result.pop("left") <= 60
    assert found.result == {"id": job, "attempt": 1, "around": True}
    assert seen == ["look"]


def test_its_progress_is_told(sync: Coordinator, tmp_path: Path) -> None:
    reporting = declare(sync, handlers.report)
    job = reporting.enqueue(until=str(tmp_path / "seen")).id
    with working(sync):
        eventually(lambda: (found := sync.job(job)) and found.progress)
        (tmp_path / "seen").touch()
        state_of(sync, job, "completed")


def test_its_error_comes_back(sync: Coordinator) -> None:
    expected = {
        "plain": ("retryable", "ValueError: no"),
        "picky": ("retryable", "Picky: 7: so"),
        "unspeakable": ("retryable", "Unspeakable: <its text raises>"),
        "discard": ("discarded", "DiscardJob: hopeless"),
        "exit": ("retryable", "SystemExit: 3"),
        "lambda": ("retryable", "HandlerFailed: ValueError: <function"),
    }
    fail = declare(sync, handlers.fail)
    jobs = {how: fail.enqueue(how=how).id for how in expected}
    sync.run_worker(drain=True, concurrency=1)
    for how, (state, words) in expected.items():
        found = sync.job(jobs[how])
        assert found is not None
        assert found.state == state
        assert words in found.errors[0]["error"]
        assert "process_handlers.py" in found.errors[0]["traceback"]


def test_the_class_of_its_error_decides(sync: Coordinator) -> None:
    job = declare(sync, handlers.fail, discard_on=ValueError).enqueue(how="plain").id
    assert sync.run_worker(drain=True).discarded == 1
    job = declare(sync, handlers.not_json).enqueue().id
    sync.run_worker(drain=True)
    found = sync.job(job)
    assert found is not None
    assert "must be JSON" in found.errors[0]["error"]


def test_a_death_fails_its_own_attempt_only(sync: Coordinator, tmp_path: Path) -> None:
    die = declare(sync, handlers.die)
    heed = declare(sync, handlers.heed, timeout=1.5)
    beside = heed.enqueue(began=str(tmp_path / "began")).id
    with working(sync, concurrency=2):
        pid_in(tmp_path / "began")
        exits, crashes = die.enqueue(how="exit").id, die.enqueue(how="segfault").id
        told = [state_of(sync, job, "retryable").errors[0]["error"] for job in (exits, crashes)]
        assert told == [
            f"ProcessDied: the process of its handler died: {how}"
            for how in ("exit code 3", "SIGSEGV")
        ]
        found = state_of(sync, beside, "completed", "retryable")
        assert (found.attempt, len(found.errors)) in [(1, 0), (1, 1)]


def test_its_timeout_kills_it(sync: Coordinator, tmp_path: Path) -> None:
    job = declare(sync, handlers.spin, timeout=0.3).enqueue(began=str(tmp_path / "began")).id
    with working(sync, concurrency=1):
        pid = pid_in(tmp_path / "began")
        found = state_of(sync, job, "retryable")
        assert found.errors[0]["error"] == "JobTimedOut: timed out after 0.3 s"
        eventually(lambda: not alive(pid))
        # Its place is free again.
        after = declare(sync, handlers.work).enqueue(n=3).id
        state_of(sync, after, "completed")


@pytest.mark.parametrize("handler", [handlers.spin, handlers.heed], ids=lambda each: each.__name__)
def test_a_request_to_cancel_ends_it(sync: Coordinator, tmp_path: Path, handler: Any) -> None:
    job = declare(sync, handler).enqueue(began=str(tmp_path / "began")).id
    with working(sync):
        pid = pid_in(tmp_path / "began")
        assert sync.cancel_job(job) == "running"
        assert state_of(sync, job, "cancelled").result == {"reason": "cancelled while it ran"}
        eventually(lambda: alive(pid) is (handler is handlers.heed))


@pytest.mark.parametrize("handler", [handlers.spin, handlers.heed], ids=lambda each: each.__name__)
def test_it_goes_back_unspent_when_its_worker_stops(
    sync: Coordinator, tmp_path: Path, handler: Any
) -> None:
    job = declare(sync, handler).enqueue(began=str(tmp_path / "began")).id
    sync.start(grace=0.5)
    pid = pid_in(tmp_path / "began")
    sync.stop()
    eventually(lambda: not alive(pid))
    found = sync.job(job)
    assert found is not None
    assert (found.state, found.attempt) in [("available", 0), ("scheduled", 0)]


def test_it_may_complete_its_job_in_its_own_transaction(sync: Coordinator, dsn: str) -> None:
    job = declare(sync, handlers.book).enqueue(dsn=dsn).id
    report = sync.run_worker(drain=True)
    assert (report.completed, report.late, report.retryable) == (1, 0, 0)
    found = sync.job(job)
    assert found is not None
    assert (found.state, found.result) == ("completed", "booked")


def test_what_no_process_could_import_is_refused(sync: Coordinator) -> None:
    def local() -> None: ...

    async def awaiting() -> None: ...

    for function in (local, lambda: None):
        with pytest.raises(InvalidArgument, match="at the top of a module"):
            declare(sync, function, name="local")
    with pytest.raises(InvalidArgument, match="coroutine"):
        declare(sync, awaiting)
    with pytest.raises(InvalidArgument, match="run_in must be"):
        sync.task(run_in="thread")(handlers.work)  # type: ignore[arg-type]
    assert asyncio.iscoroutinefunction(awaiting)
