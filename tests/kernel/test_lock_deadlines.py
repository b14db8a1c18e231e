"""How a lock ends that is not released: at its deadline, with its session, by whoever contends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pgsync import (
    Coordinator,
    LockLost,
)
from tests.eventually import eventually

pytestmark = pytest.mark.core


def test_the_deadline_ends_a_lock_that_is_not_renewed(face: Any, database: Any) -> None:
    told = threading.Event()
    reasons: list[str] = []

    def on_lost(reason: str) -> None:
        reasons.append(reason)
        told.set()

    with face.lock("report", ttl=0.3, on_lost=on_lost) as lock:
        assert told.wait(60)
        assert lock.lost
        with pytest.raises(LockLost, match="ttl"):
            lock.check()
    assert reasons == ["its ttl of 0.3 s passed"]
    # The holder is told first, the server right after.
    eventually(lambda: not database.execute("SELECT FROM pgsync.locks").fetchall())


def test_auto_renew_holds_beyond_the_ttl(face: Any) -> None:
    with face.lock("report", ttl=9, auto_renew=True) as lock:
        first = lock.expires_at
        eventually(lambda: (lock.expires_at - first).total_seconds() > 2)
        lock.check()


def test_renew_moves_the_deadline(face: Any) -> None:
    with face.lock("report", ttl=5) as lock:
        before = lock.expires_at
        lock.renew(ttl=500)
        assert (lock.expires_at - before).total_seconds() > 400


def test_a_holder_whose_session_is_ended_is_told(face: Any, database: Any) -> None:
    told = threading.Event()
    with face.lock("report", ttl=60, on_lost=lambda _: told.set()) as lock:
        assert database.execute("SELECT pgsync.force_unlock('report')").fetchone() == (True,)
        assert told.wait(60)
        with pytest.raises(LockLost, match="session"):
            lock.check()
    with face.lock("report", ttl=60) as again:
        assert again.token > lock.token


def test_a_contender_ends_a_holder_past_its_deadline(database: Any, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as frozen:
        ask = "SELECT acquired, token FROM pgsync.try_lock('report', %s, %s)"
        _, token = frozen.execute(ask, ["20 milliseconds", "frozen"]).fetchone()
        time.sleep(0.05)
        assert database.execute(ask, ["1 minute", "next"]).fetchone() == (True, token + 1)
        with pytest.raises(psycopg.OperationalError):
            frozen.execute("SELECT 1")


def test_the_reaper_ends_a_holder_past_its_deadline(database: Any, dsn: str) -> None:
    with (
        psycopg.connect(dsn, autocommit=True) as frozen,
        psycopg.connect(dsn, autocommit=True) as sound,
    ):
        for session, ttl in ((frozen, "20 milliseconds"), (sound, "1 minute")):
            session.execute("SELECT pgsync.try_lock(%s, %s)", [f"report of {ttl}", ttl])
        eventually(lambda: database.execute("SELECT pgsync.reap_locks()").fetchone() == (1,))
        with pytest.raises(psycopg.OperationalError):
            frozen.execute("SELECT 1")
        eventually(
            lambda: (
                database.execute("SELECT name FROM pgsync.locks").fetchall()
                == [("report of 1 minute",)]
            )
        )


def test_a_daemon_ends_a_frozen_holder_that_nobody_contends_with(
    sync: Coordinator, dsn: str, database: Any
) -> None:
    with psycopg.connect(dsn, autocommit=True) as frozen:
        frozen.execute("SELECT pgsync.try_lock('report', '20 milliseconds')")
        sync.start()
        try:
            eventually(lambda: not database.execute("SELECT FROM pgsync.lock_holder").fetchall())
        finally:
            sync.stop()
        with pytest.raises(psycopg.OperationalError):
            frozen.execute("SELECT 1")


def test_every_lock_of_a_lost_session_is_lost_and_told(
    new_face: Callable[[], Any], database: Any
) -> None:
    face, other = new_face(), new_face()
    told: list[str] = []
    locks = [face.lock(name, ttl=60, on_lost=told.append) for name in ("a", "b")]
    locks.append(face.semaphore("c", 2, ttl=60, on_lost=told.append))
    for lock in locks:
        lock.acquire()
    assert other.force_release("b")
    eventually(lambda: len(told) == 3)
    assert all(lock.lost for lock in locks)
    with other.lock_all(["a", "b"], ttl=60):
        assert all(lock.lost for lock in locks)  # and never taken again behind the holder's back


def test_on_lost_that_raises_or_is_slow_holds_up_no_other_lock(face: Any) -> None:
    slow, told = threading.Event(), threading.Event()

    def raises(reason: str) -> None:
        raise ZeroDivisionError(reason)

    for name, on_lost in (
        ("a", raises),
        ("b", lambda _: slow.wait(30)),
        ("c", lambda _: told.set()),
    ):
        face.lock(name, ttl=0.2, on_lost=on_lost).acquire()
    assert told.wait(60)
    slow.set()
    for name in "abc":
        with face.lock(name, ttl=60, wait=10) as lock:
            assert lock.held
