"""Putting jobs in: alone, in the caller's transaction, by thousands; and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from pgsync import AsyncCoordinator, Coordinator, InvalidArgument
from tests.kernel.conftest import Clock

pytestmark = pytest.mark.core


def send(campaign_id: int, text: Any = None) -> None:
    """A handler that no test runs."""


def jobs(database: Any) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = database.execute(
        "SELECT id, args, state FROM pgsync.jobs ORDER BY id"
    ).fetchall()
    return rows


def test_a_job_is_there_when_enqueue_returns(face: Any, database: Any) -> None:
    task = face.task(queue="campaigns", priority=3, max_attempts=2)(send)
    job = task.enqueue(campaign_id=3)
    assert job.added
    row = database.execute(
        "SELECT id, queue, task, args, state, priority, attempt, max_attempts FROM pgsync.jobs"
    ).fetchone()
    assert row == (job.id, "campaigns", "send", {"campaign_id": 3}, "available", 3, 0, 2)
    state = face.job(job.id)
    assert (state.state, state.errors, state.created_at.tzinfo) == ("available", [], UTC)


def test_enqueue_many_keeps_the_order_over_its_chunks(face: Any, database: Any) -> None:
    task = face.task()(send)
    ids = task.enqueue_many({"campaign_id": n} for n in range(7_000))
    assert ids == sorted(ids)
    rows = database.execute(
        "SELECT id, (args ->> 'campaign_id')::int FROM pgsync.job_ready ORDER BY position"
    ).fetchall()
    assert rows == list(zip(ids, range(7_000), strict=True))


def test_enqueue_many_is_all_or_nothing(face: Any, database: Any) -> None:
    task = face.task()(send)
    with pytest.raises(InvalidArgument, match="missing a required argument"):
        task.enqueue_many([{"campaign_id": n} for n in range(6_000)] + [{}])
    assert jobs(database) == []
    assert task.enqueue_many([]) == []


def test_a_job_within_a_transaction_shares_its_fate(sync: Coordinator, database: Any) -> None:
    task = sync.task()(send)
    with database.transaction():
        task.enqueue(campaign_id=1, within=database)
        task.enqueue_many([{"campaign_id": 1}], within=database)
        raise psycopg.Rollback
    assert jobs(database) == []
    with database.transaction():
        kept = task.enqueue(campaign_id=2, within=database)
    assert jobs(database) == [(kept.id, {"campaign_id": 2}, "available")]


@pytest.fixture
def url(dsn: str) -> str:
    return "postgresql+psycopg://"


@pytest.fixture
def engine(url: str, dsn: str) -> Iterator[Any]:
    engine = create_engine(url, creator=lambda: psycopg.connect(dsn), poolclass=NullPool)
    yield engine
    engine.dispose()


def test_a_job_within_a_sqlalchemy_session_or_connection(
    sync: Coordinator, database: Any, engine: Any
) -> None:
    task = sync.task()(send)
    with Session(engine) as session:
        task.enqueue(campaign_id=1, within=session)
        session.rollback()
        kept = task.enqueue(campaign_id=2, within=session)
        session.commit()
    with engine.connect() as connection:
        task.enqueue(campaign_id=3, within=connection)
        connection.rollback()
        also = task.enqueue(campaign_id=4, within=connection)
        connection.commit()
    with engine.begin() as connection:
        last = task.enqueue(campaign_id=5, within=connection)
    assert jobs(database) == [
        (kept.id, {"campaign_id": 2}, "available"),
        (also.id, {"campaign_id": 4}, "available"),
        (last.id, {"campaign_id": 5}, "available"),
    ]


def test_a_job_within_an_async_session_or_connection(dsn: str, url: str, database: Any) -> None:
    import asyncio

    async def enqueue() -> list[int]:
        engine = create_async_engine(
            url, async_creator=lambda: psycopg.AsyncConnection.connect(dsn), poolclass=NullPool
        )
        async with AsyncCoordinator(dsn) as coordinator:
            task = coordinator.task()(send)
            async with AsyncSession(engine) as session:
                await task.enqueue(campaign_id=1, within=session)
                await session.rollback()
                kept = await task.enqueue(campaign_id=2, within=session)
                await session.commit()
            async with engine.connect() as connection:
                await task.enqueue(campaign_id=3, within=connection)
                await connection.rollback()
                also = await task.enqueue(campaign_id=5, within=connection)
                await connection.commit()
            async with engine.begin() as connection:
                last = await task.enqueue(campaign_id=6, within=connection)
            async with await psycopg.AsyncConnection.connect(dsn) as raw:
                await task.enqueue_many([{"campaign_id": 4}], within=raw)
                await raw.rollback()
        await engine.dispose()
        return [kept.id, also.id, last.id]

    ids = asyncio.run(enqueue())
    assert jobs(database) == [
        (job_id, {"campaign_id": n}, "available") for job_id, n in zip(ids, (2, 5, 6), strict=True)
    ]


def test_what_cannot_carry_a_transaction_is_refused(face: Any, dsn: str) -> None:
    task = face.task()(send)
    sqlite = create_engine("sqlite://")
    with sqlite.connect() as connection, pytest.raises(InvalidArgument, match="sqlalchemy"):
        task.enqueue(campaign_id=1, within=connection)
    for target in (object(), "connection", 1):
        with pytest.raises(InvalidArgument, match="cannot carry the call"):
            task.enqueue(campaign_id=1, within=target)


def test_sql_alone_enqueues(sync: Coordinator, database: Any) -> None:
    job_id = database.execute("SELECT pgsync.enqueue('send', '{\"campaign_id\": 3}')").fetchone()[0]
    state = sync.job(job_id)
    assert state is not None
    assert (state.task, state.queue, state.state) == ("send", "default", "available")


def test_a_unique_key_admits_one_unfinished_job(face: Any, database: Any) -> None:
    task = face.task()(send).options(unique_key="campaign:3")
    first = task.enqueue(campaign_id=3)
    again = task.enqueue(campaign_id=3)
    assert (again.id, again.added) == (first.id, False)
    assert face.cancel_job(first.id) == "cancelled"
    assert task.enqueue(campaign_id=3).added
    with pytest.raises(InvalidArgument, match="unique_key"):
        task.enqueue_many([{"campaign_id": 3}])


def test_a_refused_duplicate_in_a_long_transaction_blocks_nobody(
    sync: Coordinator, database: Any, dsn: str
) -> None:
    task = sync.task()(send).options(unique_key="campaign:3")
    first = task.enqueue(campaign_id=3)
    with psycopg.connect(dsn) as long:
        assert not task.enqueue(campaign_id=3, within=long).added
        database.execute("SET statement_timeout = '5s'")
        assert database.execute("SELECT pgsync.cancel_job(%s)", [first.id]).fetchone() == (
            "cancelled",
        )


def test_a_delay_counts_by_the_servers_clock(
    sync: Coordinator, database: Any, clock: Clock
) -> None:
    task = sync.task()(send)
    later = task.options(delay=60).enqueue(campaign_id=1)
    at = task.options(run_at=clock.now + timedelta(seconds=60)).enqueue(campaign_id=2)
    past = task.options(run_at=datetime(2001, 1, 1, tzinfo=UTC)).enqueue(campaign_id=3)
    assert [state for _, _, state in jobs(database)] == ["scheduled", "scheduled", "available"]
    clock.move(59.9)
    assert database.execute("SELECT pgsync.promote_due_jobs()").fetchone() == (0,)
    clock.move(0.1)
    assert database.execute("SELECT pgsync.promote_due_jobs()").fetchone() == (2,)
    order = database.execute("SELECT id FROM pgsync.job_ready ORDER BY position").fetchall()
    assert order == [(past.id,), (later.id,), (at.id,)]


IMPOSSIBLE_ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"campaign_id": 1, "other": 2},
    {"campaign_id": float("nan")},
    {"campaign_id": {1, 2}},
    {"campaign_id": "nul\0"},
    {"campaign_id": "lone \ud800"},
    {"campaign_id": "too large", "text": [str(n) for n in range(300_000)]},
]
IMPOSSIBLE_OPTIONS: list[dict[str, Any]] = [
    {"run_at": datetime(2030, 1, 1)},  # noqa: DTZ001
    {"run_at": datetime(2030, 1, 1, tzinfo=UTC), "delay": 3},
    {"delay": -1},
    {"priority": 40_000},
    {"priority": 2**40},
    {"max_attempts": 0},
    {"max_attempts": 2**70},
    {"queue": ""},
    {"queue": 5},
    {"queue": "nul\0"},
    {"unique_key": "x" * 2000},
]


def test_arguments_and_options_that_cannot_work_are_refused(
    sync: Coordinator, database: Any
) -> None:
    task: Any = sync.task()(send)
    for args in IMPOSSIBLE_ARGUMENTS:
        with pytest.raises(InvalidArgument):
            task.enqueue(**args)
    for changes in IMPOSSIBLE_OPTIONS:
        with pytest.raises(InvalidArgument):
            task.options(**changes).enqueue(campaign_id=1)
    assert jobs(database) == []


def test_arguments_above_one_megabyte_are_refused_at_the_door(face: Any, database: Any) -> None:
    task = face.task()(send)
    around = len('{"campaign_id":1,"text":""}')
    for text in ("x" * (2**20 - around + 1), "\u00e9" * (2**19 - around // 2 + 1)):
        with pytest.raises(InvalidArgument, match=r"arguments of send .* at most 1 MB"):
            task.enqueue(campaign_id=1, text=text)
        with pytest.raises(InvalidArgument, match=r"arguments of send .* at most 1 MB"):
            task.enqueue_many([{"campaign_id": 0}, {"campaign_id": 1, "text": text}])
    assert jobs(database) == []


def test_the_kernel_bounds_arguments_by_the_bytes_of_their_text(database: Any) -> None:
    # As text {"x": "..."} has 9 bytes around the value; 1e100000 is short until it is written out.
    calls = (
        "SELECT pgsync.enqueue('send', %s::jsonb)",
        "SELECT pgsync.add_jobs('send', ARRAY['{}', %s::jsonb])",
    )
    most = '{"x": "' + "x" * (2**20 - 9) + '"}'
    wide = '{"x": [' + ", ".join(["1e100000"] * 11) + "]}"
    for call in calls:
        for args in (most.replace('"x"', '"xy"'), wide):
            with pytest.raises(psycopg.errors.InvalidParameterValue, match="at most 1 MB"):
                database.execute(call, [args])
        assert jobs(database) == []
        database.execute(call, [most])
        database.execute("DELETE FROM pgsync.job_ready")


def test_declarations_that_cannot_work_are_refused(sync: Coordinator) -> None:
    sync.task()(send)
    with pytest.raises(InvalidArgument, match="declared already"):
        sync.task()(send)
    with pytest.raises(InvalidArgument, match="within"):
        sync.task()(lambda within: None)
    for backoff in (-1, [], "5", [1, -1]):
        with pytest.raises(InvalidArgument):
            sync.task(name="other", backoff=backoff)(send)
