"""One run of the campaigns' fault harness: a server, a stand-in, kills, and the verdict."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg

from pgsync import Coordinator
from pgsync.database.embedded import EmbeddedServer
from pgsync.database.migrations import migrate
from pgsync.modules.broadcasts import UNCAPPED, webhook_app
from pgsync.modules.platform import Platform
from pgsync.modules.whatsapp.standin import GraphStandin
from tests.eventually import eventually
from tests.faults.campaign_worker import CampaignOrders
from tests.faults.crew import Crew
from tests.faults.lock_run import Report, new_folder
from tests.faults.tenants import new_connection
from tests.serving import serving

__all__ = ["CampaignSettings", "run"]

_UNDER_WAY = 16
"""Recipients that a dispatcher has claimed at most: what one kill may make unknown."""

_ERRORS = {131026: 0.025, 131056: 0.0125, 131057: 0.0125}
"""How many of the recipients meet which error, once: refused for good; too often; try later."""


@dataclass(frozen=True)
class CampaignSettings:
    """``pause`` is between two kills, in seconds; ``rate`` is what the stand-in takes in one."""

    recipients: int
    seed: str
    workers: int = 2
    pause: float = 3.0
    rate: int = 40
    restart_at: float = 0.5
    """The server restarts when less than this share of the recipients is left."""
    kills: int | None = None
    """So many, and then the rest is sent in peace; None goes on until nearly all are sent."""


def run(settings: CampaignSettings) -> Report:
    """Send a campaign while its workers are killed and the server restarts; settle it; check."""
    folder = new_folder()
    with (
        GraphStandin(token="faults", templates=0) as graph,
        # Durable, since it is shut down.
        EmbeddedServer(folder / "server") as server,
    ):
        migrate(server.dsn, modules=True)
        crew = Crew(
            "tests.faults.campaign_worker",
            CampaignOrders(server.dsn, graph.url, settings.seed),
            folder,
            settings.workers,
        )
        report = Report()
        with _platform(server.dsn, graph) as platform:
            campaign = _prepare(platform, graph, settings)
            began = time.monotonic()
            try:
                for place in range(crew.count):
                    crew.start(place)
                _blow(report, crew, server, graph, settings)
            except AssertionError as error:
                report.violations.append(f"it did not come so far: {error!r}")
            finally:
                crew.stop(within=30)
            report.violations += [f"a worker died: {death}" for death in crew.died]
            try:
                _work_off(platform, server.dsn, campaign)
            except AssertionError as error:
                report.violations.append(f"it did not come to its end: {error!r}")
            report.figures = {
                "recipients": settings.recipients,
                "seconds": round(time.monotonic() - began),
                **_states(server.dsn),
            }
            unknown = _settle(platform, graph, server.dsn)
            report.figures |= unknown
            report.figures |= {f"then {state}": n for state, n in _states(server.dsn).items()}
            _judge(report, graph, server.dsn, settings)
    shutil.rmtree(folder / "server", ignore_errors=True)
    if report.violations:
        report.folder = folder
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return report


@contextmanager
def _platform(dsn: str, graph: GraphStandin) -> Iterator[Platform]:
    with Coordinator(dsn) as sync:
        platform = Platform(sync, graph_url=graph.url, caps=UNCAPPED)
        yield platform
        platform.sessions.kw["bind"].dispose()


def _prepare(platform: Platform, graph: GraphStandin, settings: CampaignSettings) -> int:
    """A campaign that is due, and what will go wrong with some of its messages."""
    connection = new_connection(platform, graph)
    graph.templates.add(name="hello", language="de", body="Hello {{1}}")
    platform.whatsapp.template_sync(connection_id=connection.id)
    campaigns = platform.broadcasts.campaigns
    campaign = campaigns.create(
        workspace_id=connection.workspace_id,
        connection_id=connection.id,
        name="Faults",
        template_name="hello",
        language="de",
    )
    phones = [f"+4915{number:08d}" for number in range(settings.recipients)]
    campaigns.add_phones(campaign, phones)
    rng = random.Random(f"{settings.seed}.errors")
    rng.shuffle(phones)
    for code, share in _ERRORS.items():
        for _ in range(round(share * settings.recipients)):
            graph.inject("error", to=phones.pop(), path="messages", code=code)
    graph.throttle(settings.rate, per=1.0, code=130429)
    platform.broadcasts.start(campaign)
    return campaign


def _blow(
    report: Report,
    crew: Crew,
    server: EmbeddedServer,
    graph: GraphStandin,
    settings: CampaignSettings,
) -> None:
    """Kill a worker every few seconds until nearly all is sent; restart the server half way."""
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
        report.faults["throttled"] = _throttled(graph)


def _pending(dsn: str) -> int:
    return _states(dsn).get("pending", 0)


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


def _work_off(platform: Platform, dsn: str, campaign: int) -> None:
    """All workers are gone: what they had claimed is lost now, rather than in five minutes."""
    with psycopg.connect(dsn, autocommit=True) as connection:

        def over() -> bool:
            connection.execute(
                "UPDATE pgsync_modules.campaign_recipient SET lease_until = now()"
                " WHERE state = 'sending'"
            )
            connection.execute(
                "UPDATE pgsync_modules.campaign_recipient SET send_after = now()"
                " WHERE state = 'pending' AND send_after > now()"
            )
            connection.execute("UPDATE pgsync.job_scheduled SET run_at = now()")
            platform.sync.run_worker(queues=["campaigns"], drain=True)
            return platform.broadcasts.campaigns.state_of(campaign) == "completed"

        eventually(over, within=600)


def _settle(platform: Platform, graph: GraphStandin, dsn: str) -> dict[str, object]:
    """Let webhooks tell of those that are unknown and were accepted."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        unknown = {
            row[0].lstrip("+")
            for row in connection.execute(
                "SELECT phone FROM pgsync_modules.campaign_recipient WHERE state = 'unknown'"
            )
        }
    accepted = [message for message in graph.log.messages() if message.to in unknown]
    app = webhook_app(platform.broadcasts, app_secret=graph.app_secret, verify_token="faults")
    with serving(app) as url:
        graph.webhooks.url = f"{url}/"
        for message in accepted:
            assert graph.post_status(message.id, "delivered") == 200
    platform.sync.run_worker(queues=["webhooks"], drain=True)
    return {"unknown that the API had accepted": len(accepted)}


def _states(dsn: str) -> dict[str, int]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        rows: Any = connection.execute(
            "SELECT state, count(*) FROM pgsync_modules.campaign_recipient GROUP BY state"
        ).fetchall()
    return dict(rows)


def _judge(report: Report, graph: GraphStandin, dsn: str, settings: CampaignSettings) -> None:
    figures = report.figures
    before = {state: int(str(figures.get(state, 0))) for state in ("sent", "failed", "unknown")}
    resolved = int(str(figures["unknown that the API had accepted"]))
    faults = report.faults["kill a worker"] + report.faults["restart the server"]
    accepted = graph.log.accepted
    with psycopg.connect(dsn, autocommit=True) as connection:
        unknown = {
            row[0].lstrip("+")
            for row in connection.execute(
                "SELECT phone FROM pgsync_modules.campaign_recipient WHERE state = 'unknown'"
            )
        }
    refused = round(_ERRORS[131026] * settings.recipients)
    twice = [phone for phone, times in accepted.items() if times > 1]
    after = _states(dsn)
    report.violations += [
        text
        for wrong, text in (
            (twice, f"{len(twice)} recipients were sent to more than once: {twice[:5]}"),
            (
                sum(before.values()) != settings.recipients,
                f"recipients are neither sent, failed nor unknown: {figures}",
            ),
            (
                before["unknown"] > _UNDER_WAY * (faults + 1),
                f"{before['unknown']} unknown, more than were under way at {faults} faults",
            ),
            (before["failed"] > refused, f"{before['failed']} failed, of {refused} refused"),
            (
                before["sent"] + resolved != len(accepted),
                f"{len(accepted)} accepted, but {before['sent']} sent and {resolved} unknown",
            ),
            (unknown & accepted.keys(), "webhooks left unknown what the API had accepted"),
            (
                after.get("delivered", 0) != resolved,
                f"webhooks resolved {after.get('delivered', 0)} of {resolved}",
            ),
        )
        if wrong
    ]
