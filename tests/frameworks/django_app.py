"""Tasks of a Django app."""

from __future__ import annotations

import asyncio
from typing import Any

from django.db import connection

from pgsync.doors.django import framework

if framework.Task.__module__.startswith("django.tasks"):
    from django.tasks import task
else:
    from django_tasks import task

done: list[Any] = []


@task(queue_name="mail")
def send(to: str, copies: int = 1) -> dict[str, Any]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_database()")
        return {"to": to, "copies": copies, "database": cursor.fetchone()[0]}


@task(takes_context=True, priority=5)
def third_time(context: Any, times: int) -> int:
    done.append((context.attempt, [error.exception_class for error in context.task_result.errors]))
    if context.attempt < times:
        raise LookupError(f"attempt {context.attempt}")
    return context.attempt


@task(max_attempts=1)
def broken() -> None:
    raise LookupError("broken")


@task
async def later(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "slept"


def no_task() -> None:
    done.append("called")
