"""Middleware before enqueuing: what it sees, changes and refuses, in all ways to enqueue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pgsync import Coordinator, InvalidArgument
from pgsync.queues import NewJob

pytestmark = pytest.mark.core


def send(n: int, tenant: str = "", trace: str = "") -> None:
    """A handler that no test runs."""


def jobs(database: Any) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = database.execute(
        "SELECT (args ->> 'n')::int, args ->> 'tenant', args ->> 'trace', priority"
        " FROM pgsync.jobs ORDER BY id"
    ).fetchall()
    return rows


def test_middleware_sees_and_changes_each_job_in_order(face: Any, database: Any) -> None:
    task = face.task()(send)
    seen: list[tuple[str, int, str]] = []

    @face.tasks.use_enqueue
    def with_tenant(job: NewJob) -> NewJob:
        seen.append((job.task, job.args["n"], "tenant"))
        options = replace(job.options, priority=3) if job.args["n"] % 2 else job.options
        return replace(job, args={**job.args, "tenant": "acme"}, options=options)

    @face.tasks.use_enqueue
    def with_trace(job: NewJob) -> NewJob:
        seen.append((job.task, job.args["n"], "trace"))
        return replace(job, args={**job.args, "trace": f"of {job.args['tenant']}"})

    task.enqueue(n=0)
    task.options(unique_key="one").enqueue(n=1)
    task.enqueue_many([{"n": 2}, {"n": 3}, {"n": 4}])
    face.batch("two", [task.job(n=5), task.job(n=6)], on_end=task.job(n=8))
    face.chain([task.job(n=9), [task.job(n=10)]])
    numbers = [0, 1, 2, 3, 4, 5, 6, 9, 10]
    assert jobs(database) == [(n, "acme", "of acme", 3 * (n % 2)) for n in numbers]
    assert seen == [
        ("send", n, who)
        for n in (0, 1, 2, 3, 4, 8, 5, 6, 9, 10)  # a batch's callback is named before its jobs
        for who in ("tenant", "trace")
    ]


def test_a_job_in_the_callers_transaction_is_seen_too(sync: Coordinator, database: Any) -> None:
    task = sync.task()(send)
    sync.tasks.use_enqueue(lambda job: replace(job, args={**job.args, "tenant": "acme"}))
    with database.transaction():
        task.enqueue(n=1, within=database)
        task.enqueue_many([{"n": 2}], within=database)
    assert jobs(database) == [(1, "acme", None, 0), (2, "acme", None, 0)]


def test_middleware_refuses_by_raising(face: Any, database: Any) -> None:
    task = face.task()(send)

    @face.tasks.use_enqueue
    def refuse(job: NewJob) -> NewJob:
        if job.args["n"] == 3:
            raise PermissionError("not today")
        return job

    with pytest.raises(PermissionError, match="not today"):
        task.enqueue(n=3)
    with pytest.raises(PermissionError, match="not today"):
        task.enqueue_many({"n": n} for n in range(5))
    task.enqueue(n=4)
    assert [n for n, *_ in jobs(database)] == [4]


def test_what_middleware_returns_must_fit_the_handler(face: Any, database: Any) -> None:
    task = face.task()(send)
    returns: list[Any] = [None, {"n": 1}, NewJob("send", {"m": 1}, task.declaration.options)]
    face.tasks.use_enqueue(lambda _job: returns[0])
    while returns:
        with pytest.raises(InvalidArgument, match=r"must return a job|required argument"):
            task.enqueue(n=1)
        returns.pop(0)
    assert jobs(database) == []


def test_what_cannot_be_middleware_is_refused(face: Any) -> None:
    async def coroutine(job: NewJob) -> NewJob:
        return job

    for wrong in (coroutine, lambda: None, lambda _job, _call: None, "text"):
        with pytest.raises(InvalidArgument, match="blocking function of"):
            face.tasks.use_enqueue(wrong)
