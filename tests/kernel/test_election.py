"""Leadership: one leads, another follows when it goes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from pgsync import AsyncCoordinator, Coordinator, InvalidArgument
from tests.eventually import eventually

pytestmark = pytest.mark.core


def test_one_of_many_leads_and_another_follows_it(new_face: Callable[[], Any]) -> None:
    told: list[tuple[int, str]] = []

    def stand(number: int) -> Any:
        return new_face().elect(
            "reports",
            retry=0.05,
            on_gain=lambda lock: told.append((number, f"gained {lock.token > 0}")),
            on_loss=lambda reason: told.append((number, reason)),
        )

    elections = [stand(number) for number in range(3)]
    for election in elections:
        election.start()
    eventually(lambda: sum(election.is_leader for election in elections) == 1)
    first = next(n for n, election in enumerate(elections) if election.is_leader)
    assert elections[first].wait(5)
    assert not elections[first - 1].wait(0.2)
    elections[first].stop()
    assert not elections[first].is_leader
    assert elections[first].lock is None
    eventually(lambda: sum(election.is_leader for election in elections) == 1)
    second = next(n for n, election in enumerate(elections) if election.is_leader)
    assert second != first
    for election in elections:
        election.stop()
    assert told[:3] == [
        (first, "gained True"),
        (first, "it stands no more"),
        (second, "gained True"),
    ]


def test_a_leader_that_is_killed_is_followed(sync: Coordinator, dsn: str) -> None:
    script = (
        "import sys, time\nfrom pgsync import Coordinator\n"
        "election = Coordinator(sys.argv[1]).elect('reports', ttl=3600)\n"
        "election.start()\nassert election.wait(60)\nprint('leads', flush=True)\ntime.sleep(60)\n"
    )
    leader = subprocess.Popen([sys.executable, "-c", script, dsn], stdout=subprocess.PIPE)
    assert leader.stdout is not None
    assert leader.stdout.readline() == b"leads\n"
    with sync.elect("reports", retry=0.1) as election:
        assert not election.wait(0.3)
        leader.kill()
        leader.communicate()
        assert election.wait(60)  # and not after its ttl


def test_a_leader_whose_session_ends_is_told_and_stands_again(
    new_face: Callable[[], Any], database: Any
) -> None:
    reasons: list[str] = []
    gains: list[int] = []
    with new_face().elect(
        "reports",
        retry=0.1,
        on_gain=lambda lock: gains.append(lock.token),
        on_loss=reasons.append,
    ) as election:
        assert election.wait(60)
        database.execute("SELECT pg_terminate_backend(pid) FROM pgsync.locks")
        eventually(lambda: len(gains) == 2)
        assert election.wait(60)
    assert gains[1] > gains[0]
    assert reasons == ["its database session ended", "it stands no more"]


def test_an_election_ends_with_its_coordinator(new_face: Callable[[], Any]) -> None:
    reasons: list[str] = []
    face, other = new_face(), new_face()
    election = face.elect("reports", on_loss=reasons.append)
    election.start()
    assert election.wait(60)
    face.close()
    eventually(lambda: reasons == ["it stands no more"])
    assert not election.is_leader
    with other.elect("reports", retry=0.1) as follower:
        assert follower.wait(60)
    election.stop()


def test_callbacks_that_raise_do_not_end_the_election(new_face: Callable[[], Any]) -> None:
    def fail(what: object) -> None:
        raise ZeroDivisionError(what)

    with new_face().elect("reports", on_gain=fail, on_loss=fail) as election:
        assert election.wait(60)
    with new_face().elect("reports") as election:
        assert election.wait(60)


def test_a_decorated_function_runs_where_this_process_leads(sync: Coordinator, dsn: str) -> None:
    leader, follower = sync.elect("reports"), Coordinator(dsn)
    ran: list[str] = []
    with leader, follower.elect("reports") as other:
        assert leader.wait(60) or other.wait(10)
        for name, election in (("leader", leader), ("other", other)):

            @election
            def report(name: str = name) -> str:
                ran.append(name)
                return name

            assert report() in (name, None)
    assert len(ran) == 1
    follower.close()


def test_coroutines_are_awaited_as_callbacks(dsn: str) -> None:
    async def scenario() -> list[str]:
        told: list[str] = []

        async def gained(lock: Any) -> None:
            await asyncio.sleep(0)
            told.append("gained")

        async def lost(reason: str) -> None:
            await asyncio.sleep(0)
            told.append(reason)

        async with (
            AsyncCoordinator(dsn) as sync,
            sync.elect("reports", on_gain=gained, on_loss=lost) as election,
        ):
            assert await election.wait(10)

            @election
            async def work() -> str:
                return "worked"

            told.append(str(await work()))
        return told

    assert asyncio.run(scenario()) == ["gained", "worked", "it stands no more"]


@pytest.mark.parametrize("retry", [0, -1, "often"])
def test_a_retry_that_cannot_be_is_refused(face: Any, retry: Any) -> None:
    with pytest.raises(InvalidArgument):
        face.elect("reports", retry=retry)


def test_an_election_outlives_a_database_that_is_away(dsn: str, database: Any) -> None:
    # Terminating every session of it over and over is as close as one database can come.
    with Coordinator(dsn) as sync, sync.elect("reports", retry=0.05) as election:
        assert election.wait(60)
        stop = threading.Event()
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            stop.wait(0.05)
        assert election.wait(60)
