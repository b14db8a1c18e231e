"""A job is completed in its handler's own transaction: with its effects, or not at all."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from pgsync import Coordinator, InvalidArgument, JobLost, current_job
from tests.eventually import eventually
from tests.kernel.by_hand import claim, enqueue, state

pytestmark = pytest.mark.core

_NOTE = "INSERT INTO effect VALUES (1)"


@pytest.fixture(autouse=True)
def _effects(database: Any) -> None:
    database.execute("CREATE TABLE effect (n integer)")


def effects(database: Any) -> int:
    count: int = database.execute("SELECT count(*) FROM effect").fetchone()[0]
    return count


def _psycopg(dsn: str) -> Any:
    def handler() -> None:
        with psycopg.connect(dsn) as connection:
            connection.execute(_NOTE)
            current_job().complete(within=connection, result={"by": "psycopg"})

    return handler


def _sqlalchemy(dsn: str) -> Any:
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))

    def handler() -> None:
        with Session(engine) as session, session.begin():
            session.execute(text(_NOTE))
            current_job().complete(within=session, result={"by": "sqlalchemy"})
        engine.dispose()

    return handler


def _psycopg_async(dsn: str) -> Any:
    async def handler() -> None:
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            await connection.execute(_NOTE)
            await current_job().complete_async(within=connection, result={"by": "psycopg_async"})

    return handler


def _sqlalchemy_async(dsn: str) -> Any:
    async def handler() -> None:
        engine = create_async_engine(
            "postgresql+psycopg://", async_creator=lambda: psycopg.AsyncConnection.connect(dsn)
        )
        async with AsyncSession(engine) as session, session.begin():
            await session.execute(text(_NOTE))
            await current_job().complete_async(within=session, result={"by": "sqlalchemy_async"})
        await engine.dispose()

    return handler


@pytest.mark.parametrize("kind", [_psycopg, _sqlalchemy, _psycopg_async, _sqlalchemy_async])
def test_effect_and_completion_commit_together(
    face: Any, database: Any, dsn: str, kind: Any
) -> None:
    job = face.task(name="work")(kind(dsn)).enqueue()
    report = face.run_worker(drain=True)
    assert (report.completed, report.late) == (1, 0)
    found = face.job(job.id)
    assert (found.state, found.result) == ("completed", {"by": kind.__name__[1:]})
    assert effects(database) == 1


def test_a_transaction_that_is_rolled_back_leaves_the_job_to_run_again(
    sync: Coordinator, database: Any, dsn: str
) -> None:
    @sync.task(backoff=0)
    def work() -> None:
        with psycopg.connect(dsn) as connection:
            connection.execute(_NOTE)
            current_job().complete(within=connection)
            if current_job().attempt == 1:
                raise RuntimeError("after the completion, before the commit")

    job = work.enqueue()
    report = sync.run_worker(drain=True)
    assert (report.completed, report.retryable, report.late) == (1, 1, 0)
    assert effects(database) == 1
    assert state(database, job.id) == ("completed", 2)


def test_a_handler_that_fails_after_the_commit_has_completed(
    sync: Coordinator, database: Any, dsn: str
) -> None:
    @sync.task(backoff=0)
    def work() -> None:
        with psycopg.connect(dsn) as connection:
            connection.execute(_NOTE)
            current_job().complete(within=connection)
        raise RuntimeError("after the commit")

    work.enqueue()
    report = sync.run_worker(drain=True)
    assert (report.completed, report.retryable, report.late) == (1, 0, 0)
    assert effects(database) == 1


def test_an_attempt_that_was_given_up_is_told_and_its_effects_roll_back(
    sync: Coordinator, database: Any, dsn: str
) -> None:
    told: list[JobLost] = []

    @sync.task()
    def work() -> None:
        with psycopg.connect(dsn) as connection:
            connection.execute(_NOTE)
            job = current_job()
            if job.attempt == 1:
                database.execute(
                    "SELECT pgsync.give_back_jobs(%s, 'given up', %s)", [job.worker, [job.id]]
                )
            try:
                job.complete(within=connection)
            except JobLost as error:
                told.append(error)
                raise

    work.enqueue()
    report = sync.run_worker(drain=True)
    assert (report.completed, report.late) == (1, 1)
    assert "roll this transaction back" in str(told[0])
    assert effects(database) == 1


@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("how", ["dies", "ends in order"])
def test_an_open_transaction_holds_up_neither_rescue_nor_the_other_jobs(
    database: Any, dsn: str, new_worker: Any, end: str, how: str
) -> None:
    session, worker = new_worker()
    own, other = enqueue(database), enqueue(database)
    assert claim(session, worker) == [own, other]
    database.execute("SET statement_timeout = '5 s'")
    handler = psycopg.connect(dsn)
    assert handler.execute("SELECT pgsync.complete_job(%s, %s, 1)", [worker, own]).fetchone() == (
        True,
    )
    if how == "dies":
        session.close()
        rescue = "SELECT pgsync.rescue_jobs('1 day')"
        eventually(lambda: database.execute(rescue).fetchone()[0] == 1)
    else:
        assert session.execute("SELECT pgsync.unregister_worker(%s)", [worker]).fetchone() == (1,)
    assert state(database, other)[0] == "available"
    assert state(database, own) == ("running", 1)
    with pytest.raises(psycopg.ProgrammingError, match="is not registered"):
        claim(database, worker)
    getattr(handler, end)()
    handler.close()
    rescued = database.execute("SELECT pgsync.rescue_jobs('1 day')").fetchone()[0]
    assert (rescued, state(database, own)[0]) == (
        (0, "completed") if end == "commit" else (1, "available")
    )
    assert database.execute("SELECT count(*) FROM pgsync.worker").fetchone() == (0,)


def test_a_result_that_json_cannot_say_is_refused_before_the_completion(
    sync: Coordinator, database: Any, dsn: str
) -> None:
    @sync.task(max_attempts=1)
    def work() -> None:
        with psycopg.connect(dsn) as connection:
            connection.execute(_NOTE)
            with pytest.raises(InvalidArgument):
                current_job().complete(within=connection, result=object())
            with pytest.raises(InvalidArgument):
                current_job().complete(within=object())

    work.enqueue()
    assert sync.run_worker(drain=True).completed == 1
    assert effects(database) == 1
