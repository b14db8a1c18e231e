"""The two drivers of plans: one blocks, one awaits. They decide nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from pgsync.database.calls import Invoke, Sleep, Steps

__all__ = ["drive", "drive_async"]

T = TypeVar("T")


def _no_database(_call: Any) -> Any:
    raise TypeError("this plan asks the database, but was given none")


def drive(steps: Steps[T], run: Callable[[Any], Any] = _no_database) -> T:
    """Drive a plan to its end and return its result; ``run`` runs its calls and listings."""
    try:
        step = next(steps)
        while True:
            try:
                answer: Any = None
                if isinstance(step, Invoke):
                    answer = step.blocking()
                elif isinstance(step, Sleep):
                    time.sleep(step.seconds)
                else:
                    answer = run(step)
            except BaseException as error:  # noqa: BLE001 - the plan decides what it means
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        return cast(T, end.value)
    finally:
        steps.close()


async def drive_async(steps: Steps[T], run: Callable[[Any], Awaitable[Any]] = _no_database) -> T:
    """As :func:`drive`, awaiting."""
    try:
        step = next(steps)
        while True:
            try:
                answer: Any = None
                if isinstance(step, Invoke):
                    answer = await step.awaitable()
                elif isinstance(step, Sleep):
                    await asyncio.sleep(step.seconds)
                else:
                    answer = await run(step)
            except BaseException as error:  # noqa: BLE001 - the plan decides what it means
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        return cast(T, end.value)
    finally:
        steps.close()
