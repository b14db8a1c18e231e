"""What a job costs the server, counted rather than timed, so that no machine's speed is in it.

The budgets leave little above what was counted, so that another index on the way of each job, a
second write of its row or a round trip for each turns them red. Where one has to grow, say in the
commit what it buys.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import psycopg
import pytest

from pgsync.daemon.worker import Worker
from pgsync.database.embedded import EmbeddedServer
from pgsync.database.migrations import migrate
from pgsync.queues import TaskDeclaration, TaskRegistry
from tests.eventually import eventually

pytestmark = pytest.mark.core

_JOBS = 1_000
_BATCH = 100
_ARGS = '{"n": 1, "to": "somebody@example.org"}'
# Nothing but the measured writes the log: others of the run share the usual server.
_SETTINGS = {
    "autovacuum": "off",
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "1h",
}
_WRITES = """
SELECT coalesce(sum(n_tup_ins), 0), coalesce(sum(n_tup_upd), 0), coalesce(sum(n_tup_del), 0)
FROM pg_stat_xact_user_tables WHERE schemaname = 'pgsync'
"""


@pytest.fixture(scope="module")
def quiet_dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that does nothing by itself."""
    folder = tmp_path_factory.mktemp("budgets") / "server"
    with EmbeddedServer(folder, settings=_SETTINGS) as server:
        migrate(server.dsn)
        yield server.dsn


@pytest.fixture
def session(quiet_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A session of the quiet server whose queues are empty."""
    with psycopg.connect(quiet_dsn, autocommit=True) as session:
        session.execute("TRUNCATE pgsync.job_ready, pgsync.job_running, pgsync.job_finished")
        yield session


@dataclass(frozen=True)
class Cost:
    """Bytes of the log, and rows written, for one of so many jobs."""

    wal: float
    inserted: float
    updated: float
    deleted: float


def counted(session: psycopg.Connection[Any], work: Callable[[], object]) -> Cost:
    """What some work on a session's jobs costs."""
    with session.transaction():
        before = _row(session, _WRITES)
        began = _row(session, "SELECT pg_current_wal_insert_lsn()")
        work()
        wal = _row(session, "SELECT pg_current_wal_insert_lsn() - %s::pg_lsn", *began)
        after = _row(session, _WRITES)
    writes = [float(now - then) / _JOBS for now, then in zip(after, before, strict=True)]
    return Cost(float(wal[0]) / _JOBS, *writes)


def _row(session: psycopg.Connection[Any], statement: Any, *values: Any) -> tuple[Any, ...]:
    row = session.execute(statement, values).fetchone()
    assert row is not None
    return row


class Jobs:
    """A worker by hand, and what it does to all jobs, in batches."""

    def __init__(self, session: psycopg.Connection[Any]) -> None:
        self._session = session
        self._worker = _row(
            session, "SELECT pgsync.register_worker('w', 'h', 1, '0', '{default}', 1)"
        )[0]
        self._claimed: list[tuple[int, int]] = []

    def add_one_by_one(self) -> None:
        for _ in range(_JOBS):
            self._session.execute("SELECT id FROM pgsync.add_job('t', %s)", [_ARGS])

    def add(self, **options: Any) -> None:
        self._session.execute(
            "SELECT pgsync.add_jobs('t', array_fill(%(args)s::jsonb, ARRAY[%(jobs)s]),"
            " keys => %(keys)s::text[], key_limit => %(key_limit)s)",
            {"args": _ARGS, "jobs": _JOBS, "keys": None, "key_limit": None, **options},
        )

    def claim(self) -> None:
        for _ in range(_JOBS // _BATCH):
            self._claimed += self._session.execute(
                "SELECT id, attempt FROM pgsync.claim_jobs(%s, '{default}', %s)",
                [self._worker, _BATCH],
            ).fetchall()
        assert len(self._claimed) == _JOBS

    def complete(self) -> None:
        for start in range(0, _JOBS, _BATCH):
            ids, attempts = zip(*self._claimed[start : start + _BATCH], strict=True)
            self._session.execute(
                "SELECT pgsync.complete_jobs(%s, %s, %s, array_fill(NULL::jsonb, ARRAY[%s]))",
                [self._worker, list(ids), list(attempts), _BATCH],
            )

    def fail(self) -> None:
        for job, attempt in self._claimed:
            self._session.execute(
                "SELECT pgsync.fail_job(%s, %s, %s, '{\"error\": \"no\"}', '1 hour')",
                [self._worker, job, attempt],
            )


def test_a_plain_job_is_written_three_times_and_updated_never(
    session: psycopg.Connection[Any],
) -> None:
    jobs = Jobs(session)
    _spend(counted(session, jobs.add), Cost(wal=345, inserted=1, updated=0, deleted=0))
    _spend(counted(session, jobs.claim), Cost(wal=380, inserted=1, updated=0, deleted=1))
    _spend(counted(session, jobs.complete), Cost(wal=405, inserted=1, updated=0, deleted=1))


def test_a_job_alone_costs_what_one_of_many_does(session: psycopg.Connection[Any]) -> None:
    jobs = Jobs(session)
    alone = counted(session, jobs.add_one_by_one)
    _spend(alone, Cost(wal=345, inserted=1, updated=0, deleted=0))


def test_a_job_of_a_limited_key_has_its_slot_updated(session: psycopg.Connection[Any]) -> None:
    jobs = Jobs(session)
    keys = [f"tenant:{number % _BATCH}" for number in range(_JOBS)]
    added = counted(session, lambda: jobs.add(keys=keys, key_limit=20))
    _spend(added, Cost(wal=450, inserted=1, updated=0, deleted=0))
    # Each batch has a job of each key, so each job has its key's row to itself.
    _spend(counted(session, jobs.claim), Cost(wal=1110, inserted=1.2, updated=2, deleted=1))
    _spend(counted(session, jobs.complete), Cost(wal=650, inserted=1, updated=1, deleted=1))


def test_a_failed_attempt_is_one_more_move(session: psycopg.Connection[Any]) -> None:
    jobs = Jobs(session)
    jobs.add()
    jobs.claim()
    _spend(counted(session, jobs.fail), Cost(wal=580, inserted=1, updated=0, deleted=1))


def test_a_worker_asks_once_for_many_jobs(session: psycopg.Connection[Any], quiet_dsn: str) -> None:
    tasks = TaskRegistry()

    async def noop(**_args: Any) -> None: ...

    tasks.add(TaskDeclaration.of(noop, {"name": "t"}))
    Jobs(session).add()
    before = _committed_by_others(session)
    report = asyncio.run(Worker(quiet_dsn, tasks, concurrency=_BATCH, drain=True).run())
    assert report.completed == _JOBS
    # A session's figures are there once it has ended, which takes the server a moment.
    eventually(lambda: _committed_by_others(session) > before + 2 * _JOBS // _BATCH - 5)
    assert _committed_by_others(session) - before < 0.06 * _JOBS


def _spend(cost: Cost, budget: Cost) -> None:
    spent, allowed = asdict(cost), asdict(budget)
    over = {name: figure for name, figure in spent.items() if figure > allowed[name]}
    assert not over, f"of {budget} {over} is spent"


def _committed_by_others(session: psycopg.Connection[Any]) -> int:
    counted = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    return int(_row(session, counted)[0])
