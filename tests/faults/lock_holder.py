"""One process of the lock harness: it increments a counter under a lock, again and again.

What it knows of its own fate it appends to a journal, a JSON object a line, which survives its
``kill -9``: ``done`` (a commit was acknowledged), ``lost`` (its lock was), ``wait`` (how long an
acquire took).
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import time
from pathlib import Path
from typing import IO, Any

import psycopg

from pgsync import Coordinator, LockHeld, LockLost, PgsyncError

LOCK = "harness:counter"


class Holder:
    """Takes the lock, reads the counter, pauses, and writes it back."""

    def __init__(self, dsn: str, number: int, settings: dict[str, Any], journal: IO[str]) -> None:
        self._dsn = dsn
        self._number = number
        self._settings = settings
        self._journal = journal
        self._rng = random.Random(f"{settings['seed']}/{number}/{time.monotonic_ns()}")
        self._connection: psycopg.Connection[Any] | None = None

    def run(self) -> None:
        """Work until killed."""
        with Coordinator(self._dsn) as sync:
            while True:
                try:
                    self._once(sync)
                except LockHeld:
                    pass  # waited to its bound
                except LockLost as error:
                    self._note("lost", reason=error.reason)
                except (PgsyncError, psycopg.Error):
                    # The server, or one of the sessions, went away: look again soon.
                    self._connection = None
                    time.sleep(self._rng.uniform(0.02, 0.1))

    def _once(self, sync: Coordinator) -> None:
        ttl, wait = self._settings["ttl"], self._settings["wait"]
        owner = f"holder {self._number}"
        lock = sync.lock(LOCK, ttl=ttl, wait=wait, owner=owner, auto_renew=False)
        began = time.monotonic()
        try:
            lock.acquire()
        finally:
            self._note("wait", began=began, ended=time.monotonic())
        try:
            with self._data() as connection:
                guard_first = self._rng.random() < 0.5
                if self._settings["guarded"] and guard_first:
                    lock.guard(connection)
                value = self._increment(connection, lock.token)
                if self._settings["guarded"] and not guard_first:
                    lock.guard(connection)
                connection.commit()
            self._note("done", token=lock.token, value=value)
        finally:
            lock.release()

    def _increment(self, connection: psycopg.Connection[Any], token: int) -> int:
        # A plain read: what keeps the counter right is the lock, and nothing else.
        row = connection.execute("SELECT value, clock_timestamp() FROM counter").fetchone()
        assert row is not None
        value, entered = row[0] + 1, row[1]
        self._pause()
        connection.execute("UPDATE counter SET value = %s", [value])
        connection.execute(
            "INSERT INTO ledger (token, holder, value, entered, left_at)"
            " VALUES (%s, %s, %s, %s, clock_timestamp())",
            [token, self._number, value, entered],
        )
        return value

    def _pause(self) -> None:
        if self._rng.random() < self._settings["overrun"]:
            # Slower than the lock allows: its own watchdog ends it.
            time.sleep(self._settings["ttl"] * 1.5)
        elif self._rng.random() < 0.5:
            time.sleep(self._rng.uniform(0.0, 0.004))

    @contextlib.contextmanager
    def _data(self) -> Any:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self._dsn, application_name="harness data", connect_timeout=10
            )
        try:
            yield self._connection
        except BaseException:
            self._connection.close()
            self._connection = None
            raise

    def _note(self, event: str, **facts: Any) -> None:
        self._journal.write(json.dumps({"event": event, **facts}) + "\n")
        self._journal.flush()


def main() -> None:
    dsn, number, settings, journal = sys.argv[1:]
    with Path(journal).open("a") as lines:
        Holder(dsn, int(number), json.loads(settings), lines).run()


if __name__ == "__main__":
    main()
