"""Middleware around handlers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pgsync import Coordinator, DiscardJob, InvalidArgument, ReleaseJob, current_job
from tests.kernel.handlers import both_kinds, declare, raising

pytestmark = pytest.mark.core


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
