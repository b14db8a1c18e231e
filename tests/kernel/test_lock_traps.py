"""The traps that advisory locks set, each of which somebody has fallen into."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pgsync import AsyncCoordinator, Coordinator, LockHeld, LockLost
from pgsync.locks.sessions import WAITING_SESSIONS
from tests.eventually import eventually

pytestmark = pytest.mark.core

OURS = (
    " FROM pg_locks WHERE locktype = 'advisory'"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def advisory_locks(database: psycopg.Connection[Any]) -> int:
    row = database.execute("SELECT count(*)" + OURS).fetchone()  # type: ignore[arg-type]
    assert row is not None
    count: int = row[0]
    return count


def test_a_timeout_that_strikes_at_the_grant_leaves_nothing_behind(database: Any, dsn: str) -> None:
    # lock_timeout and the grant race: without the look afterwards some are left held.
    with psycopg.connect(dsn, autocommit=True) as holder:
        wait = "SELECT acquired, token FROM pgsync.wait_lock('report', '1 minute', 'me', %s)"
        for turn in range(60):
            token = holder.execute(
                "SELECT token FROM pgsync.try_lock('report', '1 minute')"
            ).fetchone()[0]
            answers: list[Any] = []
            patience = f"{8 + turn % 5} milliseconds"

            def ask(patience: str = patience, answers: list[Any] = answers) -> None:
                answers.append(database.execute(wait, [patience]).fetchone())

            thread = threading.Thread(target=ask)
            thread.start()
            time.sleep(0.0085)
            holder.execute("SELECT pgsync.unlock('report', %s)", [token])
            thread.join(20)
            acquired, mine = answers[0]
            if acquired:
                assert database.execute(
                    "SELECT pgsync.unlock('report', %s)", [mine]
                ).fetchone() == (True,)
            assert advisory_locks(database) == 0


def test_a_waiter_that_was_killed_leaves_the_servers_queue(dsn: str, database: Any) -> None:
    # One wait of a minute, not in slices, on a session with the settings of ours.
    script = (
        "import sys\nfrom datetime import timedelta\n"
        "from pgsync.locks.held import LockRequest\n"
        "from pgsync.locks.session import LockSession\n"
        "minute = timedelta(minutes=1)\n"
        "LockSession(sys.argv[1], print).wait(LockRequest('report', minute, 'doomed'), minute,"
        " resumed=False)\n"
    )
    with Coordinator(dsn) as holder, holder.lock("report", ttl=600):
        waiter = subprocess.Popen([sys.executable, "-c", script, dsn])
        eventually(
            lambda: database.execute(
                "SELECT 1 FROM pgsync.locks WHERE waiters = '{doomed}'"
            ).fetchone()
        )
        waiter.kill()
        waiter.wait()
        eventually(
            lambda: database.execute("SELECT 1 FROM pgsync.locks WHERE waiting = 0").fetchone()
        )


def test_timeouts_of_the_database_end_no_lock_session(dsn: str, database: Any) -> None:
    name = database.info.dbname
    for setting in ("idle_session_timeout", "statement_timeout", "lock_timeout"):
        database.execute(
            psycopg.sql.SQL("ALTER DATABASE {} SET {} = '250ms'").format(
                psycopg.sql.Identifier(name), psycopg.sql.Identifier(setting)
            )
        )
    with (
        Coordinator(dsn) as sync,
        Coordinator(dsn) as other,
        sync.lock("report", ttl=60) as lock,
    ):
        _give_up(other, 0.7)
        lock.renew()
        lock.check()


def test_the_deadline_is_reckoned_from_before_the_request(dsn: str, database: Any) -> None:
    database.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN PERFORM pg_sleep(0.5); RETURN new; END$$"
    )
    database.execute(
        "CREATE TRIGGER slow BEFORE INSERT OR UPDATE ON pgsync.lock_holder"
        " FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    with Coordinator(dsn) as sync:
        sync.lock("warm", ttl=60).acquire()
        before = time.monotonic()
        with sync.lock("report", ttl=60) as lock:
            held = lock._held
            assert held is not None
            assert held.deadline - before < 60.4
            before = time.monotonic()
            lock.renew()
            assert held.deadline - before < 60.4


def test_an_interrupt_ends_a_wait_at_once_and_leaves_nothing(dsn: str, database: Any) -> None:
    script = (
        "import sys, time\nfrom pgsync import Coordinator\n"
        "sync = Coordinator(sys.argv[1])\n"
        "try:\n    sync.lock('report', ttl=60, wait=60, owner='stopped').acquire()\n"
        "except KeyboardInterrupt:\n    print('interrupted', flush=True)\n    time.sleep(60)\n"
    )
    with Coordinator(dsn) as holder:
        held = holder.lock("report", ttl=60)
        held.acquire()
        waiter = subprocess.Popen(
            [sys.executable, "-c", script, dsn],
            stdout=subprocess.PIPE,
            # Where the tests themselves run in the background, SIGINT is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert waiter.stdout is not None
        eventually(
            lambda: database.execute(
                "SELECT 1 FROM pgsync.locks WHERE waiters = '{stopped}'"
            ).fetchone()
        )
        began = time.monotonic()
        waiter.send_signal(signal.SIGINT)
        assert waiter.stdout.readline() == b"interrupted\n"
        assert time.monotonic() - began < 0.9  # sooner than a slice of the wait ends
        held.release()
        assert advisory_locks(database) == 0
        waiter.kill()
        waiter.wait()


_LED_BY_THE_MAIN_THREAD = """
import signal, sys, threading, time
from pgsync import Coordinator
sync = Coordinator(sys.argv[1])
sync.lock("before", ttl=60).acquire()
outcomes = []

def work(name):
    lock = sync.lock(name, ttl=60)
    lock.acquire()
    outcomes.append(name)

def interrupt():
    # Behind the first, whose round trip takes a second, stand the main thread and then the others.
    time.sleep(0.6)
    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    # By now the main thread asks for all of them, and its own takes half a minute.
    time.sleep(1.5)
    signal.raise_signal(signal.SIGINT)
    for thread in threads:
        thread.join(20)

first = threading.Thread(target=work, args=("first",))
first.start()
time.sleep(0.3)
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Thread(target=interrupt).start()
try:
    sync.lock("slow", ttl=60).acquire()
except KeyboardInterrupt:
    while len(outcomes) < 4:
        time.sleep(0.01)
    print(sorted(outcomes), sorted(lock.name for lock in sync.list_locks()), flush=True)
sys.stdin.read()
"""


def test_an_interrupted_leader_leaves_the_others_to_another(dsn: str, database: Any) -> None:
    database.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN IF new.name = 'first' THEN PERFORM pg_sleep(1);"
        " ELSIF new.name = 'slow' THEN PERFORM pg_sleep(30); END IF; RETURN new; END$$"
    )
    database.execute(
        "CREATE TRIGGER slow AFTER INSERT ON pgsync.lock_holder"
        " FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", _LED_BY_THE_MAIN_THREAD, dsn],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    said = process.stdout.readline().decode()
    assert said == "['a', 'b', 'c', 'first'] ['a', 'b', 'before', 'c', 'first']\n"
    assert advisory_locks(database) == 5
    process.stdin.close()
    process.kill()
    process.wait()


def test_a_cancelled_task_ends_its_wait_at_the_server_at_once(dsn: str, database: Any) -> None:
    async def scenario() -> None:
        async with AsyncCoordinator(dsn) as holder, AsyncCoordinator(dsn) as contender:
            await holder.lock("report", ttl=60).acquire()
            asking = asyncio.create_task(contender.lock("report", ttl=60, wait=60).acquire())
            await asyncio.to_thread(eventually, lambda: advisory_locks(database) == 2)
            asking.cancel()
            began = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await asyncio.to_thread(eventually, lambda: advisory_locks(database) == 1)
            assert time.monotonic() - began < 0.9

    asyncio.run(scenario())


def test_a_grant_that_is_cancelled_before_it_is_heard_of_is_given_back(
    dsn: str, database: Any
) -> None:
    database.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN IF new.owner = 'slow' THEN PERFORM pg_sleep(30); END IF; RETURN new; END$$"
    )
    database.execute(
        "CREATE TRIGGER slow AFTER INSERT ON pgsync.lock_holder"
        " FOR EACH ROW EXECUTE FUNCTION slow()"
    )

    async def scenario() -> None:
        async with AsyncCoordinator(dsn) as holder, AsyncCoordinator(dsn) as contender:
            held = holder.lock("report", ttl=60)
            await held.acquire()
            slow = contender.lock("report", ttl=60, wait=60, owner="slow")
            asking = asyncio.create_task(slow.acquire())
            await asyncio.to_thread(eventually, lambda: advisory_locks(database) == 2)
            await held.release()
            # Granted: the advisory lock is its session's, and the answer is yet to come.
            await asyncio.to_thread(eventually, lambda: advisory_locks(database) == 1)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await asyncio.to_thread(eventually, lambda: advisory_locks(database) == 0)
            async with holder.lock("report", ttl=60):
                pass

    asyncio.run(scenario())


def test_waiting_holds_back_vacuum_no_longer_than_a_slice(
    new_face: Callable[[], Any], database: Any
) -> None:
    first, second = new_face(), new_face()
    oldest = (
        "SELECT max(clock_timestamp() - query_start) FROM pg_stat_activity"
        " WHERE application_name LIKE 'pgsync waits%%' AND datname = current_database()"
    )
    longest = 0.0
    with first.lock("report", ttl=60):
        thread = threading.Thread(target=_give_up, args=(second, 2.5))
        thread.start()
        while thread.is_alive():
            (age,) = database.execute(oldest).fetchone()
            longest = max(longest, age.total_seconds() if age else 0.0)
            time.sleep(0.02)
    assert 0.5 < longest < 1.6


def _give_up(face: Any, seconds: float) -> None:
    with pytest.raises(LockHeld):
        face.lock("report", ttl=60, wait=seconds).acquire()


def test_many_waiters_of_one_process_are_one_connection(dsn: str, database: Any) -> None:
    with Coordinator(dsn) as holder, Coordinator(dsn) as crowd:
        held = {name: holder.lock(name, ttl=60) for name in ("exclusive", "shared", "api")}
        for lock in held.values():
            lock.acquire()
        slot = holder.semaphore("slot", 1, ttl=60)
        slot.acquire()
        done: list[str] = []

        def work(lock: Any) -> None:
            with lock:
                done.append(lock.name)

        threads = [
            threading.Thread(target=work, args=(lock,))
            for _ in range(5)
            for lock in (
                crowd.lock("exclusive", ttl=60, wait=60),
                crowd.lock("shared", ttl=60, wait=60, shared=True),
                crowd.semaphore("slot", 1, ttl=60, wait=60),
            )
        ]
        for thread in threads:
            thread.start()
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgsync waits%%'"
            " AND datname = current_database()"
        )
        eventually(lambda: database.execute(waiting).fetchone() == (3,))
        time.sleep(0.3)
        assert database.execute(waiting).fetchone() == (3,)
        for lock in (*held.values(), slot):
            lock.release()
        for thread in threads:
            thread.join(30)
        assert sorted(done) == ["exclusive"] * 5 + ["shared"] * 5 + ["slot"] * 5


def test_waiters_beyond_the_waiting_sessions_are_served_too(dsn: str, database: Any) -> None:
    names = [f"report {n}" for n in range(WAITING_SESSIONS + 3)]
    with Coordinator(dsn) as holder, Coordinator(dsn) as crowd:
        held = [holder.lock(name, ttl=60) for name in names]
        for lock in held:
            lock.acquire()
        got = [threading.Event() for _ in names]
        end = threading.Event()

        def work(name: str, event: threading.Event) -> None:
            with crowd.lock(name, ttl=60, wait=60):
                event.set()
                end.wait(30)

        threads = [
            threading.Thread(target=work, args=pair) for pair in zip(names, got, strict=True)
        ]
        for thread in threads:
            thread.start()
        sessions = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND (application_name = 'pgsync locks' OR application_name LIKE 'pgsync waits%%')"
        )
        eventually(lambda: database.execute(sessions).fetchone() == (WAITING_SESSIONS + 2,))
        for lock in held:
            lock.release()
        # Every one is held at once, though more waited than there are sessions to wait on.
        for event in got:
            assert event.wait(30)
        end.set()
        for thread in threads:
            thread.join(30)


def test_processes_are_served_in_the_order_in_which_they_came(dsn: str, database: Any) -> None:
    def one_round(holder: Coordinator, faces: list[Coordinator]) -> list[int] | None:
        order: list[int] = []

        def work(number: int) -> None:
            with faces[number].lock("report", ttl=60, wait=30):
                order.append(number)

        held = holder.lock("report", ttl=60)
        held.acquire()
        threads: list[threading.Thread] = []
        began = time.monotonic()
        for number in range(len(faces)):
            threads.append(threading.Thread(target=work, args=(number,)))
            threads[-1].start()
            eventually(
                lambda: (
                    database.execute("SELECT waiting FROM pgsync.locks").fetchone()
                    == (len(threads),)
                )
            )
        held.release()
        for thread in threads:
            thread.join(30)
        # Who waits for longer than a slice of a second stands at the end of the queue again.
        return order if time.monotonic() - began < 0.9 else None

    faces = [Coordinator(dsn) for _ in range(4)]
    with Coordinator(dsn) as holder:
        orders = (one_round(holder, faces) for _ in range(10))
        assert next(order for order in orders if order is not None) == [0, 1, 2, 3]
    for face in faces:
        face.close()


def test_threads_are_served_in_the_order_in_which_they_came(face: Any) -> None:
    order: list[int] = []
    held = face.lock("report", ttl=60)
    held.acquire()
    threads = []

    def work(number: int) -> None:
        with face.lock("report", ttl=60, wait=30):
            order.append(number)

    for number in range(6):
        threads.append(threading.Thread(target=work, args=(number,)))
        threads[-1].start()
        time.sleep(0.05)
    held.release()
    for thread in threads:
        thread.join(30)
    assert order == list(range(6))


def test_a_forked_child_never_uses_its_parents_session(dsn: str) -> None:
    with Coordinator(dsn) as sync:
        parents = sync.lock("report", ttl=60)
        parents.acquire()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            _report_from_the_child(sync, parents, writer)
        os.close(writer)
        with os.fdopen(reader) as answers:
            said = answers.read().split("\n")
        os.waitpid(child, 0)
        assert said == ["lost", "held by its parent", "another session", "own lock", ""]
        # What the child did, and its end, changed nothing here.
        parents.check()
        parents.renew()
        assert parents.release()
        with sync.lock("report", ttl=60):
            pass


def _report_from_the_child(sync: Any, parents: Any, writer: int) -> None:
    def say(word: str) -> None:
        os.write(writer, f"{word}\n".encode())

    try:
        parents_pid = sync.list_locks()[0].pid
        try:
            parents.check()
        except LockLost:
            say("lost" if not parents.release() else "released")
        try:
            sync.lock("report", ttl=60).acquire()
        except LockHeld:
            say("held by its parent")
        with sync.lock("childs", ttl=60):
            mine = next(lock for lock in sync.list_locks() if lock.name == "childs")
            say("another session" if mine.pid != parents_pid else "its parent's")
        say("own lock")
        sync.close()
    finally:
        os._exit(0)


def test_a_try_asks_for_one_lock_only(database: Any) -> None:
    # A try-lock function in a WHERE clause takes every lock that the scan passes.
    database.execute("CREATE TABLE names AS SELECT 'n' || n AS name FROM generate_series(1, 50) n")
    database.execute(
        "SELECT t.acquired FROM (SELECT name FROM names LIMIT 1) AS n,"
        " LATERAL pgsync.try_lock(n.name, '1 minute') AS t"
    )
    assert advisory_locks(database) == 1


def test_an_interrupted_call_gives_back_what_it_was_granted(database: Any) -> None:
    database.execute("SET statement_timeout = '150ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        database.execute(
            "SELECT t.acquired, pg_sleep(1) FROM pgsync.try_lock('report', '1 minute') AS t"
        )
    database.execute("RESET statement_timeout")
    # Granted inside a statement that failed later: the client has to ask.
    assert advisory_locks(database) == 1
    database.execute("SELECT pgsync.abandon_lock('report')")
    assert advisory_locks(database) == 0


def test_a_broken_request_spoils_no_other_of_its_batch(dsn: str, database: Any) -> None:
    database.execute(
        "CREATE FUNCTION slow_or_bad() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
        " IF new.name = 'slow' THEN PERFORM pg_sleep(1); END IF;"
        " IF new.name = 'bad' THEN RAISE EXCEPTION 'a bad one'; END IF; RETURN new; END$$"
    )
    database.execute(
        "CREATE TRIGGER slow_or_bad BEFORE INSERT ON pgsync.lock_holder"
        " FOR EACH ROW EXECUTE FUNCTION slow_or_bad()"
    )
    outcomes: dict[str, str] = {}
    with Coordinator(dsn) as sync:
        before = sync.lock("before", ttl=60)
        before.acquire()

        def work(name: str) -> None:
            try:
                with sync.lock(name, ttl=60):
                    outcomes[name] = "held"
                    eventually(lambda: len(outcomes) == 4)
            except psycopg.errors.RaiseException:
                outcomes[name] = "refused"

        # While the first is under way the others queue, and go together in the next round trip.
        threads = [
            threading.Thread(target=work, args=(name,)) for name in ("slow", "a", "bad", "c")
        ]
        threads[0].start()
        eventually(
            lambda: database.execute(
                "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
                " AND datname = current_database()"
            ).fetchone()
        )
        for thread in threads[1:]:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert outcomes == {"slow": "held", "a": "held", "bad": "refused", "c": "held"}
        before.check()
        assert [lock.name for lock in sync.list_locks()] == ["before"]
        assert advisory_locks(database) == 1


def test_keys_of_two_numbers_are_another_space(face: Any, dsn: str, database: Any) -> None:
    with psycopg.connect(dsn, autocommit=True) as other:
        # The same 64 bits, held as two numbers of 32 by a neighbour who knows nothing of pgsync.
        other.execute(
            "SELECT pg_advisory_lock((k >> 32)::integer, (k & 4294967295)::bit(32)::integer)"
            " FROM (SELECT pgsync.lock_key('report') AS k) AS key"
        )
        assert face.explain_lock("report").state == "free"
        with face.lock("report", ttl=60):
            row = database.execute("SELECT waiting, pid FROM pgsync.locks").fetchall()
            assert len(row) == 1
            assert row[0][1] != other.info.backend_pid
        assert face.explain_lock("report").state == "free"


def test_locks_of_another_database_are_others(
    face: Any, make_database: Callable[[str], str], template: str
) -> None:
    with Coordinator(make_database(template)) as elsewhere:
        with elsewhere.lock("report", ttl=60):
            assert face.explain_lock("report").state == "free"
            assert face.list_locks() == []
            with face.lock("report", ttl=60):
                assert [lock.name for lock in face.list_locks()] == ["report"]
        assert not elsewhere.force_release("report")
