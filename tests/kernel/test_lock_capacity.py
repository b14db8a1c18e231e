"""Many locks on one session, and the error that comes before the server's table is full."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgsync import Coordinator, LockCapacityError
from pgsync.database.embedded import EmbeddedServer
from pgsync.database.migrations import migrate
from tests.eventually import eventually
from tests.threads import at_once

_SMALL = {"fsync": "off", "max_locks_per_transaction": "10", "max_connections": "40"}
_NOMINAL = 10 * 40


def take(sync: Coordinator, names: list[str]) -> list[Any]:
    """Take the locks from eight threads; those that were granted."""
    held: list[Any] = []
    errors: list[Exception] = []
    left = iter(names)
    mutex = threading.Lock()

    def work() -> None:
        while True:
            with mutex:
                name = next(left, None)
            if name is None or errors:
                return
            lock = sync.lock(name, ttl=600)
            try:
                lock.acquire()
            except LockCapacityError as error:
                errors.append(error)
            else:
                held.append(lock)

    at_once([work] * 8, within=100)
    if errors:
        raise errors[0]
    return held


def test_ten_thousand_locks_are_held_by_one_process(sync: Coordinator, database: Any) -> None:
    held = take(sync, [f"lock {n}" for n in range(10_000)])
    assert database.execute(
        "SELECT count(*), count(DISTINCT pid) FROM pgsync.locks"
    ).fetchone() == (
        10_000,
        1,
    )
    for lock in held:
        lock.check()
    # One after the other each would pay for all that are held still.
    sync.close()


def test_locks_stop_at_a_quarter_of_the_table_and_others_never_suffer(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "server", settings=_SMALL) as server:
        migrate(server.dsn)
        with Coordinator(server.dsn) as sync:
            with pytest.raises(LockCapacityError) as caught:
                take(sync, [f"lock {n}" for n in range(_NOMINAL)])
            held = sync.list_locks()
            assert len(held) == _NOMINAL // 4
            raise_to = re.search(r"max_locks_per_transaction to (\d+)", str(caught.value))
            assert raise_to is not None
            assert int(raise_to[1]) == 20
            # A new connection, and a statement that locks many tables, go on working.
            with psycopg.connect(server.dsn) as other:
                other.execute("SELECT count(*) FROM pgsync.jobs, pgsync.locks")
            # What is given back can be taken again.
            assert sync.force_release(held[0].name)
        with Coordinator(server.dsn) as sync, sync.lock("again", ttl=60) as lock:
            assert lock.held


def test_locks_of_dead_processes_do_not_count(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "server", settings=_SMALL) as server:
        migrate(server.dsn)
        dead = psycopg.connect(server.dsn, autocommit=True)
        dead.execute(
            "SELECT t.token FROM generate_series(1, %s) AS n,"
            " LATERAL pgsync.try_lock('lock ' || n, '1 hour') AS t",
            [_NOMINAL // 4],
        )
        with Coordinator(server.dsn) as sync:
            with pytest.raises(LockCapacityError):
                sync.lock("one more", ttl=60).acquire()
            dead.close()

            def has_room() -> bool:
                try:
                    with sync.lock("one more", ttl=60) as lock:
                        return lock.held
                except LockCapacityError:
                    return False

            eventually(has_room)  # the session takes a moment to end


def test_many_sessions_that_draw_together_stay_near_a_quarter(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "server", settings=_SMALL) as server:
        migrate(server.dsn)
        sessions = [psycopg.connect(server.dsn, autocommit=True) for _ in range(25)]
        refused: list[str | None] = []
        for turn in range(18):
            for number, session in enumerate(sessions):
                try:
                    session.execute("SELECT pgsync.try_lock(%s, '1 hour')", [f"{number}/{turn}"])
                except psycopg.Error as error:
                    refused.append(error.sqlstate)
        held = sessions[0].execute("SELECT count(*) FROM pgsync.lock_holder").fetchone()
        assert held is not None
        assert set(refused) == {"PS002"}
        assert held[0] + len(refused) == 18 * 25
        assert _NOMINAL // 4 <= held[0] <= _NOMINAL // 4 + 25
        for session in sessions:
            session.close()
