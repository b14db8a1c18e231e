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
    "recipients",
    "settle",
    "states_of",
    "under_way",
    "work_off",
]

Recipients = dict[str, set[str]]
"""The phone numbers, as digits, by state."""

_FINAL = 131026
_ERRORS = {_FINAL: 0.025, 131056: 0.0125, 131057: 0.0125, 130429: 0.0125}
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

    def phones(self) -> list[str]:
        """Whom it is sent to, as digits."""
        return [f"4915{number:08d}" for number in range(self.recipients)]


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
    phones = [f"+{digits}" for digits in settings.phones()]
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
            eventually(over)
        except AssertionError:
            campaigns = "SELECT * FROM pgsync_modules.campaigns WHERE id = %s"
            jobs = "SELECT state, attempt, errors FROM pgsync.all_jobs WHERE queue = 'campaigns'"
            shown = connection.execute(campaigns, [campaign]).fetchone()
            left = connection.execute(jobs).fetchall()
            return [f"the campaign did not end: {shown}, {states_of(dsn)}, its jobs {left}"]
    return []


def settle(platform: Platform, graph: GraphStandin, dsn: str) -> dict[str, object]:
    """Let webhooks tell of those that are unknown and were accepted."""
    unknown = recipients(dsn).get("unknown", set())
    accepted = [message for message in graph.log.messages() if message.to in unknown]
    app = webhook_app(platform.broadcasts, app_secret=graph.app_secret, verify_token="faults")
    with serving(app) as url:
        graph.webhooks.url = f"{url}/"
        for message in accepted:
            assert graph.post_status(message.id, "delivered") == 200
    platform.sync.run_worker(queues=["webhooks"], drain=True)
    return {"unknown that the API had accepted": len(accepted)}


def recipients(dsn: str) -> Recipients:
    """Who is in which state."""
    found: Recipients = {}
    with psycopg.connect(dsn, autocommit=True) as connection:
        for state, phone in connection.execute(
            "SELECT state, ltrim(phone, '+') FROM pgsync_modules.campaign_recipient"
        ):
            found.setdefault(state, set()).add(phone)
    return found


def under_way(dsn: str) -> set[str]:
    """Who is claimed, when all transactions have ended that are open now, a dead worker's too."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        now = connection.execute("SELECT clock_timestamp()").fetchone()

        def ended() -> bool:
            open_ones = connection.execute(
                "SELECT FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() AND xact_start <= %s",
                now,
            )
            return not open_ones.fetchall()

        eventually(ended)
    return recipients(dsn).get("sending", set())


def states_of(dsn: str) -> dict[str, int]:
    """How many recipients are in which state."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        rows: Any = connection.execute(
            "SELECT state, count(*) FROM pgsync_modules.campaign_recipient GROUP BY state"
        ).fetchall()
    return dict(rows)


def check_campaign(
    graph: GraphStandin,
    dsn: str,
    before: Recipients,
    settings: CampaignSettings,
    claimed: set[str] | None = None,
) -> list[str]:
    """What is wrong, in sentences, by the rows and by the stand-in's log.

    ``before`` is who was in which state before webhooks settled it; ``claimed`` are all who were
    under way at some fault, where that was looked at.
    """
    accepted = set(graph.log.accepted)
    sent, failed, unknown = (before.get(state, set()) for state in ("sent", "failed", "unknown"))
    settled = {
        "sent": sent,
        "failed": failed,
        "unknown": unknown - accepted,
        "delivered": unknown & accepted,
    }
    after = recipients(dsn)
    wrong = {
        "were sent to more than once": {
            phone for phone, times in graph.log.accepted.items() if times > 1
        },
        "are neither sent, failed nor unknown": set(settings.phones()) - sent - failed - unknown,
        "are sent, but the API accepted nothing": sent - accepted,
        "were accepted, and are neither sent nor unknown": accepted - sent - unknown,
        "failed, but the API did not refuse them": failed - _refused(graph),
        "are unknown, but were not under way at a fault": (
            set() if claimed is None else unknown - claimed
        ),
        **{
            f"are not {state} after the webhooks, or should not be": phones
            ^ after.get(state, set())
            for state, phones in settled.items()
        },
    }
    return [
        f"{len(phones)} recipients {text}: {sorted(phones)[:5]}"
        for text, phones in wrong.items()
        if phones
    ]


def _refused(graph: GraphStandin) -> set[str]:
    """To whom the API refused a message for good."""
    return {
        entry.body["to"].lstrip("+")
        for entry in graph.log.entries(path="/messages")
        if entry.answer and entry.answer.get("error", {}).get("code") == _FINAL
    }
