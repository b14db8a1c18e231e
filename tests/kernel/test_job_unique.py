"""Unique jobs: by key or arguments, for a time, in states; the second is left out or replaces."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgsync import Unique
from pgsync.errors import InvalidArgument
from tests.kernel.by_hand import claim, complete, enqueue, fail, state
from tests.kernel.conftest import Clock
from tests.threads import at_once

pytestmark = pytest.mark.core

_WAITING = ["scheduled", "available"]


def declare(face: Any, unique: Unique | bool, **options: Any) -> Any:
    """A task that is unique in a way."""

    @face.task(name="work", unique=unique, **options)
    def work(user: int, why: str = "") -> None: ...

    return work


def test_of_equal_arguments_one_job_waits_at_a_time(face: Any, database: Any) -> None:
    work = declare(face, unique=True)
    first = work.enqueue(user=1, why="a")
    assert first.added
    again = work.enqueue(why="a", user=1)
    assert (again.id, again.added, again.replaced) == (first.id, False, False)
    assert work.enqueue(user=1, why="b").added
    assert work.options(unique=Unique(["user"])).enqueue(user=1, why="c").added


def test_only_the_named_arguments_are_compared(face: Any) -> None:
    work = declare(face, Unique(["user"]))
    first = work.enqueue(user=1, why="a")
    assert work.enqueue(user=1, why="b").id == first.id
    assert work.enqueue(user=2, why="a").added


def test_another_task_with_the_same_arguments_is_another_job(face: Any) -> None:
    work = declare(face, unique=True)
    other = face.task(name="other", unique=True)(lambda user: None)
    assert work.enqueue(user=1).added
    assert other.enqueue(user=1).added


def test_a_period_ends_before_the_job_does(face: Any, clock: Clock) -> None:
    work = declare(face, Unique(period=60))
    first = work.enqueue(user=1)
    clock.move(59)
    assert work.enqueue(user=1).id == first.id
    clock.move(1)
    assert work.enqueue(user=1).added


def test_in_its_states_a_job_keeps_its_key_also_after_its_end(
    face: Any, database: Any, new_worker: Any, clock: Clock
) -> None:
    session, worker = new_worker()
    states = [*_WAITING, "running", "retryable", "completed"]
    work = declare(face, Unique(period=60, states=states))
    first = work.enqueue(user=1)
    assert claim(session, worker) == [first.id]
    complete(session, worker, (first.id, 1))
    assert work.enqueue(user=1).id == first.id
    # Discarded is none of them, and frees the key.
    second = work.enqueue(user=2)
    assert claim(session, worker) == [second.id]
    fail(session, worker, second.id, 1, retry_in=None)
    assert work.enqueue(user=2).added
    clock.move(60)
    assert database.execute("SELECT pgsync.prune_unique_keys()").fetchone() == (1,)
    assert work.enqueue(user=1).added


def test_a_job_that_is_unique_while_it_waits_is_followed_by_one_more(
    face: Any, new_worker: Any
) -> None:
    session, worker = new_worker()
    work = declare(face, Unique(states=_WAITING))
    first = work.enqueue(user=1)
    assert claim(session, worker) == [first.id]
    second = work.enqueue(user=1)
    assert second.added
    assert work.enqueue(user=1).id == second.id
    # The end of the first leaves the key to the second.
    complete(session, worker, (first.id, 1))
    assert work.enqueue(user=1).id == second.id


def test_a_second_job_replaces_what_it_is_asked_to(
    face: Any, database: Any, new_worker: Any, clock: Clock
) -> None:
    session, worker = new_worker()
    work = declare(face, Unique(["user"], replace=["args", "run_at"]))
    first = work.enqueue(user=1, why="old")
    for delay in (60, 90):
        again = work.options(delay=delay).enqueue(user=1, why=f"new {delay}")
        assert (again.id, again.added, again.replaced) == (first.id, False, True)
        row = database.execute("SELECT args ->> 'why', run_at FROM pgsync.jobs").fetchone()
        assert row == (f"new {delay}", clock.now + timedelta(seconds=delay))
    assert work.enqueue(user=1, why="at once").replaced
    assert claim(session, worker) == [first.id]
    # One that runs is not changed any more.
    late = work.enqueue(user=1, why="late")
    assert (late.id, late.added, late.replaced) == (first.id, False, False)
    assert face.job(first.id).args == {"user": 1, "why": "at once"}


def test_a_replaced_priority_gives_another_place(face: Any, database: Any, new_worker: Any) -> None:
    session, worker = new_worker()
    work = declare(face, Unique(["user"], replace=["priority"]))
    jobs = [work.enqueue(user=user).id for user in (1, 2)]
    assert work.options(priority=-1).enqueue(user=2).replaced
    # In each priority positions only grow, which floors under the claim rely on.
    row = database.execute("SELECT max(position) FROM pgsync.job_ready WHERE id = %s", [jobs[1]])
    assert row.fetchone()[0] > 2
    assert claim(session, worker) == [jobs[1], jobs[0]]


def test_of_callers_at_once_one_adds_the_job(database: Any, dsn: str) -> None:
    answers: list[tuple[int, bool]] = []
    start = threading.Barrier(8)

    def add() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            start.wait(10)
            for number in range(20):
                row = connection.execute(
                    "SELECT id, added FROM pgsync.add_job('work', unique_key => %s)", [str(number)]
                ).fetchone()
                assert row is not None
                answers.append((row[0], row[1]))

    at_once([add] * 8)
    assert len(answers) == 160
    assert sum(added for _, added in answers) == len({job for job, _ in answers}) == 20


def test_an_open_transaction_that_takes_a_key_over_holds_up_no_completion(
    database: Any, dsn: str, new_worker: Any, clock: Clock
) -> None:
    session, worker = new_worker()
    first = enqueue(database, unique_key="k", unique_for=timedelta(seconds=60))
    assert claim(session, worker) == [first]
    clock.move(60)
    with psycopg.connect(dsn) as caller:
        second = enqueue(caller, unique_key="k")
        assert second != first
        session.execute("SET statement_timeout = '5 s'")
        assert complete(session, worker, (first, 1)) == [first]
    assert enqueue(database, unique_key="k") == second


def test_a_key_left_behind_by_a_job_that_ended_is_free(
    database: Any, dsn: str, new_worker: Any, clock: Clock
) -> None:
    session, worker = new_worker()
    first = enqueue(database, unique_key="k", unique_for=timedelta(seconds=60))
    assert claim(session, worker) == [first]
    clock.move(60)
    caller = psycopg.connect(dsn)
    enqueue(caller, unique_key="k")
    complete(session, worker, (first, 1))
    caller.rollback()
    caller.close()
    assert database.execute("SELECT job_id FROM pgsync.job_unique").fetchone() == (first,)
    assert enqueue(database, unique_key="k") != first


def test_a_retried_job_takes_its_key_again_or_is_refused(
    database: Any, face: Any, new_worker: Any
) -> None:
    session, worker = new_worker()
    work = declare(face, unique=True)
    first = work.enqueue(user=1).id
    face.cancel_job(first)
    second = work.enqueue(user=1).id
    with pytest.raises(psycopg.errors.UniqueViolation, match=f"another unfinished job, {second}"):
        database.execute("SELECT pgsync.retry_job(%s)", [first])
    assert state(database, first) == ("cancelled", 0)
    face.cancel_job(second)
    assert face.retry_job(first) == "available"
    assert work.enqueue(user=1).id == first
    assert claim(session, worker) == [first]


@pytest.mark.parametrize(
    "options",
    [
        {"by": []},
        {"by": "user"},
        {"states": ["scheduled"]},
        {"states": [*_WAITING, "asleep"]},
        {"states": [*_WAITING, "completed"]},
        {"replace": ["queue"]},
        {"period": -1},
    ],
)
def test_a_way_of_being_unique_that_cannot_work_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        Unique(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"unique_for": timedelta(0)},
        {"unique_states": ["scheduled"]},
        {"unique_states": [*_WAITING, "asleep"]},
        {"unique_states": [*_WAITING, "completed"]},
        {"replace": ["queue"]},
    ],
)
def test_the_server_refuses_it_too(database: Any, options: dict[str, Any]) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        enqueue(database, unique_key="k", **options)


def test_a_task_is_unique_by_arguments_that_it_has(face: Any) -> None:
    with pytest.raises(InvalidArgument, match="takes no argument 'team'"):
        declare(face, Unique(["team"]))
    work = declare(face, unique=True)
    with pytest.raises(InvalidArgument, match="one by one"):
        work.enqueue_many([{"user": 1}])
