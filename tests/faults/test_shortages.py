"""A server that is short of something refuses for a while; who asked goes on when it has room."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest

from pgsync import Coordinator, Limit, PgsyncError
from tests.eventually import eventually

pytestmark = pytest.mark.faults

_LOCKS = (
    "RAISE EXCEPTION 'out of shared memory' USING ERRCODE = '53200',"
    " HINT = 'You might need to increase \"max_locks_per_transaction\".'"
)
_DISK = "RAISE EXCEPTION 'No space left on device' USING ERRCODE = '53100'"


@contextmanager
def shortage(
    database: psycopg.Connection[Any], event: str, table: str, word: str
) -> Iterator[None]:
    """While it lasts the server refuses to write a table as one does that is short of something."""
    database.execute(
        "CREATE OR REPLACE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN {word}; END $$"
    )
    database.execute(
        f"CREATE TRIGGER refuse BEFORE {event} ON pgsync.{table} EXECUTE FUNCTION public.refuse()"
    )
    try:
        yield
    finally:
        database.execute(f"DROP TRIGGER refuse ON pgsync.{table}")


@pytest.mark.parametrize("word", [_LOCKS, _DISK], ids=["locks", "disk"])
@pytest.mark.parametrize(
    ("event", "table", "told"),
    [
        ("INSERT", "job_running", "jobs could not be claimed, trying again"),
        ("UPDATE", "worker", "the heartbeat failed, trying again"),
    ],
    ids=["claim", "heartbeat"],
)
def test_a_worker_outlives_a_server_that_is_short_of_something(
    sync: Coordinator,
    database: psycopg.Connection[Any],
    caplog: pytest.LogCaptureFixture,
    event: str,
    table: str,
    told: str,
    word: str,
) -> None:
    caplog.set_level(logging.WARNING, "pgsync.worker")
    work = sync.task(name="work")(lambda: None)
    with shortage(database, event, table, word):
        work.enqueue()
        sync.start()
        eventually(lambda: any(told in message for message in caplog.messages), within=60)
    work.enqueue()
    completed = "SELECT count(*) FROM pgsync.job_history WHERE state = 'completed'"
    eventually(lambda: database.execute(completed).fetchone() == (2,), within=60)
    sync.stop()


def test_an_election_goes_on_when_the_server_has_room_again(
    face: Any, database: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "pgsync.locks")
    with shortage(database, "INSERT", "lock_holder", _DISK):
        election = face.elect("leader", ttl=30, retry=0.1)
        election.start()
        eventually(lambda: caplog.messages, within=60)
        assert not election.is_leader
    assert election.wait(60)
    election.stop()


def test_what_went_wrong_in_an_operation_is_told_where_its_end_cannot_be_recorded(
    sync: Coordinator, database: psycopg.Connection[Any]
) -> None:
    with ExitStack() as stack:

        def fail(op: Any) -> None:
            stack.enter_context(shortage(database, "UPDATE", "operation_run", _DISK))
            raise ValueError("the handler's own")

        operation = sync.operation("refresh", lock="refresh", ttl=30)(fail)
        with pytest.raises(ValueError, match="the handler's own"):
            operation()


def test_a_coordinator_closes_where_its_leases_cannot_be_given_back(
    face: Any, database: psycopg.Connection[Any]
) -> None:
    calls = face.limiter("calls", Limit(100, per=3600), lease=10)
    assert calls.hit("a").allowed
    with shortage(database, "UPDATE", "rate_limit_counter", _DISK):
        face.close()
    with pytest.raises(PgsyncError, match="closed"):
        calls.hit("b")
