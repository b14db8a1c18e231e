"""Queued operations wait for their locks in the queue, not in a worker."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from pgsync import Release
from tests.eventually import eventually
from tests.kernel.by_hand import state

pytestmark = pytest.mark.core

LOCK = "sync:7"


def declare(face: Any, work: Any) -> Any:
    """An operation of either face that waits in its queue while its lock is held."""
    options: Any = {"lock": "sync:{number}", "ttl": 60, "blocked": Release(after=60)}
    if hasattr(face, "wrapped"):

        async def handler(op: Any, number: int) -> Any:
            return work(op, number)

        return face.operation("sync", **options)(handler)
    return face.operation("sync", **options)(work)


def test_a_queued_operation_runs_in_a_moment_after_its_lock_is_released(
    new_face: Any, database: Any
) -> None:
    outside, face = new_face(), new_face()
    began: list[float] = []
    sync = declare(face, lambda op, number: began.append(time.monotonic()))
    face.start(queues=["default"])
    lock = outside.lock(LOCK, ttl=60)
    lock.acquire()
    jobs = [sync.enqueue(number=7).id for _ in range(2)]
    eventually(lambda: [state(database, job) for job in jobs] == [("waiting", 0)] * 2)
    assert began == []
    lock.release()
    eventually(lambda: [state(database, job) for job in jobs] == [("completed", 1)] * 2)
    face.stop()
    # Neither was tried in vain.
    runs = database.execute("SELECT state, job_id FROM pgsync.operations ORDER BY id").fetchall()
    assert runs == [("completed", job) for job in jobs]


def test_a_queued_operation_goes_before_those_of_its_process_who_wait_for_its_lock(
    sync: Any, database: Any, new_worker: Any
) -> None:
    ran: list[str] = []
    waits: list[threading.Thread] = []

    def wait_for_lock() -> None:
        with sync.lock(LOCK, ttl=60, wait=20):
            ran.append("waiter")

    def work(op: Any, number: int) -> None:
        ran.append("operation")

    operation = declare(sync, work)
    enqueued = operation.enqueue(number=7)

    @sync.tasks.use
    def others_ask_first(job: Any, call: Any) -> Any:
        waiter = threading.Thread(target=wait_for_lock)
        waits.append(waiter)
        waiter.start()
        eventually(lambda: sync._keeper._turns.owner(sync.lock(LOCK, ttl=1)._request.line))
        return call()

    assert sync.run_worker(drain=True).completed == 1
    waits[0].join(20)
    assert ran == ["operation", "waiter"]
    assert state(database, enqueued.id) == ("completed", 1)
