"""What a daemon tells of itself: health pages, metrics, and its row among the workers."""

from __future__ import annotations

import asyncio
import os
import queue
import socket
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgsync import Coordinator, InvalidArgument, Limit, LockLost
from pgsync.coordinator import WorkerOptions
from pgsync.counts import counted
from pgsync.daemon import HealthPage, run_until_signalled
from pgsync.daemon.health import HealthServer
from pgsync.daemon.vitals import Vitals
from tests.eventually import eventually
from tests.health_page import Page, free_port
from tests.relay import Relay

pytestmark = pytest.mark.core


@contextmanager
def serving(sync: Coordinator, dsn: str | None = None, **options: Any) -> Iterator[Page]:
    """A daemon of the coordinator in a thread of its own, with its health page.

    That asks the coordinator's database, or ``dsn``.
    """
    page = HealthPage("127.0.0.1", free_port(), dsn or sync.direct_dsn)
    told: queue.Queue[Callable[[], object]] = queue.Queue()

    async def run() -> None:
        daemon = sync._new_daemon(WorkerOptions(**options), drain=False, scheduler=True)
        loop = asyncio.get_running_loop()
        told.put(lambda: loop.call_soon_threadsafe(daemon.stop))
        await run_until_signalled(daemon, page)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    stop = told.get(timeout=20)
    try:
        yield Page(page.port)
    finally:
        stop()
        thread.join()


def test_a_daemon_is_ready_once_it_is_known_and_tells_its_figures(
    sync: Coordinator, database: Any
) -> None:
    limiter = sync.limiter("graph", Limit(1, per=60))
    work = sync.task(name="work", queue="q")(lambda: limiter.hit("one").allowed)
    work.enqueue_many([{}, {}, {}])
    with serving(sync, queues=["q"]) as page:
        eventually(lambda: page.get("/readyz") == (200, "ok\n"))
        assert page.get("/livez") == page.get("/healthz") == (200, "ok\n")
        assert page.get("/elsewhere")[0] == 404
        ended = "SELECT count(*) FROM pgsync.job_history"
        eventually(lambda: database.execute(ended).fetchone() == (3,))
        # As the maintenance does it, some seconds later.
        database.execute(
            "UPDATE pgsync.job_finished SET finished_at = finished_at - interval '20 s',"
            " started_at = started_at - interval '20 s', run_at = run_at - interval '20 s'"
        )
        database.execute("UPDATE pgsync.throughput_mark SET counted_until = now() - interval '1 h'")
        database.execute("SELECT pgsync.enqueue('work', queue => 'other')")
        database.execute("SELECT pgsync.count_throughput(), pgsync.snapshot_queues()")
        name = ("pgsync_jobs_finished_total", "completed", "q", "work")
        samples = eventually(lambda: name in (now := page.samples()) and now)
        assert samples[name] == 3
        assert samples["pgsync_job_wait_seconds_count", "q", "work"] == 3
        assert samples["pgsync_queue_jobs", "other", "available"] == 1
        assert samples["pgsync_workers", "scheduler"] == 1
        assert samples["pgsync_listen_connected",] == 1
        assert samples["pgsync_up",] == 1
        # Counters of the process begin with it, and other tests count here too.
        assert samples["pgsync_limit_decisions_total", "graph", "allowed"] >= 1
        assert samples["pgsync_limit_decisions_total", "graph", "denied"] >= 2
        for gauge in (
            "pgsync_jobs_rescued_total",
            "pgsync_lock_lost_total",
            "pgsync_schedule_lag_seconds",
            "pgsync_notify_queue_usage_ratio",
            "pgsync_oldest_xmin_seconds",
        ):
            assert samples[gauge,] >= 0
        assert ("pgsync_table_dead_ratio", "job_ready") in samples
        assert "one" not in page.get("/metrics")[1].split()


def test_without_its_database_a_daemon_lives_and_is_not_ready(sync: Coordinator, dsn: str) -> None:
    with Relay(make_conninfo(dsn)) as relay:
        away = Coordinator(relay.dsn)
        with away, serving(away) as page:
            eventually(lambda: page.get("/readyz")[0] == 200)
            relay.__exit__(None, None, None)
            _status, why = eventually(lambda: (answer := page.get("/readyz"))[0] == 503 and answer)
            assert "database" in why
            assert page.get("/livez")[0] == 200
            # What it knows of itself it still tells.
            samples = page.samples()
            assert samples["pgsync_up",] == 0
            assert ("pgsync_lock_lost_total",) in samples
            assert eventually(lambda: page.samples()["pgsync_listen_connected",] == 0)


def test_a_worker_without_its_session_is_not_ready_though_the_database_answers(dsn: str) -> None:
    with Relay(make_conninfo(dsn)) as relay:
        cut_off = Coordinator(relay.dsn)
        with cut_off, serving(cut_off, dsn) as page:
            eventually(lambda: page.get("/readyz")[0] == 200)
            relay.__exit__(None, None, None)
            eventually(lambda: "no connection to the database" in page.get("/readyz")[1])
            assert page.samples()["pgsync_up",] == 1


def test_an_event_loop_that_stands_still_is_no_life(dsn: str) -> None:
    page = HealthServer("127.0.0.1", 0, dsn, lambda: Vitals(None), lambda: 61.0)
    with page:
        status, why = Page(page.port).get("/livez")
    assert (status, "61 s" in why) == (503, True)


def test_a_port_that_is_taken_is_named(dsn: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidArgument, match=str(port)):
            HealthServer("127.0.0.1", port, dsn, lambda: Vitals(None), lambda: 0.0)


@pytest.mark.parametrize(
    ("only", "queues"),
    [(["scheduler"], []), (["scheduler", "maintenance"], []), (["worker"], ["default"])],
)
def test_a_daemon_can_be_a_part_of_one(
    sync: Coordinator, database: Any, only: list[str], queues: list[str]
) -> None:
    known = "SELECT kinds, queues, host, pid FROM pgsync.workers"
    with serving(sync, only=only) as page:
        eventually(lambda: page.get("/readyz")[0] == 200)
        assert database.execute(known).fetchone() == (
            only,
            queues,
            socket.gethostname(),
            os.getpid(),
        )
        names = "SELECT application_name FROM pg_stat_activity WHERE datname = current_database()"
        running = {name.split()[1] for (name,) in database.execute(names) if " " in name}
        eventually(
            lambda: (
                {name.split()[1] for (name,) in database.execute(names) if " " in name} >= set(only)
            )
        )
        assert ("scheduler" in running) <= ("scheduler" in only)
        assert ("maintenance" in running) <= ("maintenance" in only)
    assert database.execute(known).fetchone() is None


def test_a_part_that_there_is_not_is_refused(sync: Coordinator) -> None:
    for only in ("worker", [], ["cook"]):
        with pytest.raises(InvalidArgument, match="worker, scheduler, maintenance"):
            sync.run_worker(drain=True, only=only)


def test_a_lost_lock_is_counted(sync: Coordinator) -> None:
    metric = ("pgsync_lock_lost_total", ())
    before = counted()[metric]
    lost = threading.Event()
    with suppress(LockLost), sync.lock("brief", ttl=0.2, on_lost=lambda _reason: lost.set()):
        assert lost.wait(60)
    assert counted()[metric] == before + 1


def test_a_tree_is_as_well_as_its_worst_process_and_counts_what_ended() -> None:
    metric = ("pgsync_lock_lost_total", ())
    well = Vitals(None, True, Counter({metric: 1}))
    deaf = Vitals("it is told to stop", False, Counter({metric: 2}))
    tree = Vitals.of_all([well, deaf, Vitals(None)], Counter({metric: 4}))
    assert tree == Vitals("it is told to stop", False, Counter({metric: 7}))
    assert Vitals.of_all([well, Vitals(None)], Counter()) == well


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6 here")
def test_it_is_served_on_an_address_of_six(dsn: str) -> None:
    with HealthServer("::1", 0, dsn, lambda: Vitals(None), lambda: 0.0) as server:
        address = f"http://[::1]:{server.port}/livez"
        assert urllib.request.urlopen(address, timeout=20).read() == b"ok\n"


def test_rescued_jobs_are_counted(dsn: str, database: Any) -> None:
    database.execute("SELECT pgsync.enqueue('work')")
    with psycopg.connect(dsn, autocommit=True) as dying:
        worker = dying.execute(
            "SELECT pgsync.register_worker('w', 'h', 1, '0', ARRAY['default'], 1)"
        ).fetchone()[0]
        assert dying.execute(
            "SELECT pgsync.claim_jobs(%s, ARRAY['default'], 1)", [worker]
        ).fetchall()
    rescued = "SELECT value FROM pgsync.metrics WHERE metric = 'pgsync_jobs_rescued_total'"
    eventually(lambda: database.execute("SELECT pgsync.rescue_jobs()").fetchone() == (1,))
    assert database.execute(rescued).fetchone() == (1.0,)
