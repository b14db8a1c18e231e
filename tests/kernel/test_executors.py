"""The executors of calls and plans: what they wait for, and what a lost connection means."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from pgsync import Coordinator, InvalidArgument, OutcomeUnknown
from pgsync.database.calls import Call, Invoke, Sleep, Steps, scalar
from pgsync.database.drive import drive, drive_async
from tests.eventually import eventually

pytestmark = pytest.mark.core

ONE: Call[int] = Call("SELECT 1", {}, scalar)


def test_a_plan_asks_sleeps_and_does_work_in_either_face(face: Any) -> None:
    def plan() -> Steps[list[Any]]:
        answers: list[Any] = [(yield from ONE)]
        yield from Sleep(0.001)
        answers.append((yield from Invoke(lambda: "blocking", lambda: asyncio.sleep(0, "async"))))
        try:
            yield from Call("SELECT 1/0", {}, scalar)
        except InvalidArgument:
            answers.append("met")
        return answers

    answers = face.database.drive(plan()) if not hasattr(face, "wrapped") else None
    if answers is None:
        answers = face._portal.wait(face.wrapped.database.drive(plan()))
    assert answers[0] == 1
    assert answers[1] in ("blocking", "async")
    assert answers[2] == "met"


def test_a_plan_that_is_left_is_closed() -> None:
    closed: list[str] = []

    def plan() -> Steps[None]:
        try:
            yield from Sleep(60)
        finally:
            closed.append("closed")

    async def cancelled() -> None:
        task = asyncio.create_task(drive_async(plan()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert closed == ["closed"]
    with pytest.raises(TypeError, match="given none"):
        drive(iter_of(ONE))


def iter_of(call: Call[int]) -> Steps[int]:
    return (yield from call)


def test_a_connection_that_breaks_in_a_call_leaves_its_outcome_unknown(
    sync: Coordinator, database: Any
) -> None:
    errors: list[OutcomeUnknown] = []

    def ask() -> None:
        try:
            sync.database.run(Call("SELECT pg_sleep(60)", {}, scalar))
        except OutcomeUnknown as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    ended = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep'"
    )
    eventually(lambda: database.execute(ended).fetchall())
    thread.join(60)
    assert len(errors) == 1
    assert sync.database.run(ONE) == 1


def test_a_connection_that_was_ended_while_idle_is_not_handed_out(face: Any, database: Any) -> None:
    assert face.job(1) is None
    for _ in range(3):
        database.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert face.job(1) is None
