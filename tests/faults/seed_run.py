"""Two processes start the same sync, import, export and campaign at once, again and again."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from pgsync import Coordinator
from pgsync.modules.broadcasts import UNCAPPED
from pgsync.modules.contacts.sample import write_sample
from pgsync.modules.platform import Platform
from pgsync.modules.whatsapp.standin import GraphStandin
from tests.faults.report import Report
from tests.tenants import new_connection

__all__ = ["MESSAGES", "run"]

MESSAGES = {
    "sync": "Template sync is already in progress",
    "import": "Contact import is already in progress",
    "export": "Contact export is already in progress",
    "campaign": "Campaign sending is already in progress",
}

_REPOSITORY = Path(__file__).parents[2]
_ROWS = 300
_TEMPLATES = 25
_RECIPIENTS = 10


def run(dsn: str, rounds: int) -> Report:
    """Run so many rounds on a migrated database, and check what they left."""
    report = Report()
    outcomes: Counter[str] = Counter()
    with ExitStack() as stack:
        graph = stack.enter_context(GraphStandin(token="seed", templates=_TEMPLATES, latency=0.01))
        graph.templates.add(name="hello", language="de", body="Hello {{1}}")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sync = stack.enter_context(Coordinator(dsn))
        platform = Platform(sync, graph_url=graph.url, caps=UNCAPPED)
        stack.callback(platform.close)
        pair = [stack.enter_context(_process(dsn, graph.url)) for _ in range(2)]
        write_sample(folder / "contacts.csv", rows=_ROWS)
        for number in range(rounds):
            for name, arguments in _operations(platform, graph, folder, number):
                said = _at_once(pair, name, arguments)
                for each in said:
                    outcomes[f"{name}: {'done' if 'done' in each else 'blocked'}"] += 1
                report.violations += _wrong(name, said)
        report.figures = {"rounds": rounds, **dict(sorted(outcomes.items()))}
        report.violations += _duplicates(dsn, graph, rounds)
    return report


@contextmanager
def _process(dsn: str, graph_url: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.faults.seed_worker", dsn, graph_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_REPOSITORY,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _operations(
    platform: Platform, graph: GraphStandin, folder: Path, number: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is started in a round, on a workspace of its own."""
    connection = new_connection(platform.sessions, graph)
    where = {"workspace_id": connection.workspace_id}
    yield "sync", {"connection_id": connection.id}
    yield "import", {**where, "path": str(folder / "contacts.csv")}
    yield "export", {**where, "path": str(folder / f"{number}.csv")}
    campaigns = platform.broadcasts.campaigns
    campaign = campaigns.create(
        workspace_id=connection.workspace_id,
        connection_id=connection.id,
        name="Hello",
        template_name="hello",
        language="de",
    )
    campaigns.add_phones(campaign, [f"+4915{n:08d}" for n in range(_RECIPIENTS)])
    campaigns.schedule(campaign)
    yield "campaign", {"campaign_id": campaign}


def _at_once(
    pair: list[subprocess.Popen[str]], name: str, arguments: dict[str, Any]
) -> list[dict[str, Any]]:
    said = []
    for process in pair:
        assert process.stdin is not None
        process.stdin.write(json.dumps([name, arguments]) + "\n")
        process.stdin.flush()
    for process in pair:
        assert process.stdout is not None
        said.append(json.loads(process.stdout.readline()))
    return said


def _wrong(name: str, said: list[dict[str, Any]]) -> list[str]:
    """One is done at the least; who is blocked is told so in the seed's words."""
    wrong = [each["blocked"] for each in said if "blocked" in each]
    if len(wrong) == len(said):
        return [f"{name}: both were blocked"]
    return [f"{name}: {message!r}" for message in wrong if message != MESSAGES[name]]


def _duplicates(dsn: str, graph: GraphStandin, rounds: int) -> list[str]:
    with psycopg.connect(dsn, autocommit=True) as connection:

        def count(statement: str) -> int:
            row = connection.execute(statement.encode()).fetchone()
            assert row is not None
            return int(row[0])

        checks: list[tuple[str, Callable[[], int], int]] = [
            (
                "templates",
                lambda: count("SELECT count(*) FROM pgsync_modules.template"),
                rounds * (_TEMPLATES + 1),
            ),
            (
                "different templates",
                lambda: count(
                    "SELECT count(*) FROM (SELECT DISTINCT connection_id, name, language"
                    " FROM pgsync_modules.template) AS t"
                ),
                rounds * (_TEMPLATES + 1),
            ),
            (
                "duplicate contacts",
                lambda: count(
                    "SELECT count(*) - count(DISTINCT (workspace_id, phone))"
                    " FROM pgsync_modules.contact"
                ),
                0,
            ),
            (
                "workspaces with other contacts than the first",
                lambda: count(
                    "SELECT count(*) FROM (SELECT count(*) AS n, min(count(*)) OVER () AS least"
                    " FROM pgsync_modules.contact GROUP BY workspace_id) AS w"
                    " WHERE n <> least"
                ),
                0,
            ),
            (
                "recipients sent to",
                lambda: count(
                    "SELECT count(*) FROM pgsync_modules.campaign_recipient WHERE state = 'sent'"
                ),
                rounds * _RECIPIENTS,
            ),
            ("messages accepted", lambda: sum(graph.log.accepted.values()), rounds * _RECIPIENTS),
            ("messages sent twice", lambda: len(graph.log.duplicate_sends), 0),
        ]
        found = [(what, look(), expected) for what, look, expected in checks]
    return [f"{what}: {n}, not {expected}" for what, n, expected in found if n != expected]
