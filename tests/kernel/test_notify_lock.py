"""Enqueuers do not wait for the lock that NOTIFY takes at commit, which all databases share.

It is held here by a session whose commit waits for a standby that is not there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from pgsync.database.embedded import EmbeddedServer
from pgsync.database.migrations import migrate
from pgsync.queues.numbered import Numbers
from tests.eventually import eventually

pytestmark = pytest.mark.core

_LOCK = (
    "SELECT l.pid FROM pg_locks AS l WHERE l.locktype = 'object' AND l.objid = 0"
    " AND l.classid = 'pg_database'::regclass AND l.mode = 'AccessExclusiveLock' AND l.granted = %s"
)


@pytest.fixture(scope="module")
def dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server on which a commit waits for ever where its session wants a standby to know."""
    settings = {
        "fsync": "off",
        "synchronous_standby_names": "nobody",
        "synchronous_commit": "local",
    }
    with EmbeddedServer(tmp_path_factory.mktemp("pg") / "server", settings=settings) as server:
        migrate(server.dsn)
        yield server.dsn


@pytest.fixture
def lock_is_held(dsn: str) -> Iterator[None]:
    """Somebody is in the middle of the commit of a notification."""
    with psycopg.connect(dsn, autocommit=True) as watcher, psycopg.connect(dsn) as holder:
        holder.execute("SET synchronous_commit = on")
        holder.execute("SELECT pg_notify('elsewhere', ''), pg_logical_emit_message(true, '', '')")
        committing = threading.Thread(target=holder.commit)
        committing.start()
        pid = holder.info.backend_pid
        eventually(lambda: watcher.execute(_LOCK, [True]).fetchall() == [(pid,)])
        yield
        watcher.execute("SELECT pg_cancel_backend(%s)", [pid])
        committing.join(30)


def register(session: psycopg.Connection[Any], *, waits: bool) -> None:
    """A worker by hand, that waits for word or is busy."""
    session.execute(
        "SELECT pgsync.worker_heartbeat(pgsync.register_worker('w', 'h', 1, '0', '{*}', 1), %s)",
        [waits],
    )


def enqueue(task: Any, database: psycopg.Connection[Any], count: int) -> None:
    """Enqueue from as many threads, and see that all jobs are there."""
    with ThreadPoolExecutor(count) as threads:
        asked = [threads.submit(task.enqueue, n=n) for n in range(count)]
        ids = {job.result(60).id for job in asked}
    there = database.execute("SELECT id FROM pgsync.job_ready").fetchall()
    assert ids <= {row[0] for row in there}


@pytest.fixture
def database(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection, with no job and no worker left by the test before."""
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("TRUNCATE pgsync.job_ready")
        session.execute("DELETE FROM pgsync.worker")
        yield session


@pytest.mark.usefixtures("lock_is_held")
@pytest.mark.parametrize("waits", [False, True], ids=["busy", "waiting"])
def test_enqueuers_do_not_wait_for_the_lock_of_a_notification(
    face: Any, database: psycopg.Connection[Any], waits: bool
) -> None:
    register(database, waits=waits)
    task = face.task(name="work")(lambda n: None)
    enqueue(task, database, 1)
    enqueue(task, database, 4)


@pytest.mark.usefixtures("lock_is_held")
def test_a_notification_waits_for_that_lock(dsn: str, database: psycopg.Connection[Any]) -> None:
    """What the other tests rest on."""
    with psycopg.connect(dsn, autocommit=True) as other:
        pid = other.info.backend_pid
        notifying = threading.Thread(target=other.execute, args=["NOTIFY elsewhere"])
        notifying.start()
        eventually(lambda: database.execute(_LOCK, [False]).fetchall() == [(pid,)])
        database.execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        )
        notifying.join(30)
        assert not notifying.is_alive()


def test_word_is_sent_behind_jobs_while_the_last_answer_was_that_somebody_waits() -> None:
    numbers = Numbers(lambda: True)
    numbers.note({"mail", "other"}, ["mail"])
    assert numbers.awaited({"mail", "other"}) == ["mail"]
    numbers.note({"mail"}, [])
    assert not numbers.awaited({"mail", "other"})


def test_of_those_who_wake_at_once_one_is_enough(
    dsn: str, database: psycopg.Connection[Any]
) -> None:
    register(database, waits=True)
    database.execute("LISTEN pgsync_jobs")
    with psycopg.connect(dsn) as first, psycopg.connect(dsn, autocommit=True) as second:
        first.execute("SELECT pgsync.wake_workers('{mail}')")
        second.execute("SELECT pgsync.wake_workers('{mail,other}')")
        assert [word.payload for word in database.notifies(timeout=30, stop_after=1)] == ["other"]
        first.commit()
        assert [word.payload for word in database.notifies(timeout=30, stop_after=1)] == ["mail"]


def test_word_of_each_job_goes_out_while_a_worker_waits(
    face: Any, database: psycopg.Connection[Any]
) -> None:
    register(database, waits=True)
    database.execute("LISTEN pgsync_jobs")
    task = face.task(name="work")(lambda n: None)
    for n in range(3):  # The first in a trip of its own, the others behind their jobs.
        task.enqueue(n=n)
        words = database.notifies(timeout=30, stop_after=1)
        assert [word.payload for word in words] == ["default"]
    database.execute("UPDATE pgsync.worker SET idle = false")
    for n in range(3):
        task.enqueue(n=n)
    database.execute("SELECT 1")  # What was sent before is here with the answer.
    assert list(database.notifies(timeout=0)) == []
    database.execute("UNLISTEN pgsync_jobs")
