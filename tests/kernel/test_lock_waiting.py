"""Waiting for a lock: bounded, in order, prompt to end, and leaving nothing behind."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pgsync import AsyncCoordinator, Coordinator
from pgsync.locks import sessions
from pgsync.locks.sessions import WAITING_SESSIONS
from tests.advisory import advisory_locks
from tests.eventually import eventually

pytestmark = pytest.mark.core


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


def test_an_interrupt_ends_a_wait_at_once_and_leaves_nothing(dsn: str, database: Any) -> None:
    script = (
        "import sys, time\nfrom pgsync import Coordinator\nfrom pgsync.locks import sessions\n"
        "sessions._SLICE = 30.0\n"  # no end of a slice comes to help
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
        assert time.monotonic() - began < 10
        held.release()
        assert advisory_locks(database) == 0
        waiter.kill()
        waiter.communicate()


def test_a_cancelled_task_ends_its_wait_at_the_server_at_once(
    dsn: str, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_SLICE", 30.0)  # no end of a slice comes to help

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
            assert time.monotonic() - began < 10

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


def test_a_wait_is_of_statements_that_end_so_that_it_does_not_hold_back_vacuum(
    new_face: Callable[[], Any], database: Any
) -> None:
    first, second = new_face(), new_face()
    begun: set[Any] = set()

    def statements() -> int:
        begun.update(
            database.execute(
                "SELECT query_start FROM pg_stat_activity WHERE state = 'active'"
                " AND application_name LIKE 'pgsync locks: %' AND datname = current_database()"
            ).fetchall()
        )
        return len(begun)

    held = first.lock("report", ttl=300)
    held.acquire()
    waiting = threading.Thread(target=second.lock("report", ttl=60, wait=120).acquire)
    waiting.start()
    eventually(lambda: statements() >= 3)
    held.release()
    waiting.join()


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
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgsync locks: %%'"
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
            " AND application_name LIKE 'pgsync locks%%'"
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


def test_processes_are_served_in_the_order_in_which_they_came(
    dsn: str, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Who waits for longer than a slice stands at the end of the queue again.
    monkeypatch.setattr(sessions, "_SLICE", 60.0)
    faces = [Coordinator(dsn) for _ in range(4)]
    order: list[int] = []

    def work(number: int) -> None:
        with faces[number].lock("report", ttl=60, wait=60):
            order.append(number)

    with Coordinator(dsn) as holder, holder.lock("report", ttl=60):
        threads: list[threading.Thread] = []
        for number in range(len(faces)):
            threads.append(threading.Thread(target=work, args=(number,)))
            threads[-1].start()
            eventually(
                lambda: (
                    database.execute("SELECT waiting FROM pgsync.locks").fetchone()
                    == (len(threads),)
                )
            )
    for thread in threads:
        thread.join(60)
    assert order == [0, 1, 2, 3]
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
        eventually(lambda: _standing(face, "report") == len(threads))
    held.release()
    for thread in threads:
        thread.join(30)
    assert order == list(range(6))


def _standing(face: Any, name: str) -> int:
    """How many stand in the process's line for a lock; nobody outside of it can see that."""
    lines = face._keeper._turns._lines
    return sum(len(line.waiting) for key, line in lines.items() if name in str(key))


_CLOSED_WHILE_WAITING = """
import asyncio, gc, sys, threading
from pgsync import AsyncCoordinator, Coordinator, PgsyncError

def blocking(dsn, names):
    def work(name):
        try:
            crowd.lock(name, ttl=60, wait=30).acquire()
        except PgsyncError:
            pass
    with Coordinator(dsn) as crowd:
        threads = [threading.Thread(target=work, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        threading.Event().wait(0.1)
    for thread in threads:
        thread.join(20)

async def awaiting(dsn, names):
    async with AsyncCoordinator(dsn) as crowd:
        waits = [asyncio.create_task(crowd.lock(n, ttl=60, wait=30).acquire()) for n in names]
        await asyncio.sleep(0.1)
        for wait in waits:
            wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)

for _ in range(6):
    blocking(sys.argv[1], sys.argv[2:])
    asyncio.run(awaiting(sys.argv[1], sys.argv[2:]))
gc.collect()
print("lives")
"""


def test_closing_a_coordinator_while_it_waits_never_harms_the_process(dsn: str) -> None:
    # libpq crashes where one thread frees a connection that another one works on.
    names = [f"report {number}" for number in range(12)]
    with Coordinator(dsn) as holder, holder.lock_all(names, ttl=600):
        done = subprocess.run(
            [sys.executable, "-c", _CLOSED_WHILE_WAITING, dsn, *names],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, "lives\n"), done.stderr
    assert "never retrieved" not in done.stderr
