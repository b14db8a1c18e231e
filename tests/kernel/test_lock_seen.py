"""Seeing locks: the view, explain, and the command line."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from pgsync import Coordinator, LockHeld, LockLost
from pgsync.cli.main import cli
from tests.eventually import eventually


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli, list(arguments), catch_exceptions=False)


@pytest.fixture
def waited_for(sync: Coordinator, dsn: str) -> Any:
    """A lock that two others wait for."""
    held = sync.lock("report", ttl=60, owner="the holder")
    held.acquire()
    others = [Coordinator(dsn) for _ in range(2)]

    def wait(other: Coordinator, owner: str) -> None:
        with pytest.raises(LockHeld):
            other.lock("report", ttl=60, wait=60, owner=owner).acquire()

    threads = []
    with psycopg.connect(dsn, autocommit=True) as database:
        for other, owner in zip(others, ("first", "second"), strict=True):
            threads.append(threading.Thread(target=_ended_by_close, args=(other, owner)))
            threads[-1].start()
            eventually(
                lambda: (
                    database.execute("SELECT waiting FROM pgsync.locks").fetchone()
                    == (len(threads),)
                )
            )
    yield held
    for other in others:
        other.close()
    for thread in threads:
        thread.join(20)


def _ended_by_close(other: Coordinator, owner: str) -> None:
    try:
        other.lock("report", ttl=60, wait=60, owner=owner).acquire()
    except Exception:  # noqa: BLE001 - the wait ends in one of several ways
        return


@pytest.mark.core
def test_the_view_tells_who_holds_and_who_waits(waited_for: Any, sync: Coordinator) -> None:
    (seen,) = sync.list_locks()
    assert (seen.name, seen.mode, seen.owner, seen.token) == (
        "report",
        "exclusive",
        "the holder",
        waited_for.token,
    )
    assert seen.host == socket.gethostname()
    assert seen.waiting == 2
    assert sorted(seen.waiters) == ["first", "second"]
    assert seen.expires_at == waited_for.expires_at


@pytest.mark.core
def test_a_lock_explains_itself(waited_for: Any, face: Any) -> None:
    explained = face.explain_lock("report")
    assert explained.state == "held"
    assert explained.holder == "the holder"
    assert explained.token == waited_for.token
    assert explained.holders == 1
    assert sorted(explained.waiters) == ["first", "second"]
    assert explained.remaining.total_seconds() > 30
    assert "force_unlock('report')" in explained.freed_by


@pytest.mark.core
def test_explain_tells_each_state(new_face: Callable[[], Any], dsn: str, database: Any) -> None:
    face = new_face()
    assert face.explain_lock("report").state == "free"
    assert face.explain_lock("report").freed_by == "nothing: it is free"
    with psycopg.connect(dsn) as mine:
        mine.execute("SELECT pgsync.lock_transaction('report')")
        assert face.explain_lock("report").state == "held by a transaction"
    lock = face.lock("report", ttl=60)
    lock.acquire()
    lock.hand_over()
    assert face.explain_lock("report").state == "handed over"
    assert face.force_release("report")
    with psycopg.connect(dsn, autocommit=True) as frozen:
        frozen.execute("SELECT pgsync.try_lock('report', '10 milliseconds', 'frozen')")
        eventually(lambda: face.explain_lock("report").state == "expired")
        assert "ends the holder's session" in face.explain_lock("report").freed_by
    eventually(lambda: face.explain_lock("report").state == "lost")


@pytest.mark.core
def test_a_semaphore_explains_itself(face: Any) -> None:
    with face.semaphore("api", 3, ttl=60, owner="one"), face.semaphore("api", 3, ttl=60):
        explained = face.explain_lock("api")
        assert explained.state == "held"
        assert explained.mode == "semaphore"
        assert explained.holders == 2
    assert face.explain_lock("api").state == "free"


@pytest.mark.core
def test_an_expired_holder_that_may_not_be_ended_is_said(
    dsn: str, database: Any, server_dsn: str
) -> None:
    database.execute("DROP ROLE IF EXISTS pgsync_test_weak")
    database.execute("CREATE ROLE pgsync_test_weak LOGIN")
    try:
        database.execute("GRANT USAGE ON SCHEMA pgsync TO pgsync_test_weak")
        database.execute("GRANT ALL ON ALL TABLES IN SCHEMA pgsync TO pgsync_test_weak")
        database.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA pgsync TO pgsync_test_weak")
        database.execute("SELECT pgsync.try_lock('report', '10 milliseconds', 'strong')")
        weak_dsn = psycopg.conninfo.make_conninfo(dsn, user="pgsync_test_weak")
        with psycopg.connect(weak_dsn, autocommit=True) as weak:
            ask = "SELECT acquired, obstacle FROM pgsync.try_lock('report', '1 minute')"
            eventually(lambda: "may not end" in (weak.execute(ask).fetchone()[1] or ""))
            assert weak.execute(ask).fetchone()[0] is False
            explained = weak.execute(
                "SELECT state, freed_by FROM pgsync.explain_lock('report')"
            ).fetchone()
            assert "GRANT pg_signal_backend, pg_read_all_stats TO pgsync_test_weak" in explained[1]
    finally:
        database.execute("DROP OWNED BY pgsync_test_weak")
        database.execute("DROP ROLE pgsync_test_weak")


def test_the_command_line_lists_shows_asks_and_releases(
    waited_for: Any, dsn: str, database: Any
) -> None:
    (listed,) = json.loads(run("locks", "list", "--dsn", dsn, "--json").stdout)
    assert listed["name"] == "report"
    assert listed["waiting"] == 2
    assert sorted(listed["waiters"].split(", ")) == ["first", "second"]
    (shown,) = json.loads(run("locks", "show", "report", "--dsn", dsn, "--json").stdout)
    assert shown["state"] == "held"
    text = run("locks", "show", "report", "--dsn", dsn).stdout
    assert "the holder" in text
    assert "freed by" in text
    assert run("locks", "ask", "report", "--dsn", dsn, "--by", "ops").exit_code == 0
    assert run("locks", "ask", "nothing", "--dsn", dsn).exit_code == 3
    released = run("locks", "release", "report", "--dsn", dsn, "--yes", "--by", "ops", "--why", "x")
    assert released.exit_code == 0
    eventually(lambda: waited_for.lost)
    with pytest.raises(LockLost):
        waited_for.check()
    actions = database.execute("SELECT action, actor FROM pgsync.audit ORDER BY at").fetchall()
    assert actions == [("lock.asked", "ops"), ("lock.forced", "ops")]


@pytest.mark.core
def test_contention_is_noted_by_the_hour_and_forgotten_in_time(
    waited_for: Any, database: psycopg.Connection[Any]
) -> None:
    def noted() -> Any:
        # Waiters wait in slices, so that one look may see fewer.
        database.execute("SELECT pgsync.note_lock_contention()")
        return database.execute(
            "SELECT c.name, c.holder, c.waiter, c.waited, c.hour FROM pgsync.lock_contention AS c"
            " WHERE c.most_waiting = 2"
        ).fetchone()

    name, holder, waiter, waited, hour = eventually(noted)
    assert (name, holder) == ("report", "the holder")
    assert waiter in ("first", "second")
    assert waited.total_seconds() % 5 == 0
    assert (hour.minute, hour.second) == (0, 0)
    waited_for.release()
    database.execute("UPDATE pgsync.lock_contention_hour SET hour = hour - interval '8 days'")
    database.execute("SELECT pgsync.note_lock_contention()")
    assert database.execute(
        "SELECT count(*) FROM pgsync.lock_contention WHERE hour < now() - interval '7 days'"
    ).fetchone() == (0,)
