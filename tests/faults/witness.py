"""Somebody who does nothing but commit, so that it is known afterwards when the server could."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

import psycopg

from pgsync import ConnectionFailed

__all__ = ["Outage", "Witness", "lags_while_up"]

Outage = tuple[datetime, datetime]
"""From the last commit before it to the first after it."""

_EVERY_SECONDS = 0.1
_AWAY = timedelta(seconds=1)


class Witness:
    """Commits, on a connection of its own each time, to whichever server ``dsn`` returns."""

    def __init__(self, dsn: Callable[[], str]) -> None:
        self._dsn = dsn
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="witness")
        self.outages: list[Outage] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        last = datetime.now(UTC)
        while not self._ended.wait(_EVERY_SECONDS):
            if not self._commits():
                continue
            now = datetime.now(UTC)
            if now - last > _AWAY:
                self.outages.append((last, now))
            last = now

    def _commits(self) -> bool:
        try:
            with psycopg.connect(
                self._dsn(), connect_timeout=2, options="-c statement_timeout=5s"
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
