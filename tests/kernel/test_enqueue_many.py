"""Enqueuing by thousands: what comes out is what went in, in its order, or nothing of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from pgsync import AsyncCoordinator, Coordinator, InvalidArgument
from pgsync.queues.copying import CHUNK
from tests.eventually import eventually
from tests.kernel.conftest import Clock

pytestmark = pytest.mark.core

_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(_TEXT, inner),
    max_leaves=10,
)


def send(n: int, text: Any = None) -> None:
    """A handler that no test runs."""


def count(database: Any) -> int:
    return int(database.execute("SELECT count(*) FROM pgsync.job_ready").fetchone()[0])


def test_what_is_copied_is_what_was_given(face: Any, database: Any) -> None:
    task = face.task(name="se\tnd\\n", queue="ma\\il\t\nbox", priority=-7, max_attempts=3)(send)
    texts = ["\\N", "\\.", "tab\t", "line\nbreak\r", 'quote"', "\\u0041", "\u00e9\U0001f600", ""]
    texts += ["\\u0000", '",\\', "pgsync:next"]
    many = [{"n": n, "text": texts[n % len(texts)]} for n in range(200)]
    ids = task.enqueue_many(many)
    rows = database.execute(
        "SELECT id, args, task, queue, priority, attempt, max_attempts, created_at = run_at,"
        " created_at BETWEEN now() - interval '1 minute' AND now(), batch, unique_key, key"
        " FROM pgsync.job_ready ORDER BY position"
    ).fetchall()
    same = ("se\tnd\\n", "ma\\il\t\nbox", -7, 0, 3, True, True, None, None, None)
    assert rows == [(job_id, args, *same) for job_id, args in zip(ids, many, strict=True)]


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(_JSON, min_size=1, max_size=8))
def test_any_json_comes_through(sync: Coordinator, database: Any, values: list[Any]) -> None:
    name = f"send{len(list(sync.tasks))}"
    task = sync.task(name=name)(send)
    many = [{"n": n, "text": values[n % len(values)]} for n in range(100)]
    task.enqueue_many(many)
    copied = database.execute(
        "SELECT args FROM pgsync.job_ready WHERE task = %s ORDER BY position", [name]
    ).fetchall()
    for n, (args,) in enumerate(copied):
        alone = database.execute("SELECT %s::text::jsonb", [json.dumps(many[n])])
        assert args == alone.fetchone()[0]


def test_arguments_that_may_be_too_long_are_judged_by_the_server(face: Any, database: Any) -> None:
    task = face.task()(send)
    long = {"n": 1, "text": "x" * 300_000}
    ids = task.enqueue_many([long, *({"n": n} for n in range(150))])
    assert len(ids) == count(database) == 151
    numbers = {"n": 1, "text": [1e300] * 4_000}  # 24 kB here, 1.2 MB when written out
    with pytest.raises(InvalidArgument, match="at most 1 MB"):
        task.enqueue_many([numbers, *({"n": n} for n in range(150))])
    assert count(database) == 151


def test_any_number_of_jobs_keep_their_order(face: Any, database: Any) -> None:
    task = face.task()(send)
    for size in (0, 1, 99, 100, 250, 999, 1_000, 1_001, CHUNK, CHUNK + 1):
        database.execute("TRUNCATE pgsync.job_ready")
        ids = task.enqueue_many({"n": n} for n in range(size))
        rows = "SELECT id, (args ->> 'n')::integer FROM pgsync.job_ready ORDER BY position"
        assert database.execute(rows).fetchall() == [(ids[n], n) for n in range(size)]
        assert len(ids) == size


def test_ids_are_those_of_the_jobs_where_others_draw_some_meanwhile(
    face: Any, database: Any
) -> None:
    task = face.task()(send)
    others: list[int] = []

    def drawn() -> int:
        return int(database.execute("SELECT last_value FROM pgsync.job_id").fetchone()[0])

    def source() -> Iterator[dict[str, Any]]:
        before = drawn()
        for n in range(2_500):
            if n == 2_200:  # A half of the first thousand is on its way.
                eventually(lambda: drawn() > before + 100)
                others.append(database.execute("SELECT pgsync.enqueue('send')").fetchone()[0])
            yield {"n": n}

    ids = task.enqueue_many(source())
    assert ids[0] < others[0] < ids[999]
    rows = "SELECT id FROM pgsync.job_ready WHERE args ? 'n' ORDER BY position"
    assert [job_id for (job_id,) in database.execute(rows)] == ids


def test_jobs_are_copied_at_the_time_of_a_clock_that_a_test_has_set(
    face: Any, database: Any, clock: Clock
) -> None:
    clock.move(3_600)
    ids = face.task()(send).enqueue_many({"n": n} for n in range(200))
    rows = "SELECT array_agg(id ORDER BY position), created_at, run_at FROM pgsync.job_ready"
    told = database.execute(f"{rows} GROUP BY created_at, run_at").fetchall()
    assert told == [(ids, clock.now, clock.now)]


_LOOP: list[Any] = []
_LOOP.append(_LOOP)


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"n": 1, "m": 2},
        {1: 2},
        {"n": float("nan")},
        {"n": {1, 2}},
        {"n": "\0"},
        {"n": ["\\\0"]},
        {"n": "\ud800"},
        {"n": _LOOP},
        {"n": "x" * (1 << 20)},
        ["n"],
        None,
    ],
    ids=lambda bad: repr(bad)[:20],
)
def test_a_bad_job_among_many_is_refused_as_one_alone_and_nothing_is_added(
    face: Any, database: Any, bad: Any
) -> None:
    task = face.task()(send)
    with pytest.raises(InvalidArgument) as alone:
        task.enqueue_many([bad])
    for place in (150, 1_200):
        many: list[Any] = [{"n": n} for n in range(1_500)]
        many[place] = bad
        with pytest.raises(InvalidArgument) as among_many:
            task.enqueue_many(many)
        assert str(among_many.value) == str(alone.value)
    assert count(database) == 0


def test_jobs_with_other_names_of_arguments_are_judged_each(face: Any, database: Any) -> None:
    task = face.task()(send)
    kinds: list[dict[str, Any]] = [{"n": 1}, {"text": "a", "n": 2}, Args(3), {"n": 4, "text": None}]
    many = [kinds[n % 4] for n in range(200)]
    task.enqueue_many(many)
    rows = database.execute("SELECT args FROM pgsync.job_ready ORDER BY position").fetchall()
    assert [args for (args,) in rows] == many


def test_options_that_cannot_work_are_refused_in_bulk_too(face: Any, database: Any) -> None:
    task = face.task()(send)
    for changes in ({"queue": "q" * 2_000}, {"priority": 40_000}, {"max_attempts": 0}):
        with pytest.raises(InvalidArgument):
            task.options(**changes).enqueue_many([{"n": n} for n in range(200)])
    assert count(database) == 0


class Args(dict[str, Any]):
    """Arguments that are counted while they live."""

    alive = 0
    most = 0

    def __init__(self, n: int) -> None:
        super().__init__(n=n)
        Args.alive += 1
        Args.most = max(Args.most, Args.alive)

    def __del__(self) -> None:
        Args.alive -= 1


def test_a_generator_is_read_in_parts(face: Any, database: Any) -> None:
    Args.alive = Args.most = 0
    ids = face.task()(send).enqueue_many(Args(n) for n in range(5 * CHUNK))
    assert len(set(ids)) == count(database) == 5 * CHUNK
    assert Args.most <= 3 * CHUNK  # what is sent, and what is prepared meanwhile


def test_a_refused_part_leaves_the_callers_transaction_usable(
    sync: Coordinator, database: Any
) -> None:
    task = sync.task()(send)
    with database.transaction():
        with pytest.raises(InvalidArgument, match="missing a required argument"):
            task.enqueue_many([{"n": n} for n in range(CHUNK)] + [{}] * 200, within=database)
        task.enqueue(n=-1, within=database)
    assert count(database) == CHUNK + 1


def test_many_jobs_within_a_connection_in_autocommit_mode_are_all_added_or_none(
    sync: Coordinator, database: Any, dsn: str
) -> None:
    task = sync.task()(send)
    good, bad = [{"n": n} for n in range(CHUNK + 1)], [{"n": n} for n in range(CHUNK)] + [{}] * 200
    with pytest.raises(InvalidArgument):
        task.enqueue_many(bad, within=database)
    assert count(database) == 0
    assert len(task.enqueue_many(good, within=database)) == count(database) == CHUNK + 1

    async def enqueue() -> None:
        async with (
            AsyncCoordinator(dsn) as coordinator,
            await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection,
        ):
            task = coordinator.task()(send)
            with pytest.raises(InvalidArgument):
                await task.enqueue_many(bad, within=connection)
            await task.enqueue_many(good, within=connection)

    asyncio.run(enqueue())
    assert count(database) == 2 * (CHUNK + 1)


def test_arguments_may_come_from_the_transaction_that_the_jobs_go_in(
    sync: Coordinator, database: Any
) -> None:
    def source() -> Iterator[dict[str, Any]]:
        for n in range(1_500):
            yield {"n": n if n % 100 else database.execute("SELECT %s", [n]).fetchone()[0]}

    with database.transaction():
        ids = sync.task()(send).enqueue_many(source(), within=database)
    assert len(ids) == count(database) == 1_500


def test_a_batch_of_hundreds_counts_each_job_once(face: Any, database: Any) -> None:
    task = face.task()(send)
    batch = face.batch("many", (task.job(n=n) for n in range(300)))
    assert len(batch.jobs) == 300
    state = face.batch_state(batch.id)
    assert (state.total, state.unfinished, state.state) == (300, 300, "running")
    rows = database.execute("SELECT DISTINCT batch FROM pgsync.job_ready").fetchall()
    assert rows == [(batch.id,)]


MANY = [{"n": n} for n in range(200)]


URL = "postgresql+psycopg://"


def test_many_jobs_within_a_sqlalchemy_session_or_connection(
    sync: Coordinator, database: Any, dsn: str
) -> None:
    task = sync.task()(send)
    engine = create_engine(URL, creator=lambda: psycopg.connect(dsn), poolclass=NullPool)
    with Session(engine) as session:
        task.enqueue_many(MANY, within=session)
        session.rollback()
        with session.begin_nested() as savepoint:
            task.enqueue_many(MANY, within=session)
            savepoint.rollback()
        task.enqueue_many(MANY, within=session)
        assert count(database) == 0
        session.commit()
    with engine.connect() as connection:
        task.enqueue_many(MANY, within=connection)
        connection.rollback()
        sync.batch("within", [task.job(n=n) for n in range(200)], within=connection)
        connection.commit()
    engine.dispose()
    assert count(database) == 400


def test_many_jobs_within_an_async_session_or_connection(database: Any, dsn: str) -> None:
    async def enqueue() -> None:
        engine = create_async_engine(
            URL, async_creator=lambda: psycopg.AsyncConnection.connect(dsn), poolclass=NullPool
        )
        async with AsyncCoordinator(dsn) as coordinator:
            task = coordinator.task()(send)
            async with AsyncSession(engine) as session:
                await task.enqueue_many(MANY, within=session)
                await session.rollback()
                await task.enqueue_many(MANY, within=session)
                await session.commit()
            async with engine.connect() as connection:
                await task.enqueue_many(MANY, within=connection)
                await connection.rollback()
                jobs = [task.job(n=n) for n in range(200)]
                await coordinator.batch("within", jobs, within=connection)
                await connection.commit()
        await engine.dispose()

    asyncio.run(enqueue())
    assert count(database) == 400
