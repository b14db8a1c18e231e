"""What idle workers cost, and how few notifications wake them: counts, not times."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgsync import Coordinator
from pgsync.daemon.wakeups import Wakeups
from tests.eventually import eventually
from tests.kernel.handlers import working

pytestmark = pytest.mark.core


@pytest.fixture
def heard(dsn: str) -> Iterator[Callable[[], list[str]]]:
    """What all notifications of queues so far have said."""
    words: list[str] = []
    with psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute("LISTEN pgsync_jobs")

        def hear() -> list[str]:
            listener.execute("SELECT 1")  # What was sent before is here with the answer.
            words.extend(word.payload for word in listener.notifies(timeout=0))
            return words

        yield hear


def waits(database: Any) -> bool | None:
    """Whether the one worker waits for notifications; None where there is none yet."""
    row = database.execute("SELECT idle FROM pgsync.worker").fetchone()
    return None if row is None else row[0]


def ended(database: Any) -> int:
    count: int = database.execute("SELECT count(*) FROM pgsync.job_finished").fetchone()[0]
    return count


def test_a_worker_that_hears_nothing_says_so_and_works_on(
    sync: Coordinator, database: Any, server_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgsync.daemon.worker._HEARTBEAT_SECONDS", 0.1)
    ran = threading.Event()
    sync.task(name="work")(lambda: ran.set())
    name = sql.Identifier(database.info.dbname)
    allow = sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}")

    def is_deaf() -> bool:
        rows = database.execute("SELECT deaf_since IS NOT NULL FROM pgsync.workers").fetchall()
        return rows == [(True,)]

    with working(sync), psycopg.connect(server_dsn, autocommit=True) as admin:
        eventually(lambda: waits(database))
        eventually(lambda: not is_deaf())
        try:
            admin.execute(allow.format(name, sql.SQL("false")))
            assert database.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name LIKE 'pgsync listener%'"
            ).fetchone() == (1,)
            eventually(is_deaf)
            database.execute("SELECT pgsync.enqueue('work')")
            assert ran.wait(30)
        finally:
            admin.execute(allow.format(name, sql.SQL("true")))
        eventually(lambda: not is_deaf(), within=60)


def test_a_busy_worker_is_sent_no_notification(
    sync: Coordinator, database: Any, heard: Callable[[], list[str]]
) -> None:
    hold = threading.Event()
    work = sync.task(name="work")(lambda: hold.wait(20))
    with working(sync, concurrency=1):
        eventually(lambda: waits(database))
        work.enqueue()
        eventually(lambda: waits(database) is False)
        sent = len(heard())
        assert sent == 1
        for _ in range(50):
            work.enqueue()
        assert len(heard()) == sent
        hold.set()
        eventually(lambda: ended(database) == 51)


@contextmanager
def flooding(dsn: str) -> Iterator[None]:
    """Hundreds of notifications a second, for as long as it lasts."""
    over = threading.Event()

    def notify() -> None:
        with psycopg.connect(dsn, autocommit=True) as session:
            while not over.is_set():
                session.execute(
                    "DO $$ BEGIN FOR n IN 1..100 LOOP"
                    " PERFORM pg_notify('pgsync_jobs', 'default'); COMMIT; END LOOP; END $$"
                )

    thread = threading.Thread(target=notify)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)


def test_a_flood_of_notifications_ends_until_it_is_quieter(
    sync: Coordinator, database: Any, dsn: str
) -> None:
    work = sync.task(name="work")(lambda: None)
    with working(sync):
        eventually(lambda: waits(database))
        with flooding(dsn):
            eventually(lambda: waits(database) is False)
        work.enqueue_many([{}] * 100)  # Nobody is told, and they run all the same.
        eventually(lambda: ended(database) == 100)
        eventually(lambda: waits(database))


def test_the_notifications_of_many_single_jobs_are_bounded(
    sync: Coordinator, database: Any, heard: Callable[[], list[str]]
) -> None:
    sync.task(name="work")(lambda: None)
    with working(sync):
        eventually(lambda: waits(database))
        database.execute(
            "DO $$ BEGIN FOR n IN 1..3000 LOOP"
            " PERFORM pgsync.enqueue('work'); COMMIT; END LOOP; END $$"
        )
        sent = len(heard())
        eventually(lambda: ended(database) == 3000)
    # Fifty, and those that are on their way until the worker has said that they are enough.
    assert 0 < sent < 1500


def test_other_queues_do_not_wake_a_worker(sync: Coordinator, database: Any, dsn: str) -> None:
    with working(sync, queues=["mine"]):
        eventually(lambda: waits(database))
        count = statements(dsn, during=1.0, notify="theirs")
    assert count <= 3


def test_a_job_whose_notification_is_lost_is_found_by_a_poll(
    sync: Coordinator, database: Any, heard: Callable[[], list[str]]
) -> None:
    work = sync.task(name="work")(lambda: None)
    with working(sync):
        eventually(lambda: waits(database))
        with database.transaction():
            database.execute("UPDATE pgsync.worker SET idle = false")
            work.enqueue(within=database)
        assert heard() == []
        eventually(lambda: ended(database) == 1)


def test_an_idle_worker_asks_little(sync: Coordinator, database: Any, dsn: str) -> None:
    with working(sync):
        eventually(lambda: waits(database))
        count = statements(dsn, during=4.0)
    # Polls after 1, 2 and 4 s, a heartbeat, and what was under way.
    assert count <= 6


def test_polls_of_an_idle_worker_write_nothing(new_worker: Any) -> None:
    session, worker = new_worker()
    with session.transaction():
        for queues in (["default"], ["a", "*"]):
            rows = session.execute("SELECT id FROM pgsync.claim_jobs(%s, %s, 9)", [worker, queues])
            assert rows.fetchall() == []
        assert session.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,)


def statements(dsn: str, during: float, notify: str | None = None) -> int:
    """How many statements the worker begins in so many seconds, as its sessions show them."""
    seen: set[tuple[int, Any]] = set()
    with psycopg.connect(dsn, autocommit=True) as watcher:
        until = time.monotonic() + during
        while time.monotonic() < until:
            seen.update(
                watcher.execute(
                    "SELECT pid, query_start FROM pg_stat_activity WHERE datname ="
                    " current_database() AND application_name LIKE 'pgsync worker%'"
                ).fetchall()
            )
            if notify is not None:
                watcher.execute("SELECT pg_notify('pgsync_jobs', %s)", [notify])
            time.sleep(0.005)
    return len(seen)


def test_a_worker_heeds_word_of_the_queues_that_it_has_now() -> None:
    wakeups = Wakeups(["first"])
    wakeups.clear()
    wakeups.settle()
    wakeups.watch(["second"])
    assert not wakeups.quiet  # there may be jobs in them already
    for word, heeded in (("first", False), ("second", True)):
        wakeups.clear()
        wakeups.settle()
        wakeups.heard(word)
        assert wakeups.quiet is not heeded
