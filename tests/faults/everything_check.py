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
    recipients,
    settle,
    work_off,
)
from tests.faults.holder_ledger import check_holdings, holdings
from tests.faults.import_ledger import check_imports, finish_imports
from tests.faults.importer import ImportOrders
from tests.faults.job_ledger import Figures, check_jobs
from tests.faults.job_run import drain, task_names
from tests.faults.ledger import Event
from tests.faults.limit_worker import check_limits
from tests.faults.schedule_ledger import check_schedules
from tests.faults.witness import Outage

__all__ = ["After", "check_everything"]

Verdict = tuple[list[str], Figures]


@dataclass(frozen=True)
class After:
    """What must be known to end and judge what was begun."""

    campaign: int
    campaign_settings: CampaignSettings
    imports: ImportOrders
    truth: SampleTruth


def check_everything(
    dsn: str,
    graph: GraphStandin,
    histories: Mapping[str, list[Event]],
    after: After,
    outages: list[Outage],
) -> tuple[list[str], Figures]:
    """What is wrong, in sentences, and what was checked. All processes must have ended."""
    verdicts = [
        _check_locks(dsn, histories["lockers"]),
        _check_campaign(dsn, graph, after),
        _check_imports(dsn, histories["importers"], after),
        _check_jobs(dsn, histories["jobbers"]),
        _check_limits(histories["limiters"]),
        _check_holders(dsn, histories["holders"]),
        (_check_operations(dsn), {}),
        # The last: it stops the database's clock.
        _check_schedules(dsn, outages),
    ]
    violations = [violation for violations, _ in verdicts for violation in violations]
    return violations, {what: n for _, figures in verdicts for what, n in figures.items()}


def _check_locks(dsn: str, history: list[Event]) -> Verdict:
    counter, entries = ledger.entries(dsn)
    kinds = Counter(event["event"] for event in history)
    return ledger.check_ledger(counter, entries, history), {
        "locks: guarded sections": len(entries),
        "locks: refused by the guard": kinds["refused"],
    }


def _check_holders(dsn: str, history: list[Event]) -> Verdict:
    held = holdings(dsn)
    refused = Counter(event["what"] for event in history if event["event"] == "refused")
    stays = Counter(each.what for each in held)
    leaders = {each.token for each in held if each.what == "leader"}
    return check_holdings(held, history), {
        "semaphores: guarded stays": stays["slots"],
        "semaphores: refused by the guard": refused["slots"],
        "elections: leaders": len(leaders),
        "elections: guarded writes": stays["leader"],
        "elections: refused by the guard": refused["leader"],
    }


def _check_campaign(dsn: str, graph: GraphStandin, after: After) -> Verdict:
    with platform_on(dsn, graph) as platform:
        graph.clear_throttles()
        violations = work_off(platform, dsn, after.campaign)
        before = recipients(dsn)
        settled = settle(platform, graph, dsn)
    violations += check_campaign(graph, dsn, before, after.campaign_settings)
    return violations, {
        "campaign: recipients": after.campaign_settings.recipients,
        **{f"campaign: {state}": len(phones) for state, phones in before.items()},
        **{f"campaign: {what}": n for what, n in settled.items()},
    }


def _check_imports(dsn: str, history: list[Event], after: After) -> Verdict:
    finished = finish_imports(dsn, after.imports)
    done = [event for event in history if event["event"] == "imported"]
    return check_imports(dsn, history, after.imports, after.truth), {
        "imports: workspaces": len(after.imports.workspaces),
        "imports: acknowledged": len(done),
        "imports: taken up again": sum(event["resumed"] > 0 for event in done),
        "imports: finished in calm": finished,
    }


def _check_jobs(dsn: str, history: list[Event]) -> Verdict:
    left = drain(dsn)
    violations, figures = check_jobs(dsn, history, task_names(dsn))
    return left + violations, {
        f"jobs: {what.removeprefix('jobs ')}": n for what, n in figures.items()
    }


def _check_limits(history: list[Event]) -> Verdict:
    kinds = Counter(event["event"] for event in history)
    return check_limits(history), {
        f"limits: hits {kind}": kinds[kind] for kind in ("passed", "denied", "undecided")
    }


def _check_schedules(dsn: str, outages: list[Outage]) -> Verdict:
    violations, figures = check_schedules(dsn, outages)
    return violations, {f"schedules: {what}": n for what, n in figures.items()}


def _check_operations(dsn: str) -> list[str]:
    """The history has an end of each run, told once."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        found = connection.execute(
            "SELECT count(*) FILTER (WHERE r.state = 'running'),"
            " count(*) FILTER (WHERE r.state IN ('completed', 'failed') AND 1 <> ("
            "   SELECT count(*) FROM pgsync.operation_events AS e"
            "   WHERE e.run_id = r.id AND e.event IN ('completed', 'failed')))"
            " FROM pgsync.operations AS r"
        ).fetchone()
    assert found is not None
    unended, untold = found
    return [
        text
        for wrong, text in (
            (unended, f"{unended} runs of operations have no end"),
            (untold, f"the ends of {untold} runs of operations are not told once"),
        )
        if wrong
    ]
