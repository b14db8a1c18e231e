"""No floor hides a job, whoever of writers, claims and duties makes the next step."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, LiteralString

import psycopg
import pytest

from tests.kernel.steps import Stage, stop_at_rows, stop_between_statements

pytestmark = pytest.mark.core

_REGISTER: LiteralString = "SELECT pgsync.register_worker('w', 'h', 1, '0', '{*}', 1)"
_REPLACE = (
    "SELECT pgsync.replace_job(id, '{priority}', '{}', NULL, 5 - priority, 5)"
    " FROM pgsync.job_ready LIMIT 1"
)
_DUTY = ("advance_floors", "begin_floor_probe", "floor_probe_ended", "move_queue_floors")
# As pgsync.check_floors, which would wait for those who hold a floor that it wants to remove.
_HIDDEN = (
    "SELECT EXISTS (SELECT FROM pgsync.queue_floor AS f JOIN pgsync.job_ready AS r"
    " USING (queue, priority) WHERE f.resumed = (r.position < 0) AND r.position < f.position)"
    " OR EXISTS (SELECT FROM pgsync.job_scheduled AS s WHERE s.run_at < pgsync.due_floor())"
)


def writes(chance: random.Random) -> Iterator[str]:
    """Transactions that make jobs claimable, in each way that draws their positions."""
    while True:
        yield "BEGIN"
        for _ in range(chance.choice((1, 1, 2))):
            back = chance.random() < 0.2
            if back:
                yield "SAVEPOINT back"
            place = f"'t', '{{}}', 'a', {chance.choice((0, 0, 0, 5))}"
            many = place.replace("'{}'", "array_fill('{}'::jsonb, ARRAY[2])")
            yield chance.choice(
                (
                    f"SELECT pgsync.add_jobs({many})",
                    f"SELECT pgsync.add_numbered_job(nextval('pgsync.job_id'), {place}, 5)",
                    f"SELECT pgsync.enqueue({place}, delay => '1 hour')",
                    "SELECT pgsync.retry_job(min(id)) FROM pgsync.job_scheduled",
                    _REPLACE,
                )
            )
            if back:
                yield "ROLLBACK TO back"
        yield chance.choice(("COMMIT", "COMMIT", "ROLLBACK"))


def claims(chance: random.Random, worker: int) -> Iterator[str]:
    """Claims, and the ways in which what was claimed goes to the end or comes back."""
    ends = (
        f"SELECT pgsync.give_back_jobs({worker}, NULL)",
        f"SELECT pgsync.give_back_jobs({worker}, 'the worker died')",
        f"SELECT pgsync.release_job({worker}, min(id), 1, '1 hour') FROM pgsync.job_running",
    )
    complete = (
        f"SELECT pgsync.complete_jobs({worker}, array_agg(id), array_agg(attempt),"
        f" array_agg(NULL::jsonb)) FROM pgsync.job_running WHERE worker = {worker}"
    )
    while True:
        yield "BEGIN"
        yield f"SELECT FROM pgsync.claim_jobs({worker}, '{{*}}', {chance.choice((1, 100, 100))})"
        yield chance.choice((*ends, complete, complete, complete, complete))
        yield chance.choice(("COMMIT", "COMMIT", "COMMIT", "ROLLBACK"))


def duties() -> Iterator[str]:
    """The duty: each call moves all floors as far as they may go."""
    while True:
        yield "SELECT pgsync.advance_floors(dead_rows => -1, gain => -1000000)"


class History:
    """Two writers, a worker and two duties, whose steps a seed orders."""

    def __init__(self, dsn: str, stage: Stage) -> None:
        self.database = psycopg.connect(dsn, autocommit=True)
        self._stage = stage
        self._steppers = [stage.stepper() for _ in range(5)]
        self._worker = self._one(self._steppers[2].connection, _REGISTER)
        stop_between_statements(self.database, _DUTY)
        stop_at_rows(self.database, "job_ready")

    def _one(self, session: psycopg.Connection[Any], statement: LiteralString) -> int:
        row = session.execute(statement).fetchone()
        assert row is not None
        return int(row[0])

    def hides(self, seed: int, steps: int = 150) -> bool:
        """Make a history, and look after each step; whether a floor has hidden a job."""
        chance = random.Random(seed)
        claiming = partial(claims, chance, self._worker)
        writing = partial(writes, chance)
        works: list[Callable[[], Iterator[str]]] = [writing, writing, claiming, duties, duties]
        work_of = dict(zip(self._steppers, works, strict=True))
        next_of = {stepper: work() for stepper, work in work_of.items()}
        # Some are much slower than others: they stand still, in the middle of something, for long.
        speeds = {stepper: chance.choice((1, 4, 16)) for stepper in self._steppers}
        going = self._steppers[0]
        for _ in range(steps):
            ready = self._stage.ready()
            if going not in ready or chance.random() < 0.08:
                (going,) = chance.choices(ready, [speeds[s] for s in ready])
            if going.busy:
                self._stage.go_on(going)
            elif going.deadlocked:
                next_of[going] = work_of[going]()
                self._stage.ask(going, "ROLLBACK")
            else:
                self._stage.ask(going, next(next_of[going]))
            if self._one(self.database, _HIDDEN):
                return True
        self._finish()
        return bool(self._one(self.database, _HIDDEN))

    @property
    def floors_moved(self) -> bool:
        """Whether a floor was moved at all."""
        return bool(self._one(self.database, "SELECT sum(moves) > 0 FROM pgsync.queue_floor"))

    def claim_all(self) -> None:
        """Claim as long as a claim finds something."""
        worker = self._one(self.database, _REGISTER)
        claim = "SELECT FROM pgsync.claim_jobs(%s, '{*}', 100)"
        while self.database.execute(claim, [worker]).fetchall():
            pass

    def _finish(self) -> None:
        """Let all come to the end of their transactions."""
        while any(stepper.busy or stepper.in_transaction for stepper in self._steppers):
            unfinished = [s for s in self._stage.ready() if s.busy or s.in_transaction]
            if not unfinished:  # One was seen waiting that has got by now what it waited for.
                self._stage.look_again()
            elif unfinished[0].busy:
                self._stage.go_on(unfinished[0])
            else:
                self._stage.ask(unfinished[0], "COMMIT")


@pytest.fixture
def history(dsn: str) -> Iterator[History]:
    """Histories on the test's database."""
    with Stage(dsn) as stage:
        made = History(dsn, stage)
        with made.database:
            yield made


def test_no_step_hides_a_job(history: History) -> None:
    for seed in range(10):
        assert not history.hides(seed), f"in the history of seed {seed}"
    assert history.floors_moved
    history.claim_all()
    assert history.database.execute("SELECT FROM pgsync.job_ready").fetchall() == []
