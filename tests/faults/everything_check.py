"""The checker of the whole: it lets all that was begun end in calm, and reads every ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import psycopg

from pgsync.modules.contacts.sample import SampleTruth
from pgsync.modules.whatsapp.standin import GraphStandin
from tests.faults import ledger
from tests.faults.campaign_ledger import (
    CampaignSettings,
    check_campaign,
    platform_on,
    settle,
    states_of,
    work_off,
)
from tests.faults.import_ledger import check_imports, finish_imports
from tests.faults.importer import ImportOrders
from tests.faults.job_ledger import Figures, check_jobs
from tests.faults.job_run import drain, task_names
from tests.faults.ledger import Event
from tests.faults.limit_worker import check_limits
from tests.faults.schedule_ledger import check_schedules

__all__ = ["After", "check_everything"]


@dataclass(frozen=True)
class After:
    """What must be known to end and judge what was begun."""

    campaign: int
    campaign_settings: CampaignSettings
    imports: ImportOrders
    truth: SampleTruth


def check_everything(
    dsn: str, graph: GraphStandin, histories: Mapping[str, list[Event]], after: After
) -> tuple[list[str], Figures]:
    """What is wrong, in sentences, and what was checked. All processes must have ended."""
    violations: list[str] = []
    figures: Figures = {}

    counter, entries = ledger.entries(dsn)
    violations += ledger.check_ledger(counter, entries, histories["lockers"])
    locks = Counter(event["event"] for event in histories["lockers"])
    figures |= {
        "locks: guarded sections": len(entries),
        "locks: refused by the guard": locks["refused"],
    }

    campaign: Figures
    with platform_on(dsn, graph) as platform:
        graph.clear_throttles()
        violations += work_off(platform, dsn, after.campaign)
        campaign = {**states_of(dsn)}
        campaign |= settle(platform, graph, dsn)
    violations += check_campaign(graph, dsn, campaign, after.campaign_settings)
    figures |= {
        "campaign: recipients": after.campaign_settings.recipients,
        **{f"campaign: {what}": n for what, n in campaign.items()},
    }

    finished = finish_imports(dsn, after.imports)
    imports = histories["importers"]
    violations += check_imports(dsn, imports, after.imports, after.truth)
    done = [event for event in imports if event["event"] == "imported"]
    figures |= {
        "imports: workspaces": len(after.imports.workspaces),
        "imports: acknowledged": len(done),
        "imports: taken up again": sum(event["resumed"] > 0 for event in done),
        "imports: finished in calm": finished,
    }

    violations += drain(dsn)
    wrong, jobs = check_jobs(dsn, histories["jobbers"], task_names(dsn))
    violations += wrong
    figures |= {f"jobs: {what.removeprefix('jobs ')}": n for what, n in jobs.items()}

    limits = histories["limiters"]
    violations += check_limits(limits)
    kinds = Counter(event["event"] for event in limits)
    figures |= {f"limits: hits {kind}": kinds[kind] for kind in ("passed", "denied", "undecided")}

    violations += _check_operations(dsn)
    wrong, schedules = check_schedules(dsn)
    violations += wrong
    return violations, figures | {f"schedules: {what}": n for what, n in schedules.items()}


def _check_operations(dsn: str) -> list[str]:
    """The history has an end of each run, and for each run of the campaign's its job."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        states: dict[str, int] = dict(
            connection.execute(
                "SELECT state, count(*) FROM pgsync.operations GROUP BY state"
            ).fetchall()
        )
    return [f"{states['running']} runs of operations have no end"] if "running" in states else []
