"""Two processes start the same sync, import, export and campaign at once, again and again."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pgsync import Coordinator
from pgsync.modules.broadcasts import UNCAPPED
from pgsync.modules.contacts.sample import REGION, write_sample
from pgsync.modules.platform import Platform
from pgsync.modules.whatsapp.standin import GraphStandin
from tests.faults.report import Report
from tests.faults.seed_ledger import Round, check_seed
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
_MORE_ROUNDS = 50
"""At the most, until the two have met in each operation: what never met proves nothing."""


def run(dsn: str, rounds: int) -> Report:
    """Run so many rounds on a migrated database, and check what they left."""
    report = Report()
    done: list[Round] = []
    with ExitStack() as stack:
        graph = stack.enter_context(GraphStandin(token="seed", templates=_TEMPLATES, latency=0.01))
        graph.templates.add(name="hello", language="de", body="Hello {{1}}")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sync = stack.enter_context(Coordinator(dsn))
        platform = Platform(sync, graph_url=graph.url, caps=UNCAPPED)
        stack.callback(platform.close)
        pair = _Pair(stack, dsn, graph.url)
        people = folder / "contacts.csv"
        truth = write_sample(people, rows=_ROWS)
        while len(done) < rounds or (pair.unmet() and len(done) < rounds + _MORE_ROUNDS):
            done.append(_round(platform, graph, pair, people, len(done)))
        report.violations = [
            *pair.wrong,
            *(f"{name}: the two never met" for name in pair.unmet()),
            *check_seed(dsn, graph, done, truth, pair.said),
        ]
    counts = {f"{name}: {state}": times for (name, state), times in sorted(pair.said.items())}
    report.figures = {"rounds": len(done), **counts}
    return report


class _Pair:
    """Two processes that are told to start the same at once, and what they said of it."""

    def __init__(self, stack: ExitStack, dsn: str, graph_url: str) -> None:
        self.said: Counter[tuple[str, str]] = Counter()
        self.wrong: list[str] = []
        self._processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.faults.seed_worker", dsn, graph_url],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=_REPOSITORY,
                )
            )
            for _ in range(2)
        ]
        for process in self._processes:
            stack.callback(process.kill)

    def start(self, name: str, **arguments: Any) -> None:
        """Have both start it: one is done at the least, the other may be told to wait, as the seed
        words it."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps([name, arguments]) + "\n")
            process.stdin.flush()
        blocked = 0
        for process in self._processes:
            assert process.stdout is not None
            answer = json.loads(process.stdout.readline())
            state = "blocked" if "blocked" in answer else "completed"
            self.said[name, state] += 1
            if state == "blocked":
                blocked += 1
                if answer["blocked"] != MESSAGES[name]:
                    self.wrong.append(f"{name}: {answer['blocked']!r}")
        if blocked == len(self._processes):
            self.wrong.append(f"{name}: both were blocked")

    def unmet(self) -> list[str]:
        """The operations in which none was blocked yet."""
        return [name for name in MESSAGES if not self.said[name, "blocked"]]


def _round(
    platform: Platform, graph: GraphStandin, pair: _Pair, people: Path, number: int
) -> Round:
    """Start all four, on a workspace of its own."""
    connection = new_connection(platform.sessions, graph)
    exported = people.with_name(f"{number}.csv")
    pair.start("sync", connection_id=connection.id)
    workspace = connection.workspace_id
    pair.start("import", workspace_id=workspace, path=str(people), region=REGION)
    pair.start("export", workspace_id=workspace, path=str(exported))
    campaigns = platform.broadcasts.campaigns
    campaign = campaigns.create(
        workspace_id=workspace,
        connection_id=connection.id,
        name="Hello",
        template_name="hello",
        language="de",
    )
    phones = [f"+4915{number:04d}{n:04d}" for n in range(_RECIPIENTS)]
    campaigns.add_phones(campaign, phones)
    campaigns.schedule(campaign)
    pair.start("campaign", campaign_id=campaign)
    return Round(workspace, connection.id, campaign, phones, exported)
