"""The listener passes on what it hears, and is replaced when it is deaf."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgsync.database.listener import listen
from tests.eventually import eventually
from tests.relay import Relay
from tests.tcp_server import TcpServer


@contextmanager
def listening(dsn: str, **options: float) -> Iterator[list[str]]:
    """A listener in a thread; what it has heard."""
    heard: list[str] = []
    loop = asyncio.new_event_loop()
    task = loop.create_task(listen(dsn, "words", heard.append, **options))

    def run() -> None:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield heard
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(30)
        assert not thread.is_alive()


def test_it_goes_on_hearing_between_proofs(dsn: str, database: Any) -> None:
    with listening(dsn, proof_every=0.05) as heard:
        eventually(lambda: heard == [""])
        for number in range(20):
            database.execute("SELECT pg_notify('words', %s)", [str(number)])
            eventually(lambda number=number: heard[-1] == str(number))
        # One connect, no word lost, no proof passed on.
        assert heard == ["", *map(str, range(20))]


def test_a_deaf_one_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        TcpServer(tmp_path) as server,
        Relay(server.dsn) as relay,
        psycopg.connect(server.dsn, autocommit=True) as direct,
        caplog.at_level(logging.WARNING),
        listening(relay.dsn, proof_every=0.2, proof_within=0.5) as heard,
    ):
        eventually(lambda: heard == [""])
        relay.vanish()
        eventually(lambda: heard == ["", ""])
        direct.execute("SELECT pg_notify('words', 'again')")
        eventually(lambda: heard[-1] == "again")
    assert "was deaf" in caplog.text
