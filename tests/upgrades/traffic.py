"""Clients of a database that is migrated under them, which call as its first schema promised.

Each does one thing over and over on a session of its own, and keeps a ledger of what it was told.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import errors as pg

__all__ = ["RETRIED", "Traffic"]

RETRIED = (pg.InternalError_, pg.UndefinedFunction, pg.DeadlockDetected)
"""What docs/upgrading.md says to try again: nothing of the failed call has happened."""

_LIMIT = 50
"""Hits in the minutes that the test takes, however many are tried."""


class Traffic:
    """Clients that enqueue, work, lock and hit a limit, until they are told to end."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.enqueued: list[int] = []
        self.completed: list[int] = []
        self.tokens: list[int] = []
        self.admitted = 0
        self.retried: list[str] = []
        self.failures: list[str] = []
        self.calls = dict.fromkeys(("enqueue", "work", "lock", "hit"), 0)
        self._ended = threading.Event()
        self._nothing_more = threading.Event()
        """All are in the ledger that were enqueued."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """All clients at work; at the end what is left in the queue is worked off."""
        clients = {"enqueue": self._enqueue, "work": self._work, "lock": self._lock}
        threads = [
            threading.Thread(target=self._client, args=(name, call), name=f"client {name}")
            for name, call in {**clients, "hit": self._hit}.items()
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            others = [thread for thread in threads if thread.name != "client work"]
            for thread in others:
                thread.join(120)
            self._nothing_more.set()
            for thread in threads:
                thread.join(120)
        assert not any(thread.is_alive() for thread in threads), "a call hangs"

    def have_gone_on(self, calls: int) -> Callable[[], bool]:
        """Whether each client has done so many calls more, since this was called."""
        before = dict(self.calls)
        return lambda: (
            bool(self.failures)
            or all(done >= before[name] + calls for name, done in self.calls.items())
        )

    def _client(self, name: str, call: Callable[[psycopg.Connection[Any], int], bool]) -> None:
        try:
            with psycopg.connect(self._dsn, autocommit=True) as session:
                # A call that hangs behind a migration is a failure of the test.
                session.execute("SET statement_timeout = '60s'")
                worker = 0
                if name == "work":
                    worker = _value(
                        session,
                        "SELECT pgsync.register_worker('old', 'host', 1, '0', '{default}', 8)",
                    )
                going_on = True
                while going_on or not self._ended.is_set():
                    try:
                        going_on = call(session, worker)
                        self.calls[name] += 1
                        # As clients do that wait for somebody else's request.
                        self._ended.wait(0.005)
                    except RETRIED as error:
                        self.retried.append(f"{name}: {error.sqlstate} {error}")
        except BaseException as error:  # noqa: BLE001 - the test's own thread reports it
            self.failures.append(f"{name}: {type(error).__name__} {error}")

    def _enqueue(self, session: psycopg.Connection[Any], _worker: int) -> bool:
        self.enqueued.append(_value(session, "SELECT pgsync.enqueue('work', '{\"n\": 1}')"))
        return False

    def _work(self, session: psycopg.Connection[Any], worker: int) -> bool:
        claimed = session.execute(
            "SELECT c.id, c.attempt FROM pgsync.claim_jobs(%s, '{default}', 8) AS c", [worker]
        ).fetchall()
        while claimed:
            try:
                accepted = _value(
                    session,
                    "SELECT pgsync.complete_jobs(%s, %s, %s, %s)",
                    worker,
                    [job for job, _ in claimed],
                    [attempt for _, attempt in claimed],
                    [None] * len(claimed),
                )
                self.completed += accepted
                return True
            except RETRIED as error:
                self.retried.append(f"complete: {error.sqlstate} {error}")
        return not self._nothing_more.is_set() or len(self.completed) < len(self.enqueued)

    def _lock(self, session: psycopg.Connection[Any], _worker: int) -> bool:
        row = session.execute(
            "SELECT l.acquired, l.token FROM pgsync.try_lock('report', '5 min', 'me') AS l"
        ).fetchone()
        assert row is not None
        acquired, token = row
        if acquired:
            self.tokens.append(token)
            try:
                assert _value(session, "SELECT pgsync.unlock('report', %s)", token), "not held"
            except RETRIED:
                # An advisory lock that is given back stays so, whatever becomes of the call.
                session.execute("SELECT pgsync.unlock('report', %s)", [token])
                raise
        return False

    def _hit(self, session: psycopg.Connection[Any], _worker: int) -> bool:
        allowed = _value(
            session,
            "SELECT h.allowed FROM pgsync.rate_limit_hit('graph', %s, '1 hour') AS h",
            _LIMIT,
        )
        self.admitted += allowed
        return False

    def check(self, database: psycopg.Connection[Any]) -> None:
        """Nothing lost, nothing done twice, no limit exceeded, tokens only rise."""
        assert self.failures == [], self.failures
        # Each session has met at most the one migration that takes functions away.
        assert len(self.retried) <= 2 * len(self.calls), self.retried
        assert sorted(self.completed) == sorted(self.enqueued), "lost, or done twice"
        history = database.execute(
            "SELECT h.id FROM pgsync.job_history AS h WHERE h.state = 'completed' ORDER BY h.id"
        ).fetchall()
        assert [job for (job,) in history] == sorted(self.enqueued), "not in the history once"
        assert self.tokens == sorted(set(self.tokens)), "a token went back"
        assert self.admitted <= _LIMIT, self.admitted


def _value(session: psycopg.Connection[Any], query: str, *values: Any) -> Any:
    row = session.execute(query.encode(), values or None).fetchone()
    assert row is not None
    return row[0]
