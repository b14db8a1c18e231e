"""Claims stay flat while a snapshot is held open, and floors never hide a job."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.errors import InvalidTransactionState

from pgsync.database.embedded import EmbeddedServer
from pgsync.database.migrations import migrate
from tests.eventually import eventually

pytestmark = pytest.mark.core

_ALWAYS = "SELECT pgsync.advance_floors(dead_rows => -1, gain => 1)"
_CLAIM_ENTRIES = "SELECT pg_stat_get_xact_tuples_returned('pgsync.job_ready_claim'::regclass)"
_DUE_ENTRIES = "SELECT pg_stat_get_xact_tuples_returned('pgsync.job_scheduled_due'::regclass)"
_FLOORS = "SELECT queue, priority, resumed, position FROM pgsync.queue_floor ORDER BY 1, 2, 3"


class Queue:
    """A worker by hand, on a session of its own."""

    def __init__(self, dsn: str) -> None:
        self.session = psycopg.connect(dsn, autocommit=True)
        self.worker = self._one("SELECT pgsync.register_worker('w', 'h', 1, '0', '{*}', 1)")

    def _one(self, statement: Any, *values: Any) -> Any:
        row = self.session.execute(statement, values).fetchone()
        assert row is not None
        return row[0]

    def add(self, count: int, queue: str = "default", priority: int = 0) -> list[int]:
        """Enqueue so many jobs in one transaction."""
        ids: list[int] = self._one(
            "SELECT pgsync.add_jobs('t', array_fill('{}'::jsonb, ARRAY[%s]), %s, %s)",
            count, queue, priority,
        )  # fmt: skip
        return ids

    def claim(self, batch: int, queues: str = "{*}") -> list[tuple[int, int]]:
        """Claim; ids and attempts."""
        return self.session.execute(
            "SELECT id, attempt FROM pgsync.claim_jobs(%s, %s, %s)", [self.worker, queues, batch]
        ).fetchall()

    def complete(self, jobs: list[tuple[int, int]]) -> None:
        """Record that claimed jobs are done."""
        ids, attempts = [job[0] for job in jobs], [job[1] for job in jobs]
        done = self._one(
            "SELECT pgsync.complete_jobs(%s, %s, %s, %s)",
            self.worker, ids, attempts, [None] * len(jobs),
        )  # fmt: skip
        assert sorted(done) == sorted(ids)

    def entries_of_a_claim(self) -> int:
        """How many entries of the claim's index a claim of ten walks."""
        with self.session.transaction():
            before = self.count(_CLAIM_ENTRIES)
            assert len(self.claim(10)) == 10
            return self.count(_CLAIM_ENTRIES) - before

    def count(self, statement: Any) -> int:
        """The number that a statement returns."""
        return int(self._one(statement))


@pytest.fixture
def queue(dsn: str) -> Iterator[Queue]:
    """A worker on the test's database."""
    worker = Queue(dsn)
    with worker.session:
        yield worker


@pytest.fixture
def duty(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """The session that moves the floors."""
    with psycopg.connect(dsn, autocommit=True) as session:
        yield session


@pytest.fixture
def snapshot(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A snapshot that is held open, as by a dump or a report."""
    with psycopg.connect(dsn) as session:
        session.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        session.execute("SELECT count(*) FROM pgsync.job_ready")
        yield session


def advance(duty: psycopg.Connection[Any], times: int = 3) -> int:
    """Call the duty, and return its last answer."""
    for _ in range(times):
        row = duty.execute(_ALWAYS).fetchone()
        assert row is not None
    return int(row[0])


@pytest.mark.usefixtures("snapshot")
def test_a_claim_under_a_held_snapshot_walks_few_dead_entries(
    queue: Queue, duty: psycopg.Connection[Any]
) -> None:
    def pass_through(count: int) -> None:
        for _ in range(count // 1000):
            queue.add(1000)
            queue.complete(queue.claim(1000))

    queue.add(100)
    pass_through(20_000)
    assert queue.entries_of_a_claim() > 20_000  # what it is without floors
    advance(duty)
    queue.complete(queue.claim(1))  # notes the queue
    advance(duty)
    assert queue.entries_of_a_claim() < 1_100
    for _ in range(5):
        pass_through(4_000)
        advance(duty)
    assert queue.entries_of_a_claim() < 1_100
    # A queue that is drained costs nothing either, named or found.
    while queue.claim(1000):
        pass
    advance(duty)
    assert queue.count("SELECT count(*) FROM pgsync.ready_queues()") == 0
    for queues in ("{*}", "{default}"):
        with queue.session.transaction():
            before = queue.count(_CLAIM_ENTRIES)
            assert queue.claim(10, queues) == []
            assert queue.count(_CLAIM_ENTRIES) - before < 1_100


@pytest.mark.usefixtures("snapshot")
def test_a_promotion_under_a_held_snapshot_walks_few_dead_entries(
    queue: Queue, duty: psycopg.Connection[Any]
) -> None:
    queue.session.execute(
        "INSERT INTO pgsync.job_scheduled (id, queue, task, args, priority, attempt, max_attempts,"
        " created_at, run_at, state)"
        " SELECT nextval('pgsync.job_id'), 'default', 't', '{}', 0, 0, 5, now(),"
        " now() - interval '1 minute', 'scheduled' FROM generate_series(1, 5000)"
    )
    moved = queue.session.execute("SELECT pgsync.promote_due_jobs(5000)").fetchone()
    assert moved == (5000,)

    def entries() -> int:
        with queue.session.transaction():
            before = queue.count(_DUE_ENTRIES)
            queue.session.execute("SELECT pgsync.promote_due_jobs()")
            return queue.count(_DUE_ENTRIES) - before

    assert entries() >= 5000
    advance(duty)
    assert entries() == 0
    # The next scheduled job is above the floor, and comes when it is due.
    queue.session.execute("SELECT pgsync.add_jobs('t', '{\"{}\"}', delay => '1 millisecond')")
    queue.session.execute("SELECT pg_sleep(0.01)")
    assert queue.session.execute("SELECT pgsync.promote_due_jobs()").fetchone() == (1,)


def test_floors_are_kept_only_while_they_pay(queue: Queue, duty: psycopg.Connection[Any]) -> None:
    queue.add(10)
    queue.claim(5)
    assert duty.execute("SELECT pgsync.advance_floors()").fetchone() == (0,)
    assert duty.execute(_FLOORS).fetchall() == []
    assert advance(duty) == 1
    queue.claim(2)
    assert advance(duty) == 2
    assert duty.execute(_FLOORS).fetchall() == [("default", 0, False, 8)]
    assert duty.execute("SELECT pgsync.advance_floors()").fetchone() == (0,)
    assert duty.execute(_FLOORS).fetchall() == []
    assert len(queue.claim(10)) == 3


def test_floors_need_new_snapshots(duty: psycopg.Connection[Any]) -> None:
    duty.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with pytest.raises(InvalidTransactionState, match="read committed"), duty.transaction():
        duty.execute(_ALWAYS)


@pytest.mark.usefixtures("snapshot")
def test_a_floor_waits_for_those_who_may_yet_commit_below(
    queue: Queue, dsn: str, duty: psycopg.Connection[Any]
) -> None:
    advance(duty, 1)
    queue.add(3)
    queue.claim(1)
    with psycopg.connect(dsn) as writer:
        row = writer.execute("SELECT pgsync.enqueue('late')").fetchone()
        assert row is not None
        queue.add(3)
        assert len(queue.claim(5)) == 5
        advance(duty, 5)
        assert duty.execute(_FLOORS).fetchall() == [("default", 0, False, 0)]
        writer.commit()
    advance(duty)
    assert duty.execute(_FLOORS).fetchall() == [("default", 0, False, 4)]
    assert queue.claim(5) == [(row[0], 1)]
    advance(duty)
    assert duty.execute(_FLOORS).fetchall() == [("default", 0, False, 8)]


def test_a_prepared_transaction_holds_back_the_floor(tmp_path: Path) -> None:
    settings = {"fsync": "off", "max_prepared_transactions": "5"}
    with EmbeddedServer(tmp_path / "server", settings=settings) as server, ExitStack() as stack:
        migrate(server.dsn)
        queue = Queue(server.dsn)
        duty, writer = (
            stack.enter_context(psycopg.connect(server.dsn, autocommit=True)) for _ in range(2)
        )
        advance(duty, 1)
        queue.add(1)
        queue.claim(1)
        writer.execute("BEGIN")
        writer.execute("SELECT pgsync.enqueue('late')")
        advance(duty)  # its lock is its session's still
        writer.execute("PREPARE TRANSACTION 'late'")
        advance(duty, 5)
        assert duty.execute(_FLOORS).fetchall() == [("default", 0, False, 0)]
        writer.execute("COMMIT PREPARED 'late'")
        advance(duty)
        assert duty.execute(_FLOORS).fetchall() == [("default", 0, False, 2)]
        assert len(queue.claim(1)) == 1
        queue.session.close()


def test_wrong_floors_are_removed(queue: Queue, duty: psycopg.Connection[Any]) -> None:
    queue.add(2)
    advance(duty, 1)
    duty.execute("INSERT INTO pgsync.queue_floor VALUES ('default', 0, false, 2)")
    duty.execute("INSERT INTO pgsync.queue_floor VALUES ('other', 0, false, 2)")
    assert duty.execute("SELECT pgsync.check_floors()").fetchone() == (1,)
    assert duty.execute(_FLOORS).fetchall() == [("other", 0, False, 2)]
    # A sequence that was set back: such a floor is above what was ever drawn.
    duty.execute("INSERT INTO pgsync.queue_floor VALUES ('default', 0, false, 100)")
    advance(duty)
    assert ("default", 0, False, 100) not in duty.execute(_FLOORS).fetchall()
    assert len(queue.claim(5)) == 2
    queue.session.execute("SELECT pgsync.add_jobs('t', '{\"{}\"}', delay => '1 minute')")
    duty.execute("UPDATE pgsync.floors_kept SET due_from = now() + interval '1 hour'")
    assert duty.execute("SELECT pgsync.check_floors()").fetchone() == (1,)
    assert duty.execute("SELECT pgsync.check_floors()").fetchone() == (0,)


@pytest.mark.usefixtures("snapshot")
@pytest.mark.parametrize("seed", range(3))
def test_no_job_is_ever_hidden(dsn: str, seed: int) -> None:
    stop = threading.Event()
    committed: set[int] = set()
    claimed: list[int] = []
    wrong: list[Any] = []
    errors: list[BaseException] = []

    def write(chance: random.Random) -> None:
        """Transactions that draw positions, and commit or roll back later, in any order."""
        with ExitStack() as stack:
            sessions = [stack.enter_context(psycopg.connect(dsn)) for _ in range(4)]
            open_ids: list[list[int]] = [[] for _ in sessions]
            for _ in range(600):
                turn = chance.randrange(len(sessions))
                session = sessions[turn]
                if open_ids[turn] and chance.random() < 0.6:
                    if chance.random() < 0.2:
                        session.rollback()
                    else:
                        session.commit()
                        committed.update(open_ids[turn])
                    open_ids[turn] = []
                    continue
                where = [chance.choice(("a", "b")), chance.choice((-1, 0, 5))]
                if chance.random() < 0.7:
                    row = session.execute(
                        "SELECT pgsync.add_jobs('t', array_fill('{}'::jsonb, ARRAY[3]), %s, %s)",
                        where,
                    ).fetchone()
                else:
                    row = session.execute(
                        "WITH back AS (INSERT INTO pgsync.job_ready (id, queue, task, args,"
                        " priority, attempt, max_attempts, created_at, run_at, position)"
                        " VALUES (nextval('pgsync.job_id'), %s, 't', '{}', %s, 0, 5, now(), now(),"
                        " nextval('pgsync.job_resumed_position')) RETURNING id)"
                        " SELECT array_agg(id) FROM back",
                        where,
                    ).fetchone()
                assert row is not None
                open_ids[turn] += row[0]
            for session, ids in zip(sessions, open_ids, strict=True):
                session.commit()
                committed.update(ids)

    def claim(chance: random.Random) -> None:
        """Claims, of which some are rolled back."""
        queue = Queue(dsn)
        while not stop.is_set():
            with queue.session.transaction() as transaction:
                jobs = queue.claim(chance.choice((1, 5, 20)), chance.choice(("{*}", "{b,a}")))
                if chance.random() < 0.2:
                    raise psycopg.Rollback(transaction)
                claimed.extend(job[0] for job in jobs)
        queue.session.close()

    def move(_chance: random.Random) -> None:
        """The duty, and the check that no floor hides a job."""
        with psycopg.connect(dsn, autocommit=True) as session:
            while not stop.is_set():
                session.execute(_ALWAYS)
                row = session.execute("SELECT pgsync.check_floors()").fetchone()
                if row != (0,):
                    wrong.append(row)

    def run(work: Any, number: int) -> None:
        try:
            work(random.Random(f"{seed}/{number}"))
        except BaseException as error:  # noqa: BLE001 - told to the test, which fails
            errors.append(error)
            stop.set()

    works = [write, write, claim, claim, move, move]
    threads = [threading.Thread(target=run, args=(w, n)) for n, w in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads[:2]:
        thread.join(60)
    with psycopg.connect(dsn, autocommit=True) as session:
        moved = "SELECT FROM pgsync.queue_floor WHERE moves > 0"
        eventually(lambda: errors or session.execute(moved).fetchone() is not None)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert wrong == []
    queue = Queue(dsn)
    while jobs := queue.claim(100):
        claimed.extend(job[0] for job in jobs)
    queue.session.close()
    assert sorted(claimed) == sorted(committed)
