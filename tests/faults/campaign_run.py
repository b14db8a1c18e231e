"""One run of the campaigns' fault harness: a server, a stand-in, kills, and the verdict."""

from __future__ import annotations

import os
import random
import signal
import time
from functools import partial

from pgsync.database.embedded import EmbeddedServer
from pgsync.database.migrations import migrate
from pgsync.modules.whatsapp.standin import GraphStandin
from tests.eventually import eventually
from tests.faults.campaign_ledger import (
    CampaignSettings,
    check_campaign,
    platform_on,
    prepare_campaign,
    recipients,
    settle,
    states_of,
    under_way,
    work_off,
)
from tests.faults.campaign_worker import CampaignOrders
from tests.faults.crew import Crew
from tests.faults.report import Report, run_folder

__all__ = ["run"]

_UNDER_WAY = 16
"""Recipients that a dispatcher has claimed at most: what one kill may make unknown."""


def run(settings: CampaignSettings) -> Report:
    """Send a campaign while its workers are killed and the server restarts; settle it; check."""
    report = Report()
    with (
        run_folder(report) as folder,
        GraphStandin(token="faults", templates=0) as graph,
        # Durable, since it is shut down.
        EmbeddedServer(folder / "server") as server,
    ):
        migrate(server.dsn, modules=True)
        crew = Crew(
            "tests.faults.campaign_worker",
            CampaignOrders(dsn=server.dsn, graph_url=graph.url, seed=settings.seed),
            folder,
            settings.workers,
        )
        with platform_on(server.dsn, graph) as platform:
            campaign = prepare_campaign(platform, graph, settings)
            claimed: set[str] = set()
            began = time.monotonic()
            try:
                for place in range(crew.count):
                    crew.start(place)
                _blow(report, crew, server, settings, claimed)
            except AssertionError as error:
                report.violations.append(f"it did not come so far: {error!r}")
            finally:
                crew.stop(within=30)
            # Who has no time to end in order leaves some too.
            claimed |= under_way(server.dsn)
            report.violations += [f"a worker died: {death}" for death in crew.died]
            report.violations += work_off(platform, server.dsn, campaign)
            report.faults["throttled"] = _throttled(graph)
            before = recipients(server.dsn)
            report.figures = {
                "recipients": settings.recipients,
                "seconds": round(time.monotonic() - began),
                **{state: len(phones) for state, phones in before.items()},
                **settle(platform, graph, server.dsn),
            }
            report.figures |= {f"then {state}": n for state, n in states_of(server.dsn).items()}
            report.violations += check_campaign(graph, server.dsn, before, settings, claimed)
            kills = report.faults["kill a worker"] + report.faults["restart the server"]
            unknown = len(before.get("unknown", ()))
            if unknown > _UNDER_WAY * (kills + 1):
                report.violations.append(f"{unknown} unknown, more than {kills} kills may leave")
    return report


def _blow(
    report: Report,
    crew: Crew,
    server: EmbeddedServer,
    settings: CampaignSettings,
    claimed: set[str],
) -> None:
    """Kill a worker every few seconds until nearly all is sent; restart the server half way.

    Who was under way is added to ``claimed`` each time.
    """
    rng = random.Random(f"{settings.seed}.kills")
    left = before = settings.recipients
    # Those who wait for their time are the last.
    while left > 0.03 * settings.recipients and (
        settings.kills is None or report.faults["kill a worker"] < settings.kills
    ):
        time.sleep(rng.uniform(0.7, 1.3) * settings.pause)
        # Who is killed has sent something first: on a busy machine a process takes long to begin.
        eventually(partial(_fewer_pending, server.dsn, before), within=180)
        left = before = _pending(server.dsn)
        if (
            left < settings.recipients * settings.restart_at
            and not report.faults["restart the server"]
        ):
            _restart(server)
            report.faults["restart the server"] += 1
        else:
            crew.kill(int(rng.random() * crew.count))
            report.faults["kill a worker"] += 1
        claimed |= under_way(server.dsn)


def _pending(dsn: str) -> int:
    return states_of(dsn).get("pending", 0)


def _fewer_pending(dsn: str, before: int) -> bool:
    return not before or _pending(dsn) < before


def _throttled(graph: GraphStandin) -> int:
    errors = (entry.answer.get("error") for entry in graph.log.entries() if entry.answer)
    return sum(error is not None and error["code"] == 130429 for error in errors)


def _restart(server: EmbeddedServer) -> None:
    """As a service restarts it: open transactions are rolled back, sessions are ended."""
    pid = server.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGINT)
    eventually(lambda: server.status().pid != pid)
    server.start()
