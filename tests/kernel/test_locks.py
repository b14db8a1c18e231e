"""Locks as both faces and plain SQL see them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgsync import (
    AsyncCoordinator,
    Coordinator,
    InvalidArgument,
    LockHeld,
    LockLost,
    PgsyncError,
    lock_key,
)
from tests.advisory import advisory_locks
from tests.eventually import eventually
from tests.threads import at_once

pytestmark = pytest.mark.core


def test_a_lock_is_held_inside_with_and_free_after(face: Any, database: Any) -> None:
    with face.lock("report", ttl=60) as lock:
        row = database.execute("SELECT name, token, owner FROM pgsync.locks").fetchone()
        assert row == ("report", lock.token, row[2])
        assert lock.held
        lock.check()
    assert database.execute("SELECT count(*) FROM pgsync.locks").fetchone() == (0,)
    assert not lock.held
    with pytest.raises(LockLost, match="released"):
        lock.check()


def test_a_held_lock_names_its_holder(new_face: Callable[[], Any]) -> None:
    first, second = new_face(), new_face()
    first.lock("report", ttl=60, owner="the nightly report").acquire()
    with pytest.raises(LockHeld) as caught:
        second.lock("report", ttl=60).acquire()
    assert caught.value.holder == "the nightly report"
    assert caught.value.expires_at is not None
    assert caught.value.expires_at > datetime.now(UTC)
    assert "the nightly report" in str(caught.value)


def test_a_lock_is_released_when_the_block_raises(face: Any) -> None:
    with pytest.raises(ZeroDivisionError), face.lock("report", ttl=60):
        raise ZeroDivisionError
    with face.lock("report", ttl=60) as lock:
        assert lock.held


def test_tokens_rise_with_each_grant(face: Any) -> None:
    tokens = []
    for _ in range(5):
        with face.lock("report", ttl=60) as lock:
            tokens.append(lock.token)
    assert tokens == sorted(set(tokens))


def test_the_same_process_cannot_take_its_lock_twice(face: Any) -> None:
    with face.lock("report", ttl=60, owner="me"), pytest.raises(LockHeld) as caught:
        face.lock("report", ttl=60, owner="me too").acquire()
    assert caught.value.holder == "me"
    assert caught.value.acquired_at is not None


def test_waiting_ends_with_the_lock_when_it_is_released(new_face: Callable[[], Any]) -> None:
    first, second = new_face(), new_face()
    held = first.lock("report", ttl=60)
    held.acquire()
    release = threading.Timer(0.3, held.release)
    release.start()
    with second.lock("report", ttl=60, wait=20) as lock:
        assert not held.held
        assert lock.token > held.token
    release.join()


def test_waiting_ends_with_an_error_when_the_time_is_over(new_face: Callable[[], Any]) -> None:
    first, second = new_face(), new_face()
    with first.lock("report", ttl=60):
        began = time.monotonic()
        with pytest.raises(LockHeld):
            second.lock("report", ttl=60, wait=0.4).acquire()
        assert 0.35 < time.monotonic() - began < 30
    with second.lock("report", ttl=60) as lock:
        assert lock.held


def test_threads_of_one_process_take_turns(face: Any) -> None:
    inside = 0
    most = 0
    done = []

    def work(number: int) -> None:
        nonlocal inside, most
        with face.lock("report", ttl=60, wait=30):
            inside += 1
            most = max(most, inside)
            time.sleep(0.002)
            inside -= 1
            done.append(number)

    at_once(partial(work, number) for number in range(8))
    assert most == 1
    assert sorted(done) == list(range(8))


def test_a_session_is_not_granted_its_own_lock_again(database: Any) -> None:
    ask = "SELECT acquired, token FROM pgsync.try_lock('report', '1 minute')"
    acquired, token = database.execute(ask).fetchone()
    assert acquired
    assert database.execute(ask).fetchone() == (False, None)
    assert database.execute("SELECT pgsync.unlock('report', %s)", [token]).fetchone() == (True,)
    assert database.execute("SELECT count(*) FROM pgsync.locks").fetchone() == (0,)


def test_the_guard_commits_only_while_the_lock_is_held(sync: Any, database: Any) -> None:
    database.execute("CREATE TABLE guarded (value integer)")
    with sync.lock("report", ttl=60) as lock:
        with sync.database.connection() as connection, connection.transaction():
            connection.execute("INSERT INTO guarded VALUES (1)")
            lock.guard(connection)
        token = lock.token
    with sync.lock("report", ttl=60) as other:
        assert other.token > token
        late = "INSERT INTO guarded SELECT 2 FROM pgsync.assert_lock('report', %s)"
        with pytest.raises(psycopg.Error) as caught:
            database.execute(late, [token])
        assert caught.value.sqlstate == "PS001"
    assert database.execute("SELECT array_agg(value) FROM guarded").fetchone() == ([1],)


def test_a_guarded_transaction_holds_off_the_next_holder(database: Any, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as holder, psycopg.connect(dsn) as writer:
        granted = holder.execute(
            "SELECT token FROM pgsync.try_lock('report', '1 minute', 'the first')"
        )
        token = granted.fetchone()[0]
        writer.execute("SELECT pgsync.assert_lock('report', %s)", [token])
        holder.close()
        refused = database.execute(
            "SELECT acquired, holder FROM pgsync.try_lock('report', '1 minute', 'next')"
        )
        assert refused.fetchone() == (False, "the first")
        waited = database.execute(
            "SELECT acquired, waited >= '50 milliseconds'"
            " FROM pgsync.wait_lock('report', '1 minute', 'next', '50 milliseconds')"
        )
        assert waited.fetchone() == (False, True)
        # The refused tries gave the advisory lock back.
        left = (
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        )
        assert database.execute(left).fetchone() == (0,)
        writer.commit()
        taken = database.execute("SELECT acquired FROM pgsync.try_lock('report', '1 minute')")
        assert taken.fetchone() == (True,)
        assert database.execute("SELECT count(*) FROM pgsync.locks").fetchone() == (1,)


@pytest.mark.parametrize("name", ["", "x" * 1025, "é" * 600, "nul\0", "lone \ud800", None, 7])
def test_a_name_that_cannot_work_is_refused(face: Any, name: Any) -> None:
    with pytest.raises(InvalidArgument):
        face.lock(name, ttl=60)


@pytest.mark.parametrize("name", ["x" * 1024, "é" * 512, "𓀀\u202e\n'; DROP", " ", "%s {} %(x)s"])
def test_a_name_of_any_text_up_to_a_kilobyte_works(face: Any, database: Any, name: str) -> None:
    with face.lock(name, ttl=60):
        assert database.execute("SELECT name FROM pgsync.locks").fetchone() == (name,)
    with face.semaphore(name, 2, ttl=60), face.lock_all([name], ttl=60):
        assert face.explain_lock(name).holders == 2


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), "5", True])
def test_a_ttl_that_cannot_work_is_refused(face: Any, ttl: Any) -> None:
    with pytest.raises(InvalidArgument):
        face.lock("report", ttl=ttl)


def test_python_and_sql_agree_on_the_key(database: Any) -> None:
    @given(st.text(max_size=200).filter(lambda name: "\0" not in name))
    def agree(name: str) -> None:
        row = database.execute("SELECT pgsync.lock_key(%s)", [name]).fetchone()
        assert row == (lock_key(name),)

    agree()


def test_two_spellings_of_one_text_are_two_names(face: Any) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert lock_key(composed) != lock_key(decomposed)
    with face.lock(composed, ttl=60), face.lock(decomposed, ttl=60):
        pass


def test_slots_have_keys_that_no_name_has(database: Any) -> None:
    keys = database.execute(
        "SELECT count(DISTINCT k), count(*) FROM generate_series(0, 1000) AS n,"
        " LATERAL (VALUES (pgsync.slot_key('report', n)), (pgsync.lock_key('report' || n)),"
        " (pgsync.slot_key('report1', n))) AS v (k)"
    ).fetchone()
    assert keys[0] == keys[1]


def test_releasing_before_a_guarded_transaction_ends_does_not_hang(
    sync: Any, dsn: str, database: Any
) -> None:
    with psycopg.connect(dsn) as writer:
        with sync.lock("report", ttl=60) as lock:
            lock.guard(writer)
        # Released, and nobody's yet: what was written under it is not committed.
        with pytest.raises(LockHeld):
            sync.lock("report", ttl=60).acquire()
        with pytest.raises(psycopg.Error, match="no longer holds"):
            database.execute("SELECT pgsync.assert_lock('report', %s)", [lock.token])
        assert database.execute("SELECT pgsync.reap_locks()").fetchone() == (0,)
        with sync.lock("another", ttl=60):
            pass
        writer.commit()
    with sync.lock("report", ttl=60) as again:
        assert again.token > lock.token


def test_a_cancelled_acquire_leaves_no_lock_behind(dsn: str, database: Any) -> None:
    async def scenario() -> None:
        async with AsyncCoordinator(dsn) as holder, AsyncCoordinator(dsn) as contender:
            for _ in range(3):
                held = holder.lock("report", ttl=60)
                await held.acquire()
                asking = asyncio.create_task(contender.lock("report", ttl=60, wait=20).acquire())
                await asyncio.to_thread(eventually, lambda: waiting() == (1,))
                asking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asking
                await held.release()
                await asyncio.to_thread(eventually, lambda: advisory_locks(database) == 0)
            for _ in range(20):
                asking = asyncio.create_task(contender.lock("report", ttl=60).acquire())
                await asyncio.sleep(0)
                asking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asking
                async with contender.lock("report", ttl=60, wait=20):
                    pass
            await asyncio.to_thread(eventually, lambda: advisory_locks(database) == 0)

    def waiting() -> Any:
        return database.execute("SELECT waiting FROM pgsync.locks").fetchone()

    asyncio.run(scenario())


def test_many_waiters_do_not_hold_up_a_release(dsn: str) -> None:
    async def scenario() -> None:
        async with AsyncCoordinator(dsn) as holder, AsyncCoordinator(dsn) as crowd:
            names = [f"report {n}" for n in range(14)]
            for name in names:
                await holder.lock(name, ttl=60).acquire()
            own = crowd.lock("own", ttl=60)
            await own.acquire()
            waits = [
                asyncio.create_task(crowd.lock(name, ttl=60, wait=30).acquire()) for name in names
            ]
            await asyncio.sleep(0.05)
            async with asyncio.timeout(5):
                await own.release()
                await crowd.lock("other", ttl=60).acquire()
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    asyncio.run(scenario())


def test_closing_ends_what_waits(dsn: str) -> None:
    first, second = Coordinator(dsn), Coordinator(dsn)
    errors: list[PgsyncError] = []

    def ask(name: str) -> None:
        try:
            second.lock(name, ttl=60, wait=60).acquire()
        except PgsyncError as error:
            errors.append(error)

    first.lock("report", ttl=60).acquire()
    second.lock("own", ttl=60).acquire()
    threads = [threading.Thread(target=ask, args=(n,)) for n in ("report", "report", "own")]
    for thread in threads:
        thread.start()
    with psycopg.connect(dsn) as database:
        eventually(
            lambda: database.execute("SELECT 1 FROM pgsync.locks WHERE waiting > 0").fetchone()
        )
    second.close()
    for thread in threads:
        thread.join(60)
    assert len(errors) == 3
    first.close()


def test_locks_that_come_and_go_let_the_watch_sleep(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Coordinator(dsn) as sync:
        watchdog = sync._keeper._grants._watchdog
        woken: list[None] = []

        def come_and_go() -> None:
            with sync.lock("short", ttl=60):
                pass

        def sleeps() -> bool:
            come_and_go()
            return 0 < watchdog._wakes_at < float("inf")

        eventually(sleeps)
        wake = watchdog._changed.notify_all
        monkeypatch.setattr(watchdog._changed, "notify_all", lambda: (woken.append(None), wake()))
        for _ in range(40):
            come_and_go()
        # One in a while where the machine stood still for a second, not each.
        assert len(woken) < 20
        monkeypatch.undo()
