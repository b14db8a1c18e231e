"""A campaign of the fault harness: made before the faults, ended and checked in calm after them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from pgsync import Coordinator
from pgsync.modules.broadcasts import UNCAPPED, webhook_app
from pgsync.modules.platform import Platform
from pgsync.modules.whatsapp.standin import GraphStandin
from tests.eventually import eventually
from tests.serving import serving
from tests.tenants import new_connection

__all__ = [
    "CampaignSettings",
    "check_campaign",
    "platform_on",
    "prepare_campaign",
    "settle",
    "states_of",
    "work_off",
]

_ERRORS = {131026: 0.025, 131056: 0.0125, 131057: 0.0125, 130429: 0.0125}
"""How many of the recipients meet which error, once: refused for good; too often; try later; and
throttled, for where a slow machine does not come to the stand-in's rate."""


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


@contextmanager
def platform_on(dsn: str, graph: GraphStandin) -> Iterator[Platform]:
    """The platform on a database, for the ``with``."""
    with (
        Coordinator(dsn) as sync,
        closing(Platform(sync, graph_url=graph.url, caps=UNCAPPED)) as platform,
    ):
        yield platform


def prepare_campaign(platform: Platform, graph: GraphStandin, settings: CampaignSettings) -> int:
    """A campaign that is due, and what will go wrong with some of its messages."""
    connection = new_connection(platform.sessions, graph)
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


def work_off(platform: Platform, dsn: str, campaign: int) -> list[str]:
    """Send to all who are left; what is wrong, in sentences, where that does not end.

    All workers are gone: what they had claimed is lost now, rather than in five minutes.
    """
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

        try:
            eventually(over, within=600)
        except AssertionError:
            campaigns = "SELECT * FROM pgsync_modules.campaigns WHERE id = %s"
            jobs = "SELECT state, attempt, errors FROM pgsync.all_jobs WHERE queue = 'campaigns'"
            shown = connection.execute(campaigns, [campaign]).fetchone()
            left = connection.execute(jobs).fetchall()
            return [f"the campaign did not end: {shown}, {states_of(dsn)}, its jobs {left}"]
    return []


def settle(platform: Platform, graph: GraphStandin, dsn: str) -> dict[str, object]:
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


def states_of(dsn: str) -> dict[str, int]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        rows: Any = connection.execute(
            "SELECT state, count(*) FROM pgsync_modules.campaign_recipient GROUP BY state"
        ).fetchall()
    return dict(rows)


def check_campaign(
    graph: GraphStandin,
    dsn: str,
    figures: dict[str, object],
    settings: CampaignSettings,
    most_unknown: int | None = None,
) -> list[str]:
    """What is wrong, in sentences; ``figures`` are the states before and after it was settled."""
    before = {state: int(str(figures.get(state, 0))) for state in ("sent", "failed", "unknown")}
    resolved = int(str(figures["unknown that the API had accepted"]))
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
    after = states_of(dsn)
    return [
        text
        for wrong, text in (
            (twice, f"{len(twice)} recipients were sent to more than once: {twice[:5]}"),
            (
                sum(before.values()) != settings.recipients,
                f"recipients are neither sent, failed nor unknown: {figures}",
            ),
            (
                most_unknown is not None and before["unknown"] > most_unknown,
                f"{before['unknown']} unknown, more than were under way at the faults",
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
