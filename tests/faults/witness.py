"""Somebody who does nothing but commit, so that it is known afterwards when the server could."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg

from pgsync import ConnectionFailed

__all__ = ["Outage", "lags_while_up", "witness"]

Outage = tuple[datetime, datetime]
"""From the last commit before it to the first after it."""

_EVERY_SECONDS = 0.1
_AWAY = timedelta(seconds=1)


@contextmanager
def witness(dsn: Callable[[], str]) -> Iterator[list[Outage]]:
    """Commits all the time, to whichever server ``dsn`` returns; the outages that it saw."""
    outages: list[Outage] = []
    ended = threading.Event()

    def look() -> None:
        last = datetime.now(UTC)
        while not ended.wait(_EVERY_SECONDS):
            if not _commits(dsn):
                continue
            now = datetime.now(UTC)
            if now - last > _AWAY:
                outages.append((last, now))
            last = now

    thread = threading.Thread(target=look, name="witness")
    thread.start()
    try:
        yield outages
    finally:
        ended.set()
        thread.join()


def _commits(dsn: Callable[[], str]) -> bool:
    try:
        with psycopg.connect(
            dsn(), connect_timeout=2, options="-c statement_timeout=5s"
        ) as connection:
            # A logged write, for which the standby is waited too.
            connection.execute("SELECT pg_logical_emit_message(true, 'witness', '')")
    except (psycopg.Error, ConnectionFailed):  # it may not even have an address
        return False
    return True


def lags_while_up(fires: Iterable[tuple[datetime, datetime]], outages: list[Outage]) -> list[float]:
    """How many seconds after it was due each was fired, those not counted that the server was away.

    ``fires`` are times due, and when they were fired.
    """
    return [
        (fired_at - due_at).total_seconds()
        - sum(
            (min(back, fired_at) - max(away, due_at)).total_seconds()
            for away, back in outages
            if away < fired_at and due_at < back
        )
        for due_at, fired_at in fires
    ]
