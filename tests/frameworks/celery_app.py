"""A small app in Celery's manner, declared once on Celery itself and once on pgsync's door."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

tried: list[tuple[str, int]] = []


class Flaky(Exception):
    """What goes away by itself."""


def declare(task: Callable[..., Any]) -> dict[str, Any]:
    """The tasks of the app, by name; ``task`` is the decorator of one of the two."""

    @task
    def add(x: int, y: int = 1) -> int:
        return x + y

    @task(bind=True, max_retries=3, default_retry_delay=0)
    def third_time(self: Any, times: int) -> int:
        tried.append(("third_time", self.request.retries))
        if self.request.retries + 1 < times:
            raise self.retry(countdown=0)
        return int(self.request.retries)

    @task(bind=True, max_retries=2)
    def gives_up(self: Any, with_error: bool) -> None:
        tried.append(("gives_up", self.request.retries))
        try:
            raise Flaky("still")
        except Flaky as error:
            self.retry(exc=error if with_error else None, countdown=0)

    @task(autoretry_for=(Flaky,), max_retries=1, default_retry_delay=0)
    def flaky(kind: str) -> None:
        tried.append(("flaky", 0))
        raise {"flaky": Flaky, "value": ValueError}[kind](f"a {kind} error")

    @task(autoretry_for=(Exception,), dont_autoretry_for=(KeyError,), default_retry_delay=0)
    def final() -> None:
        tried.append(("final", 0))
        raise KeyError("k")

    @task(name="renamed")
    def named() -> list[int]:
        return [1, 2]

    return {each.run.__name__: each for each in (add, third_time, gives_up, flaky, final, named)}


def outcomes(tasks: dict[str, Any]) -> list[Any]:
    """Run the tasks with whichever it is, and say what came of each."""
    tried.clear()
    calls = [
        tasks["add"].delay(2, y=3),
        tasks["add"].apply_async((2,), countdown=0.01),
        tasks["add"].apply_async(kwargs={"x": 5}, priority=9),
        tasks["named"].delay(),
        tasks["third_time"].delay(3),
        tasks["gives_up"].delay(True),
        tasks["gives_up"].delay(with_error=False),
        tasks["flaky"].delay("flaky"),
        tasks["flaky"].delay("value"),
        tasks["final"].delay(),
        tasks["add"].apply_async((1,), expires=-10),
    ]
    seen: list[Any] = []
    for call in calls:
        value = call.get(timeout=30, propagate=False)
        if isinstance(value, Exception):
            # The others word theirs differently, which is no part of the bargain.
            words = str(value) if type(value) in (Flaky, ValueError) else ""
            value = (type(value).__name__, words)
        seen.append((call.state, value, call.ready(), call.successful(), call.failed()))
    for wrong in ((), (1, 2, 3)):
        try:
            tasks["add"].delay(*wrong)
        except TypeError:
            seen.append("TypeError")
    return [*seen, tasks["add"](1, 1), tasks["named"].name, sorted(tried)]
