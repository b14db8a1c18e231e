"""Handlers for processes of their own, which have to import them."""

from __future__ import annotations

import ctypes
import os
import time
from typing import Any

import psycopg

from pgsync import DiscardJob, JobTimedOut, current_job


def work(n: int) -> dict[str, int]:
    return {"square": n * n, "pid": os.getpid()}


def look() -> dict[str, Any]:
    context = current_job()
    assert context is not None
    context.progress(1, total=2, note="half")
    left = None if context.deadline is None else context.deadline - time.monotonic()
    return {"id": context.id, "attempt": context.attempt, "left": left}


class Picky(Exception):
    """Cannot be made again from its arguments, as pickle does."""

    def __init__(self, code: int, *, why: str) -> None:
        super().__init__(f"{code}: {why}")


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def fail(how: str) -> None:
    if how == "picky":
        raise Picky(7, why="so")
    if how == "unspeakable":
        raise Unspeakable
    if how == "discard":
        raise DiscardJob("hopeless")
    if how == "exit":
        raise SystemExit(3)
    if how == "lambda":
        raise ValueError(lambda: None)
    raise ValueError("no")


def not_json() -> set[int]:
    return {1}


def die(how: str) -> None:
    if how == "exit":
        os._exit(3)
    ctypes.string_at(0)


def spin(began: str) -> None:
    """Keep a core busy, and hear of nothing."""
    with open(began, "w") as file:  # noqa: PTH123
        file.write(str(os.getpid()))
    while True:
        pass


def heed(began: str) -> str:
    """Work until the context has it end."""
    context = current_job()
    assert context is not None
    with open(began, "w") as file:  # noqa: PTH123
        file.write(str(os.getpid()))
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            context.check()
        except JobTimedOut:
            return "late"
        time.sleep(0.005)
    return "never told"


def book(dsn: str) -> None:
    """Complete in a transaction of its own, and die after it."""
    context = current_job()
    assert context is not None
    with psycopg.connect(dsn) as connection:
        context.complete(within=connection, result="booked")
    raise ValueError("after the commit")


def report(until: str) -> None:
    """Tell of progress until that is seen."""
    context = current_job()
    assert context is not None
    done = 0
    while not os.path.exists(until):  # noqa: PTH110
        context.progress(done)
        done += 1
        time.sleep(0.01)
