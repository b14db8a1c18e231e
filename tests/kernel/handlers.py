"""Handlers of both kinds, declared, run and watched; for the tests of what workers do with them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pgsync import Coordinator, current_job
from tests.eventually import eventually

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
def working(face: Any, **options: Any) -> Iterator[None]:
    """The coordinator's daemon runs inside."""
    face.start(**options)
    try:
        yield
    finally:
        face.stop()


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


def raising(error: BaseException) -> Any:
    """A handler that fails."""

    def handler() -> None:
        raise error

    return handler
