"""Each public call with values of every wrong kind: an answer, or an error that says why not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from pgsync import (
    Backoff,
    Coordinator,
    InvalidArgument,
    Limit,
    LockHeld,
    LockLost,
    SlidingWindow,
    TokenBucket,
    Unique,
)
from tests.bad_input.sql_values import HOSTILE_TEXT

_KEPT = """
SELECT (SELECT count(*) FROM pgsync.all_jobs), (SELECT count(*) FROM pgsync.lock_holder),
       (SELECT count(*) FROM pgsync.rate_limits), (SELECT count(*) FROM pgsync.schedules),
       (SELECT count(*) FROM pgsync.queues), (SELECT count(*) FROM pgsync.audit)
"""


_CYCLE: list[Any] = []
_CYCLE.append(_CYCLE)
_TEXTS = (*HOSTILE_TEXT, "a\0b", "\ud800", "\udcff" * 3)
_ODD = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63) - 1, 10**400, 0.0, -0.5, 1e300, 1e-300),
    *(math.nan, math.inf, -math.inf, 1j, Decimal("1.5"), b"bytes", bytearray(b"x"), range(3)),
    *(timedelta(0), timedelta(seconds=-1), timedelta.max, timedelta.min, timedelta(microseconds=1)),
    *(
        datetime.fromisoformat("0001-01-01"),
        datetime.max.replace(tzinfo=UTC),
        date.min,
        Exception("x"),
    ),
    *(
        (),
        [],
        {},
        set(),
        frozenset({1}),
        {1: 2},
        {"a": {"b": [None]}},
        [[[]]],
        object(),
    ),
    *(int, len, _CYCLE, ["a", None], [1, "a"], {"\ud800": 1}, slice(1)),
)
_LONGEST_MESSAGE = 5_000


def _jobs(sync: Coordinator) -> dict[str, Callable[..., Any]]:
    @sync.task(name="anything")
    def anything(**values: Any) -> None:
        """Takes what comes."""

    return {
        "enqueue": lambda value: anything.enqueue(value=value),
        "enqueue by name": lambda value: (
            anything.enqueue(**{str(value): 1}) if isinstance(value, str) else None
        ),
        **{
            option: lambda value, option=option: anything.options(**{option: value}).enqueue()
            for option in (
                *("queue", "priority", "run_at", "delay", "unique_key", "max_attempts", "key"),
                *("tenant", "unique", "batch", "after", "after_failed", "tags"),
            )
        },
        "enqueue_many": anything.enqueue_many,
        "job": sync.job,
        "why_not_running": sync.why_not_running,
        "cancel_job": sync.cancel_job,
        "cancel_job reason": lambda value: sync.cancel_job(1, value),
        "retry_job": sync.retry_job,
        "pause_queue": sync.pause_queue,
        "resume_queue": sync.resume_queue,
        "limit_queue": lambda value: sync.limit_queue("work", max_running=value),
        "weigh_tenant": lambda value: sync.weigh_tenant("work", "a", value),
        "retain_queue": lambda value: sync.retain_queue("work", value),
        "batch_state": sync.batch_state,
        "unique": lambda value: anything.options(unique=Unique(value)).enqueue(),
    }


def _declarations(sync: Coordinator) -> dict[str, Callable[..., Any]]:
    options = (
        *("name", "queue", "priority", "max_attempts", "backoff", "timeout", "run_in", "retry_on"),
        *("discard_on", "retry", "retry_until", "max_exceptions", "on_discard", "key", "tenant"),
        *("max_running_per_key", "ordered", "unique", "encrypt", "tags"),
    )
    number = itertools.count()

    def declare(option: str, value: Any) -> None:
        def handler(value: int = 1) -> None:
            """Does nothing."""

        handler.__name__ = f"handler{next(number)}"
        sync.task(**{option: value})(handler)  # type: ignore[misc]

    def schedule(option: str, value: Any) -> None:
        def handler() -> None:
            """Does nothing."""

        handler.__name__ = f"scheduled{next(number)}"
        given = {option: value}
        sync.schedule(given.pop("rhythm", "* * * * *"), **given)(handler)

    return {
        **{each: lambda value, each=each: declare(each, value) for each in options},
        **{
            f"schedule {each}": lambda value, each=each: schedule(each, value)
            for each in (
                *("rhythm", "name", "timezone", "misfire", "misfire_grace", "misfire_limit"),
                "jitter",
            )
        },
    }


def _locks(sync: Coordinator) -> dict[str, Callable[..., Any]]:
    def hold(name: Any, **options: Any) -> None:
        with sync.lock(name, **{"ttl": 60, **options}):
            pass

    def hold_slot(slots: Any) -> None:
        with sync.semaphore("report", slots, ttl=60):
            pass

    def hold_all(names: Any) -> None:
        with sync.lock_all(names, ttl=60):
            pass

    options = ("ttl", "wait", "owner", "auto_renew", "on_lost", "shared", "lock_delay")
    return {
        "lock": hold,
        **{
            f"lock {each}": lambda value, each=each: hold("report", **{each: value})
            for each in options
            if each != "wait"
        },
        "semaphore": hold_slot,
        "lock_all": hold_all,
        "restore_lock": lambda value: sync.restore_lock("report", value, ttl=60),
        "explain_lock": sync.explain_lock,
        "ask_to_release": sync.ask_to_release,
        "force_release": sync.force_release,
        "fence": lambda value: sync.fence(value, 1),
        "fence token": lambda value: sync.fence(f"r{id(value)}", value),
    }


def _limits(sync: Coordinator) -> dict[str, Callable[..., Any]]:
    limiter = sync.limiter("calls", Limit(5, per=60))
    return {
        "limiter": lambda value: sync.limiter(value, Limit(5, per=60)).hit("k"),
        "limiter limits": lambda value: sync.limiter("other", value).hit("k"),
        "limit max": lambda value: sync.limiter("m", Limit(value, per=60)).hit("k"),
        "limit per": lambda value: sync.limiter("p", SlidingWindow(5, per=value)).hit("k"),
        "burst": lambda value: sync.limiter("b", TokenBucket(5, per=60, burst=value)).hit("k"),
        "hit": limiter.hit,
        "hit cost": lambda value: limiter.hit("k", value),
        "acquire": lambda value: (
            limiter.acquire("k2", timeout=value)
            if not isinstance(value, (int, float, timedelta))
            else None
        ),
        "peek": limiter.peek,
        "remaining": limiter.remaining,
        "reserve": lambda value: limiter.reserve("k", 1, ttl=value),
        "refund": limiter.refund,
        "penalize": lambda value: limiter.penalize("k3", value),
        "penalize why": lambda value: limiter.penalize("k3", 1, value),
        "clear": limiter.clear,
        "explain": limiter.explain,
        "backoff": Backoff,
    }


@pytest.mark.parametrize("room", [_jobs, _declarations, _locks, _limits])
def test_a_wrong_value_is_refused_by_an_error_of_pgsync_and_changes_nothing(
    sync: Coordinator,
    database: psycopg.Connection[Any],
    room: Callable[[Coordinator], dict[str, Callable[..., Any]]],
) -> None:
    faults = []
    for name, call in room(sync).items():
        for value in (*_TEXTS, *_ODD):
            before = database.execute(_KEPT.encode()).fetchone()
            try:
                call(value)
            except (InvalidArgument, LockHeld, LockLost) as error:
                told = str(error)
                if not told or "\0" in told or len(told) > _LONGEST_MESSAGE:
                    faults.append(f"{name}({value!r:.40}): the message {told!r:.80}")
                if database.execute(_KEPT.encode()).fetchone() != before:
                    faults.append(f"{name}({value!r:.40}): refused, and yet kept")
            except Exception as error:  # noqa: BLE001 - each is told below
                faults.append(f"{name}({value!r:.40}): {error!r:.120}")
    assert not faults, "\n".join(faults)
