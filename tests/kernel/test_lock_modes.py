"""Shared locks, semaphores, several at once, the transaction's own, hand-over, delay, requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
import pytest

from pgsync import Coordinator, InvalidArgument, LockHeld, LockLost
from tests.eventually import eventually
from tests.threads import at_once

pytestmark = pytest.mark.core


def audited(database: psycopg.Connection[Any], subject: str) -> list[str]:
    rows = database.execute(
        "SELECT action FROM pgsync.audit WHERE subject = %s ORDER BY id", [subject]
    )
    return [action for (action,) in rows]


def test_shared_locks_admit_each_other_and_no_exclusive_one(new_face: Callable[[], Any]) -> None:
    first, second = new_face(), new_face()
    with first.lock("map", ttl=60, shared=True), second.lock("map", ttl=60, shared=True) as other:
        with first.lock("map", ttl=60, shared=True) as third:
            assert third.token != other.token
        with pytest.raises(LockHeld):
            first.lock("map", ttl=60).acquire()
        with pytest.raises(LockHeld):
            second.lock("map", ttl=60).acquire()
    with first.lock("map", ttl=60), pytest.raises(LockHeld):
        second.lock("map", ttl=60, shared=True).acquire()


def test_an_exclusive_waiter_comes_before_later_shared_ones(
    new_face: Callable[[], Any], database: Any
) -> None:
    reader, writer, late = new_face(), new_face(), new_face()
    reading = reader.lock("map", ttl=60, shared=True)
    reading.acquire()
    got = threading.Event()

    def write() -> None:
        with writer.lock("map", ttl=60, wait=20):
            got.set()

    thread = threading.Thread(target=write)
    thread.start()
    eventually(lambda: database.execute("SELECT 1 FROM pgsync.locks WHERE waiting = 1").fetchone())
    with pytest.raises(LockHeld) as caught:
        late.lock("map", ttl=60, shared=True).acquire()
    assert "exclusively" in (caught.value.obstacle or "")
    reading.release()
    thread.join(20)
    assert got.is_set()


def test_a_semaphore_has_as_many_holders_as_slots(new_face: Callable[[], Any]) -> None:
    first, second = new_face(), new_face()
    held = [first.semaphore("api", 3, ttl=60) for _ in range(2)]
    held.append(second.semaphore("api", 3, ttl=60))
    for lock in held:
        lock.acquire()
    assert len({lock.token for lock in held}) == 3
    for contender in (first, second):
        with pytest.raises(LockHeld):
            contender.semaphore("api", 3, ttl=60).acquire()
    held[0].release()
    with second.semaphore("api", 3, ttl=60):
        pass
    # A lock of the same name is another thing.
    with first.lock("api", ttl=60):
        pass


def test_a_slot_is_waited_for(new_face: Callable[[], Any]) -> None:
    first, second = new_face(), new_face()
    held = [first.semaphore("api", 2, ttl=60) for _ in range(2)]
    for lock in held:
        lock.acquire()
    release = threading.Timer(0.3, held[1].release)
    release.start()
    with second.semaphore("api", 2, ttl=60, wait=20) as got:
        assert got.token > held[1].token
    release.join()


def test_who_waits_for_a_slot_comes_before_who_tries_later(
    new_face: Callable[[], Any], database: Any
) -> None:
    face = new_face()
    # Somebody stands at the gate, about to take the slot that has just become free.
    database.execute("SELECT pg_advisory_lock(pgsync.slot_key('api', 0))")
    with pytest.raises(LockHeld):
        face.semaphore("api", 1, ttl=60).acquire()
    database.execute("SELECT pg_advisory_unlock(pgsync.slot_key('api', 0))")
    with face.semaphore("api", 1, ttl=60):
        pass


def test_no_more_than_the_slots_are_inside_under_contention(dsn: str) -> None:
    inside, most, done = 0, 0, 0
    mutex = threading.Lock()

    def work(sync: Coordinator) -> None:
        nonlocal inside, most, done
        for _ in range(4):
            with sync.semaphore("api", 2, ttl=60, wait=60):
                with mutex:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.003)
                with mutex:
                    inside -= 1
                    done += 1

    with Coordinator(dsn) as first, Coordinator(dsn) as second:
        at_once(partial(work, sync) for sync in (first, second) for _ in "abc")
    assert done == 24
    assert most == 2


@pytest.mark.parametrize("slots", [0, -1, 1001, True, 2.0, "2"])
def test_slots_that_cannot_be_are_refused(face: Any, slots: Any) -> None:
    with pytest.raises(InvalidArgument):
        face.semaphore("api", slots, ttl=60)


def test_several_locks_are_all_held_or_none(new_face: Callable[[], Any], database: Any) -> None:
    first, second = new_face(), new_face()
    with first.lock_all(["b", "a", "c"], ttl=60) as several:
        assert sorted(several.locks) == ["a", "b", "c"]
        several.check()
        several.renew(ttl=600)
        held = database.execute("SELECT name FROM pgsync.locks ORDER BY name").fetchall()
        assert held == [("a",), ("b",), ("c",)]
        with pytest.raises(LockHeld) as caught:
            second.lock_all(["z", "c", "y"], ttl=60).acquire()
        assert caught.value.name == "c"
        assert database.execute("SELECT count(*) FROM pgsync.locks").fetchone() == (3,)
    assert database.execute("SELECT count(*) FROM pgsync.locks").fetchone() == (0,)
    with pytest.raises(InvalidArgument):
        first.lock_all([], ttl=60)
    with pytest.raises(InvalidArgument):
        first.lock_all(["a", "a"], ttl=60)


def test_callers_of_overlapping_locks_never_block_each_other_for_good(dsn: str) -> None:
    done = []

    def work(names: list[str]) -> None:
        with Coordinator(dsn) as sync:
            for _ in range(10):
                with sync.lock_all(names, ttl=60, wait=60):
                    done.append(names)

    at_once(partial(work, names) for names in (["a", "b"], ["b", "a"], ["b"]))
    assert len(done) == 30


def test_several_locks_from_sql(database: Any, dsn: str) -> None:
    ask = "SELECT acquired, tokens, blocked_by FROM pgsync.try_locks(%s, '1 minute')"
    acquired, tokens, _ = database.execute(ask, [["b", "a"]]).fetchone()
    assert acquired
    by_name = dict(database.execute("SELECT name, token FROM pgsync.locks").fetchall())
    assert tokens == [by_name["b"], by_name["a"]]
    with psycopg.connect(dsn, autocommit=True) as other:
        assert other.execute(ask, [["0", "b", "c"]]).fetchone() == (False, None, "b")
        left = other.execute("SELECT name FROM pgsync.locks ORDER BY name").fetchall()
    assert left == [("a",), ("b",)]


def test_a_transactions_lock_ends_with_it(sync: Coordinator, dsn: str) -> None:
    with psycopg.connect(dsn) as mine, psycopg.connect(dsn) as other:
        with sync.transaction_lock(mine, "report"):
            mine.execute("SELECT 1")
        with pytest.raises(LockHeld):
            sync.transaction_lock(other, "report").acquire()
        with pytest.raises(LockHeld) as caught:
            sync.lock("report", ttl=60).acquire()
        assert "pid" in (caught.value.holder or "")
        assert other.execute("SELECT 1").fetchone() == (1,)  # its transaction goes on
        mine.commit()
        sync.transaction_lock(other, "report").acquire()
        other.rollback()
        with sync.lock("report", ttl=60, owner="a session"):
            with pytest.raises(LockHeld) as caught:
                sync.transaction_lock(other, "report", wait=0.05).acquire()
            assert caught.value.holder == "a session"


def test_transactions_share_a_lock(sync: Coordinator, dsn: str) -> None:
    with psycopg.connect(dsn) as mine, psycopg.connect(dsn) as other:
        sync.transaction_lock(mine, "report", shared=True).acquire()
        sync.transaction_lock(other, "report", shared=True).acquire()
        with pytest.raises(LockHeld):
            sync.lock("report", ttl=60).acquire()


def test_a_transaction_waits_for_a_lock(sync: Coordinator, dsn: str) -> None:
    held = sync.lock("report", ttl=60)
    held.acquire()
    release = threading.Timer(0.2, held.release)
    release.start()
    with psycopg.connect(dsn) as mine:
        sync.transaction_lock(mine, "report", wait=20).acquire()
        assert mine.execute("SHOW lock_timeout").fetchone() == ("0",)
    release.join()


def test_a_decorated_function_takes_the_lock_in_the_transaction_it_is_given(
    sync: Coordinator, dsn: str
) -> None:
    @sync.transaction_lock("session", "report:{day}")
    def report(session: Any, day: str) -> str:
        with pytest.raises(LockHeld):
            sync.lock("report:monday", ttl=60).acquire()
        return day

    with psycopg.connect(dsn) as mine:
        assert report(mine, "monday") == "monday"
        assert sync.explain_lock("report:monday").state == "held by a transaction"
    with pytest.raises(InvalidArgument, match="parameter"):
        sync.transaction_lock("connection", "report")(report)


def test_a_decorated_function_runs_under_a_lock_named_by_its_arguments(
    sync: Coordinator, database: Any
) -> None:
    @sync.lock("report:{day}", ttl=60, owner="decorated")
    def report(day: str, *, full: bool = True) -> list[tuple[str]]:
        """Make a report."""
        rows: list[tuple[str]] = database.execute("SELECT name FROM pgsync.locks").fetchall()
        return rows

    assert report("monday") == [("report:monday",)]
    assert report(day="friday") == [("report:friday",)]
    assert report.__doc__ == "Make a report."
    with sync.lock("report:sunday", ttl=60), pytest.raises(LockHeld):
        report("sunday")

    @sync.lock_all(["a:{n}", "b"], ttl=60)
    def both(n: int) -> list[tuple[str]]:
        rows: list[tuple[str]] = database.execute(
            "SELECT name FROM pgsync.locks ORDER BY name"
        ).fetchall()
        return rows

    assert both(7) == [("a:7",), ("b",)]
    with pytest.raises(InvalidArgument, match="week"):
        sync.lock("report:{week}", ttl=60)(report)


def test_a_lock_is_handed_over_and_restored_elsewhere(
    new_face: Callable[[], Any], database: Any
) -> None:
    web, worker, other = new_face(), new_face(), new_face()
    lock = web.lock("import:7", ttl=60, owner="web")
    lock.acquire()
    token = lock.hand_over()
    assert not lock.held
    web.close()  # whatever becomes of the first process
    row = database.execute("SELECT handed_over, pid FROM pgsync.locks").fetchone()
    assert row == (True, None)
    with pytest.raises(LockHeld) as caught:
        other.lock("import:7", ttl=60, wait=0.2).acquire()
    assert "handed over" in (caught.value.obstacle or "")
    restored = worker.restore_lock("import:7", token, ttl=60, owner="worker")
    assert restored.token > token
    with pytest.raises(psycopg.Error, match="no longer holds"):
        database.execute("SELECT pgsync.assert_lock('import:7', %s)", [token])
    with pytest.raises(LockLost):
        other.restore_lock("import:7", token, ttl=60)
    with pytest.raises(LockHeld):
        other.lock("import:7", ttl=60).acquire()
    with restored:
        assert restored.held
    with other.lock("import:7", ttl=60):
        pass
    restored.acquire()
    restored.release()


def test_a_lock_that_nobody_restores_is_free_at_its_deadline(new_face: Callable[[], Any]) -> None:
    first, second = new_face(), new_face()
    lock = first.lock("import:7", ttl=2)
    lock.acquire()
    token = lock.hand_over()
    with second.lock("import:7", ttl=60, wait=20), pytest.raises(LockLost):
        first.restore_lock("import:7", token, ttl=60)


def test_a_lost_lock_is_kept_from_all_for_its_delay(
    new_face: Callable[[], Any], database: Any
) -> None:
    first, second = new_face(), new_face()
    first.lock("disk", ttl=60, lock_delay=0.6, owner="lost").acquire()
    ended = database.execute(
        "SELECT pg_terminate_backend(pid, 5000), clock_timestamp() FROM pgsync.locks"
    ).fetchone()
    assert ended[0]
    began = time.monotonic()  # and the delay when somebody first sees the loss
    with pytest.raises(LockHeld) as caught:
        second.lock("disk", ttl=60).acquire()
    assert "lock delay" in (caught.value.obstacle or "")
    assert second.explain_lock("disk").state == "lost"
    with second.lock("disk", ttl=60, wait=20):
        assert time.monotonic() - began > 0.59


def test_a_lock_that_was_given_back_has_no_delay(new_face: Callable[[], Any]) -> None:
    first, second = new_face(), new_face()
    with first.lock("disk", ttl=60, lock_delay=600):
        pass
    with second.lock("disk", ttl=60):
        pass


def test_a_holder_hears_that_it_is_asked_to_finish(
    new_face: Callable[[], Any], database: Any
) -> None:
    first, second = new_face(), new_face()
    heard: list[Any] = []
    with first.lock("disk", ttl=60, on_request=heard.append) as lock:
        assert second.ask_to_release("disk", by="ops", why="we need it") == 1
        eventually(lambda: heard)
        assert (heard[0].name, heard[0].asked_by, heard[0].why) == ("disk", "ops", "we need it")
        assert lock.asked_to_release == heard[0]
        lock.check()  # it decides itself when
    assert second.ask_to_release("disk") == 0
    assert audited(database, "disk") == ["lock.asked"]


def test_a_forced_release_is_told_and_audited(new_face: Callable[[], Any], database: Any) -> None:
    first, second = new_face(), new_face()
    told = threading.Event()
    lock = first.lock("disk", ttl=60, owner="stuck", on_lost=lambda _: told.set())
    lock.acquire()
    assert second.force_release("disk", by="ops", why="stuck since noon")
    assert told.wait(60)
    with second.lock("disk", ttl=60):
        pass
    assert not second.force_release("disk")
    (entry,) = database.execute(
        "SELECT actor, detail ->> 'owner', detail ->> 'why' FROM pgsync.audit"
    ).fetchall()
    assert entry == ("ops", "stuck", "stuck since noon")


def test_a_forced_release_takes_every_slot_and_a_lock_handed_over(
    new_face: Callable[[], Any],
) -> None:
    first, second = new_face(), new_face()
    for _ in range(2):
        first.semaphore("api", 2, ttl=60).acquire()
    assert second.force_release("api")
    with second.semaphore("api", 2, ttl=60), second.semaphore("api", 2, ttl=60):
        pass
    lock = second.lock("given", ttl=60)
    lock.acquire()
    lock.hand_over()
    assert second.force_release("given")
    with second.lock("given", ttl=60):
        pass


def test_contention_and_expiry_are_audited_where_asked(
    new_face: Callable[[], Any], database: Any
) -> None:
    first, second = new_face(), new_face()
    with first.lock("plain", ttl=60), pytest.raises(LockHeld):
        second.lock("plain", ttl=60).acquire()
    with first.lock("disk", ttl=60), pytest.raises(LockHeld):
        second.lock("disk", ttl=60, audit=True).acquire()
    assert audited(database, "disk") == ["lock.contended"]
    first.lock("slow", ttl=0.3, audit=True).acquire()
    eventually(lambda: audited(database, "slow") == ["lock.expired"])
    assert audited(database, "plain") == []


def test_an_expiry_that_the_holder_sees_before_the_server_is_audited_too(
    database: Any,
) -> None:
    """The holder counts from before it asked, so its ttl passes first."""
    (token,) = database.execute(
        "SELECT token FROM pgsync.try_lock('slow', '1 hour', audited => true)"
    ).fetchone()
    assert database.execute("SELECT pgsync.expire_lock(%s)", [token]).fetchone() == (True,)
    assert audited(database, "slow") == ["lock.expired"]
    assert database.execute("SELECT pgsync.expire_lock(%s)", [token]).fetchone() == (False,)
    assert audited(database, "slow") == ["lock.expired"]
