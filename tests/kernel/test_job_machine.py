"""Any order of what may happen to jobs leaves each in one place, and its attempts within bounds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.kernel.test_jobs import claim, complete, enqueue, fail

pytestmark = pytest.mark.core

_TABLES = ("job_ready", "job_scheduled", "job_running", "job_finished")
_PICK = st.integers(0, 10)
_WHO = st.integers(0, 1)


def machine(database: Any, workers: list[tuple[Any, int]]) -> type[RuleBasedStateMachine]:
    """The state machine over a database and two registered workers."""

    class Jobs(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            database.execute(
                "TRUNCATE pgsync.job_ready, pgsync.job_scheduled, pgsync.job_running,"
                " pgsync.job_finished, pgsync.job_unique, pgsync.queue"
            )
            self.acknowledged: list[int] = []
            self.claimed: list[tuple[int, int, int]] = []
            self.completed: dict[int, int] = {}

        @rule(key=st.sampled_from([None, "a", "b"]), most=st.integers(1, 2))
        def enqueue(self, key: str | None, most: int) -> None:
            job = enqueue(database, unique_key=key, max_attempts=most)
            if job not in self.acknowledged:
                self.acknowledged.append(job)

        @rule(who=_WHO, batch=st.integers(1, 3))
        def claim(self, who: int, batch: int) -> None:
            for job in claim(*workers[who], batch):
                attempt = database.execute(
                    "SELECT attempt::int FROM pgsync.job_running WHERE id = %s", [job]
                ).fetchone()[0]
                self.claimed.append((who, job, attempt))

        @rule(pick=_PICK, who=_WHO)
        def complete(self, pick: int, who: int) -> None:
            if self.claimed:
                _, job, attempt = self.claimed[pick % len(self.claimed)]
                for accepted in complete(*workers[who], (job, attempt)):
                    self.completed[accepted] = self.completed.get(accepted, 0) + 1

        @rule(pick=_PICK, again=st.booleans())
        def fail(self, pick: int, again: bool) -> None:
            if self.claimed:
                who, job, attempt = self.claimed[pick % len(self.claimed)]
                fail(*workers[who], job, attempt, retry_in=0 if again else None)

        @rule(pick=_PICK)
        def release(self, pick: int) -> None:
            if self.claimed:
                who, job, attempt = self.claimed[pick % len(self.claimed)]
                session, worker = workers[who]
                session.execute(
                    "SELECT pgsync.release_job(%s, %s, %s, '0')", [worker, job, attempt]
                )

        @rule(pick=_PICK, verb=st.sampled_from(["cancel_job", "discard_job"]))
        def end(self, pick: int, verb: str) -> None:
            if self.acknowledged:
                job = self.acknowledged[pick % len(self.acknowledged)]
                database.execute(f"SELECT pgsync.{verb}(%s)", [job])

        @rule(pick=_PICK)
        def retry(self, pick: int) -> None:
            if self.acknowledged:
                job = self.acknowledged[pick % len(self.acknowledged)]
                blocked = database.execute(
                    "SELECT EXISTS (SELECT FROM pgsync.job_finished AS f JOIN pgsync.job_unique"
                    " AS u ON u.key = f.unique_key WHERE f.id = %s AND f.state <> 'completed')",
                    [job],
                ).fetchone()[0]
                if not blocked:
                    database.execute("SELECT pgsync.retry_job(%s)", [job])

        @rule(pause=st.booleans())
        def pause(self, pause: bool) -> None:
            verb = "pause" if pause else "resume"
            database.execute(f"SELECT pgsync.{verb}_queue('default')")

        @rule(who=_WHO, dead=st.booleans())
        def give_back(self, who: int, dead: bool) -> None:
            reason = "the worker died" if dead else None
            database.execute("SELECT pgsync.give_back_jobs(%s, %s)", [workers[who][1], reason])

        @invariant()
        def each_job_is_in_one_place(self) -> None:
            union = " UNION ALL ".join(f"SELECT id FROM pgsync.{table}" for table in _TABLES)
            found = [row[0] for row in database.execute(f"{union} ORDER BY id")]
            assert found == sorted(self.acknowledged)

        @invariant()
        def attempts_are_bounded(self) -> None:
            union = " UNION ALL ".join(
                f"SELECT attempt, max_attempts, errors FROM pgsync.{table}" for table in _TABLES
            )
            for attempt, most, errors in database.execute(union):
                assert 0 <= attempt <= most
                assert len(errors or []) <= attempt

        @invariant()
        def a_unique_key_is_held_by_its_unfinished_job(self) -> None:
            held = database.execute("SELECT key, job_id FROM pgsync.job_unique ORDER BY 1")
            living = database.execute(
                "SELECT unique_key, id FROM pgsync.jobs WHERE unique_key IS NOT NULL ORDER BY 1"
            )
            assert held.fetchall() == living.fetchall()

        @invariant()
        def a_completion_counts_once(self) -> None:
            assert set(self.completed.values()) <= {1}

    return Jobs


def test_every_job_is_in_one_place_whatever_happens(database: Any, new_worker: Any) -> None:
    workers = [new_worker(), new_worker()]
    run_state_machine_as_test(
        machine(database, workers),
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
