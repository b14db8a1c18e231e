"""Tenants take turns: within a queue nobody's jobs keep those of another waiting."""

from __future__ import annotations

from collections import Counter
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgsync import Limit
from pgsync.cli.main import cli
from pgsync.errors import InvalidArgument
from tests.kernel.by_hand import claim, complete, enqueue, state

pytestmark = pytest.mark.core


def add(database: Any, tenant: str | None, jobs: int, **options: Any) -> None:
    """Enqueue jobs of one tenant."""
    database.execute(
        "SELECT pgsync.add_jobs('work', array_fill('{}'::jsonb, ARRAY[%(jobs)s]), %(queue)s,"
        " %(priority)s, tenants => array_fill(%(tenant)s::text, ARRAY[%(jobs)s]))",
        {"jobs": jobs, "tenant": tenant, "queue": "default", "priority": 0, **options},
    )


def claim_of(session: Any, worker: int, batch: int, queue: str = "default") -> Counter[str]:
    """How many jobs of which tenant a claim takes."""
    jobs = claim(session, worker, batch, [queue])
    rows = session.execute("SELECT tenant FROM pgsync.job_running WHERE id = ANY (%s)", [jobs])
    return Counter(row[0] for row in rows)


def drain_of(session: Any, worker: int, claims: int, batch: int) -> Counter[str]:
    taken: Counter[str] = Counter()
    for _ in range(claims):
        taken += claim_of(session, worker, batch)
    return taken


def test_ten_jobs_of_one_are_not_behind_ten_thousand_of_another(
    database: Any, new_worker: Any
) -> None:
    session, worker = new_worker()
    add(database, "big", 10_000)
    add(database, "small", 10)
    assert claim_of(session, worker, 8) == {"big": 4, "small": 4}
    assert drain_of(session, worker, 12, batch=1) == {"big": 6, "small": 6}
    assert claim_of(session, worker, 100) == {"big": 100}


def test_the_jobs_of_one_tenant_keep_their_order(database: Any, new_worker: Any) -> None:
    session, worker = new_worker()
    usual = [enqueue(database, tenant="a") for _ in range(2)]
    urgent = enqueue(database, tenant="a", priority=-1)
    other = enqueue(database, tenant="b")
    assert sorted(claim(session, worker, batch=2)) == [urgent, other]
    assert claim(session, worker) == usual


def test_each_has_its_share_by_weight_while_all_have_jobs(database: Any, new_worker: Any) -> None:
    session, worker = new_worker()

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        weights=st.lists(st.integers(1, 5), min_size=2, max_size=5),
        batches=st.lists(st.integers(1, 40), min_size=1, max_size=25),
    )
    def shares(weights: list[int], batches: list[int]) -> None:
        database.execute("TRUNCATE pgsync.job_ready, pgsync.job_running, pgsync.tenant_weight")
        session.execute("RESET pgsync.turns")
        names = [f"t{number}" for number in range(len(weights))]
        for name, weight in zip(names, weights, strict=True):
            database.execute("SELECT pgsync.weigh_tenant('default', %s, %s)", [name, weight])
            add(database, name, sum(batches))
        taken: Counter[str] = Counter()
        for batch in batches:
            taken += claim_of(session, worker, batch)
            turns = [taken[name] / weight for name, weight in zip(names, weights, strict=True)]
            # Nobody is ahead of another by more than a turn.
            assert max(turns) - min(turns) <= 1
        assert sum(taken.values()) == sum(batches)

    shares()


def test_several_workers_are_fair_together(database: Any, new_worker: Any) -> None:
    workers = [new_worker() for _ in range(4)]
    add(database, "big", 3_000)
    for number in range(3):
        add(database, f"t{number}", 300)
    taken: Counter[str] = Counter()
    for _ in range(20):
        for session, worker in workers:
            taken += claim_of(session, worker, 7)
    assert max(taken.values()) - min(taken.values()) <= len(workers)


def test_what_one_has_not_is_the_others(
    database: Any, face: Any, dsn: str, new_worker: Any
) -> None:
    session, worker = new_worker()
    for tenant, jobs in (("a", 2), ("b", 1), ("c", 50), ("d", 50)):
        add(database, tenant, jobs)
    assert claim_of(session, worker, 23) == {"a": 2, "b": 1, "c": 10, "d": 10}
    face.weigh_tenant("default", "d", 3)
    assert claim_of(session, worker, 16) == {"c": 4, "d": 12}
    runner = CliRunner()
    weigh = ["queues", "weigh", "--dsn", dsn, "default", "d"]
    assert runner.invoke(cli, [*weigh, "1"]).output == "default: d has 1 a turn\n"
    assert claim_of(session, worker, 16) == {"c": 8, "d": 8}


def test_jobs_without_a_tenant_do_not_starve(database: Any, new_worker: Any) -> None:
    session, worker = new_worker()
    add(database, "a", 60)
    nobodys = enqueue(database)
    add(database, "b", 200)
    assert nobodys in claim(session, worker, batch=1)
    # Whoever has no tenant is in the order of all.
    late = enqueue(database)
    for _ in range(20):
        claim(session, worker, batch=10)
    assert state(database, late) == ("running", 1)


def test_tenants_are_within_limits_keys_and_turns_of_queues(
    database: Any, face: Any, new_worker: Any
) -> None:
    session, worker = new_worker()
    face.limit_queue("default", max_running=6, max_starts=Limit(8, per=3600))
    add(database, "a", 50)
    add(database, "b", 50)
    assert claim_of(session, worker, 100) == {"a": 3, "b": 3}
    jobs = [row[0] for row in database.execute("SELECT id FROM pgsync.job_running")]
    complete(session, worker, *((job, 1) for job in jobs))
    assert claim_of(session, worker, 100) == {"a": 1, "b": 1}
    face.limit_queue("default", max_running_per_key=1)
    keyed = [enqueue(database, "other", tenant=t, key="k", key_limit=1) for t in "ab"]
    assert claim(session, worker, queues=["other"]) == keyed[:1]
    assert state(database, keyed[1]) == ("waiting", 0)


def test_a_claim_reads_as_many_jobs_as_it_takes_however_many_others_wait(
    database: Any, new_worker: Any
) -> None:
    session, worker = new_worker()
    # Planned while the table is empty, and executed when it is not.
    for _ in range(8):
        assert claim_of(session, worker, 10) == {}
    add(database, "big", 20_000)
    add(database, "small", 20)
    entries = (
        "SELECT sum(pg_stat_get_xact_tuples_returned(c.oid)) FROM pg_class AS c"
        " WHERE c.oid IN (SELECT indexrelid FROM pg_index"
        "                 WHERE indrelid = 'pgsync.job_ready'::regclass)"
    )
    with session.transaction():
        before = session.execute(entries).fetchone()[0]
        assert claim_of(session, worker, 10) == {"big": 5, "small": 5}
        assert session.execute(entries).fetchone()[0] - before < 300


def test_a_task_declares_whose_its_jobs_are(face: Any, database: Any) -> None:
    @face.task(name="work", tenant="workspace:{workspace}")
    def work(workspace: int) -> None: ...

    work.enqueue(workspace=7)
    work.enqueue_many([{"workspace": 8}])
    work.options(tenant="mine").enqueue(workspace=1)
    rows = database.execute("SELECT tenant FROM pgsync.job_ready ORDER BY id").fetchall()
    assert rows == [("workspace:7",), ("workspace:8",), ("mine",)]
    with pytest.raises(InvalidArgument, match=r"the tenant '.no.' needs"):
        face.task(name="wrong", tenant="{no}")(lambda: None).enqueue()
    with pytest.raises((InvalidArgument, psycopg.Error), match="from 1 to 100"):
        face.weigh_tenant("default", "a", 0)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="tenants must have one element"):
        database.execute("SELECT pgsync.add_jobs('work', ARRAY['{}'::jsonb], tenants => '{a,b}')")
