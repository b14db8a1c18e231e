"""Any order of what may happen to jobs leaves each in one place, and its attempts within bounds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.eventually import eventually
from tests.kernel.by_hand import claim, complete, enqueue, fail, state
from tests.kernel.conftest import Clock

pytestmark = pytest.mark.core

_TABLES = ("job_ready", "job_scheduled", "job_waiting", "job_running", "job_finished")
_LIMITS = {"one": 1, "two": 2}
_PICK = st.integers(0, 10)
_WHO = st.integers(0, 1)


_ATTEMPTS = " UNION ALL ".join(
    f"SELECT id, attempt, max_attempts, errors FROM pgsync.{table}" for table in _TABLES
)
_SLOTS = " UNION ALL ".join(
    f"SELECT key, 1 AS taken, 0 AS waiting FROM pgsync.{table} WHERE key_slot"
    for table in ("job_ready", "job_scheduled", "job_running", "job_waiting")
)
_LAWS = {
    "attempts are bounded": f"""
        SELECT * FROM ({_ATTEMPTS}) AS j
        WHERE attempt NOT BETWEEN 0 AND max_attempts
           OR jsonb_array_length(coalesce(errors, '[]')) > attempt""",
    "a unique key is held by its unfinished job": """
        WITH held AS (SELECT key, job_id FROM pgsync.job_unique),
        living AS (SELECT unique_key, id FROM pgsync.jobs WHERE unique_key IS NOT NULL)
        (TABLE held EXCEPT ALL TABLE living) UNION ALL (TABLE living EXCEPT ALL TABLE held)""",
    "no more of a key run than may": """
        SELECT key, count(*) FROM pgsync.job_running WHERE key IS NOT NULL
        GROUP BY key HAVING count(*) > CASE key WHEN 'two' THEN 2 ELSE 1 END""",
    "slots are counted by those who have them": f"""
        WITH counted AS (
            SELECT key, taken::bigint, waiting::bigint FROM pgsync.job_key WHERE taken + waiting > 0
        ), had AS (
            SELECT key, sum(taken), sum(waiting) FROM ({_SLOTS} UNION ALL
            SELECT key, 0, 1 FROM pgsync.job_waiting WHERE waits_for = 'key') AS h GROUP BY key)
        (TABLE counted EXCEPT ALL TABLE had) UNION ALL (TABLE had EXCEPT ALL TABLE counted)""",
    "places of the queue are counted by those who have them": """
        SELECT FROM (SELECT coalesce(sum(taken), 0) AS taken FROM pgsync.queue_slots) AS q
        WHERE taken <> (SELECT count(*) FROM pgsync.job_running WHERE queue_slot)""",
    # Ordered jobs wait for one before them that was retried by hand, and is ready.
    "nobody waits for a slot that is free": """
        SELECT k.key FROM pgsync.job_key AS k WHERE k.waiting > 0 AND k.taken = 0
            AND NOT EXISTS (SELECT FROM pgsync.job_ready AS r WHERE r.key = k.key)""",
    "one job has a lock": """
        SELECT r.lock_name FROM pgsync.job_running AS r JOIN pgsync.lock_holder AS h
            ON h.token = r.lock_token AND h.expires_at > pgsync.clock()
        GROUP BY r.lock_name HAVING count(*) > 1""",
}
"""Each is a statement that finds what breaks it."""

_WAITING_FOR_A_FREE_LOCK = """
    SELECT DISTINCT lock_name FROM pgsync.job_waiting WHERE waits_for = 'lock'
        AND NOT lock_name = ANY (ARRAY(
            SELECT lock_name FROM pgsync.job_running WHERE lock_name IS NOT NULL
            UNION SELECT lock_name FROM pgsync.job_ready WHERE lock_name IS NOT NULL))
"""


def _running(database: Any) -> int:
    count: int = database.execute("SELECT count(*) FROM pgsync.job_running").fetchone()[0]
    return count


def machine(database: Any, clock: Clock, new_worker: Any) -> type[RuleBasedStateMachine]:
    """The state machine over a database and two workers, each registered anew when it died."""
    workers = [new_worker(), new_worker()]
    outsider, _ = new_worker()

    class Jobs(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            database.execute(
                "TRUNCATE pgsync.job_ready, pgsync.job_scheduled, pgsync.job_running,"
                " pgsync.job_finished, pgsync.job_unique, pgsync.queue, pgsync.job_waiting,"
                " pgsync.job_key, pgsync.queue_slots, pgsync.job_untold_discard,"
                " pgsync.lock_holder"
            )
            outsider.execute("SELECT pg_advisory_unlock_all()")
            self.held: dict[str, int] = {}
            self.paused = False
            self.most: int | None = None
            self.acknowledged: list[int] = []
            self.claimed: list[tuple[int, int, int]] = []
            self.completed: dict[int, int] = {}

        @rule(key=st.sampled_from([None, "a", "b"]), most=st.integers(1, 2))
        def enqueue(self, key: str | None, most: int) -> None:
            job = enqueue(database, unique_key=key, max_attempts=most)
            if job not in self.acknowledged:
                self.acknowledged.append(job)

        @rule(key=st.sampled_from([*_LIMITS, "in order"]), most=st.integers(1, 2))
        def enqueue_with_key(self, key: str, most: int) -> None:
            limit = {"key_limit": _LIMITS[key]} if key in _LIMITS else {"ordered": True}
            job = enqueue(database, key=key, max_attempts=most, **limit)
            self.acknowledged.append(job)

        @rule(lock=st.sampled_from(["x", "y"]), key=st.sampled_from([None, "one", "in order"]))
        def enqueue_with_lock(self, lock: str, key: str | None) -> None:
            limit: dict[str, Any] = {"key": key} if key else {}
            limit |= {"key_limit": 1} if key == "one" else {"ordered": key == "in order"}
            self.acknowledged.append(enqueue(database, lock_name=lock, **limit))

        @rule(lock=st.sampled_from(["x", "y"]))
        def take_or_release(self, lock: str) -> None:
            if lock in self.held:
                outsider.execute("SELECT pgsync.unlock(%s, %s)", [lock, self.held.pop(lock)])
                return
            token = outsider.execute(
                "SELECT token FROM pgsync.try_lock(%s, '10000 days')", [lock]
            ).fetchone()[0]
            if token is not None:
                self.held[lock] = token

        @rule(most=st.sampled_from([None, 1, 2]))
        def limit(self, most: int | None) -> None:
            database.execute("SELECT pgsync.limit_queue('default', %s::integer)", [most])
            self.most = most

        @rule()
        def resume(self) -> None:
            database.execute("SELECT pgsync.resume_waiting_jobs()")

        @rule(who=_WHO, batch=st.integers(1, 3))
        def claim(self, who: int, batch: int) -> None:
            before = _running(database)
            claimed = claim(*workers[who], batch)
            assert not (self.paused and claimed)
            # A limit that was lowered ends nothing, but lets nothing in.
            assert not claimed or self.most is None or _running(database) <= max(self.most, before)
            for job in claimed:
                attempt = database.execute(
                    "SELECT attempt::int FROM pgsync.job_running WHERE id = %s", [job]
                ).fetchone()[0]
                self.claimed.append((workers[who][1], job, attempt))
                lock = database.execute(
                    "SELECT lock_name FROM pgsync.job_running WHERE id = %s", [job]
                ).fetchone()[0]
                assert lock not in self.held

        def runs(self, worker: int, job: int, attempt: int) -> bool:
            """Whether it is that attempt of that worker which runs."""
            rows = database.execute(
                "SELECT worker, attempt::int FROM pgsync.job_running WHERE id = %s", [job]
            )
            return rows.fetchall() == [(worker, attempt)]

        @rule(pick=_PICK, who=st.sampled_from([None, 0, 1]))
        def complete(self, pick: int, who: int | None) -> None:
            if self.claimed:
                worker, job, attempt = self.claimed[-1 - pick % len(self.claimed)]
                worker = worker if who is None else workers[who][1]
                expected = [job] if self.runs(worker, job, attempt) else []
                assert complete(database, worker, (job, attempt)) == expected
                for accepted in expected:
                    self.completed[accepted] = self.completed.get(accepted, 0) + 1

        @rule(pick=_PICK, again=st.booleans())
        def fail(self, pick: int, again: bool) -> None:
            if self.claimed:
                attempt = self.claimed[-1 - pick % len(self.claimed)]
                expected = self.runs(*attempt)
                answer = fail(database, *attempt, retry_in=0 if again else None)
                assert (answer is not None) is expected

        @rule(pick=_PICK)
        def release(self, pick: int) -> None:
            if self.claimed:
                attempt = self.claimed[-1 - pick % len(self.claimed)]
                expected = self.runs(*attempt)
                answer = database.execute(
                    "SELECT pgsync.release_job(%s, %s, %s, '0')", attempt
                ).fetchone()[0]
                assert (answer is not None) is expected

        @rule(pick=_PICK, verb=st.sampled_from(["cancel_job", "discard_job"]))
        def end(self, pick: int, verb: str) -> None:
            if self.acknowledged:
                job = self.acknowledged[-1 - pick % len(self.acknowledged)]
                database.execute(f"SELECT pgsync.{verb}(%s)", [job])

        @rule(pick=_PICK)
        def retry(self, pick: int) -> None:
            if self.acknowledged:
                job = self.acknowledged[-1 - pick % len(self.acknowledged)]
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
            self.paused = pause

        @rule(who=_WHO)
        def give_back(self, who: int) -> None:
            database.execute("SELECT pgsync.give_back_jobs(%s, NULL)", [workers[who][1]])

        @rule(who=_WHO, silent=st.booleans())
        def rescue(self, who: int, silent: bool) -> None:
            session, worker = workers[who]
            other = workers[1 - who]
            had = database.execute(
                "SELECT id, attempt >= max_attempts, cancel_requested_at IS NOT NULL"
                " FROM pgsync.job_running WHERE worker = %s",
                [worker],
            ).fetchall()
            if silent:
                clock.move(61)
                other[0].execute("SELECT FROM pgsync.worker_heartbeat(%s, false)", [other[1]])
            else:
                session.close()
            known = "SELECT FROM pgsync.worker WHERE id = %s"

            def forgotten() -> bool:
                database.execute("SELECT pgsync.rescue_jobs()")
                return database.execute(known, [worker]).fetchone() is None

            eventually(forgotten)
            session.close()
            workers[who] = new_worker()
            for job, spent, cancelled in had:
                expected = "cancelled" if cancelled else "discarded" if spent else "available"
                assert state(database, job)[0] == expected
                told = "SELECT FROM pgsync.job_untold_discard WHERE job = %s"
                untold = database.execute(told, [job]).fetchone() is not None
                assert untold is (expected == "discarded")

        @rule()
        def prune(self) -> None:
            """Days go by, and what ended before them is forgotten."""
            ended = {row[0] for row in database.execute("SELECT id FROM pgsync.job_finished")}
            clock.move(9 * 86_400)
            for session, worker in workers:
                session.execute("SELECT FROM pgsync.worker_heartbeat(%s, false)", [worker])
            database.execute("SELECT pgsync.prune_history()")
            self.acknowledged = [job for job in self.acknowledged if job not in ended]

        @invariant()
        def the_laws_hold(self) -> None:
            place = " UNION ALL ".join(f"SELECT id FROM pgsync.{table}" for table in _TABLES)
            with database.pipeline():  # one round trip for all of them
                found = database.execute(f"{place} ORDER BY id")
                waiting = database.execute(_WAITING_FOR_A_FREE_LOCK)
                broken = {law: database.execute(statement) for law, statement in _LAWS.items()}
            assert [job for (job,) in found] == sorted(self.acknowledged)
            assert {lock for (lock,) in waiting} <= set(self.held)
            for law, cursor in broken.items():
                assert cursor.fetchall() == [], law
            assert set(self.completed.values()) <= {1}

    return Jobs


def test_every_job_is_in_one_place_whatever_happens(
    database: Any, clock: Clock, new_worker: Any
) -> None:
    run_state_machine_as_test(
        machine(database, clock, new_worker),
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
