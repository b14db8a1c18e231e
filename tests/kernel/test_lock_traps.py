"""The traps that advisory locks set, each of which somebody has fallen into."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pgsync import Coordinator, LockHeld, LockLost
from tests.advisory import advisory_locks

pytestmark = pytest.mark.core


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
        with pytest.raises(LockHeld):
            other.lock("report", ttl=60, wait=0.7).acquire()
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


@pytest.mark.parametrize("release", ["release_lock", "release_usual_lock"])
def test_a_lock_passes_on_with_the_commit_of_its_release(
    database: Any, dsn: str, release: str
) -> None:
    # Whoever is woken by it finds the former holder's row gone, and has nothing to look into.
    take = "SELECT acquired, token FROM pgsync.try_lock('report', '1 minute')"
    (_, token) = database.execute(take).fetchone()
    released = psycopg.sql.SQL("SELECT pgsync.{}(%s)").format(psycopg.sql.Identifier(release))
    with psycopg.connect(dsn, autocommit=True) as other:
        with database.transaction():
            assert database.execute(released, [token]).fetchone() == (True,)
            assert other.execute(take).fetchone() == (False, None)
        assert other.execute(take).fetchone()[0]


def test_a_release_of_what_another_session_has_meanwhile_waits_for_nobody(
    database: Any, dsn: str
) -> None:
    (token,) = database.execute(
        "SELECT token FROM pgsync.try_lock('report', '1 minute')"
    ).fetchone()
    database.execute("SELECT pg_advisory_unlock_all()")
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(pgsync.lock_key('report'))")
        assert database.execute("SELECT pgsync.release_usual_lock(%s)", [token]).fetchone() == (
            False,
        )
        assert advisory_locks(database) == 1  # the other's
