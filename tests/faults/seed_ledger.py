"""What the seed's operations must leave that were started twice at once: each thing there is, once.

It is looked for where it went: in the tables, the exported files and the stand-in's log; and in the
history no two runs of a key overlap.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from pgsync.modules.contacts.sample import REGION, SampleTruth
from pgsync.modules.whatsapp.standin import GraphStandin
from tests.faults.import_ledger import check_imports
from tests.faults.importer import ImportOrders

__all__ = ["Round", "check_seed"]

_OPERATIONS = {
    "sync": "template_sync",
    "import": "contact_import",
    "export": "contact_export",
    "campaign": "campaign_sending",
}

_TEMPLATES = "SELECT connection_id, name, language FROM pgsync_modules.template"
_CONTACTS = "SELECT workspace_id, phone FROM pgsync_modules.contact"
_RECIPIENTS = "SELECT campaign_id, phone, state FROM pgsync_modules.campaign_recipient"
_RUNS = "SELECT operation, state FROM pgsync.operations"
_OVERLAPS = """
SELECT a.key, a.id, b.id FROM pgsync.operations AS a
JOIN pgsync.operations AS b ON b.key = a.key AND b.id <> a.id
    AND a.requested_at <= b.requested_at AND b.requested_at < a.finished_at
WHERE a.state <> 'blocked' AND b.state <> 'blocked'
"""


@dataclass(frozen=True)
class Round:
    """What was started in a round: for a workspace of its own, to numbers of its own."""

    workspace: int
    connection: int
    campaign: int
    phones: Sequence[str]
    exported: Path


def check_seed(
    dsn: str,
    graph: GraphStandin,
    rounds: Sequence[Round],
    truth: SampleTruth,
    said: Counter[tuple[str, str]],
) -> list[str]:
    """What is wrong, in sentences; ``said`` counts what was answered, by operation and state."""
    templates = [(each["name"], each["language"]) for each in graph.templates.all()]
    contacts = [(each.workspace, phone) for each in rounds for phone in truth.contacts]
    sends = [(each.campaign, phone) for each in rounds for phone in each.phones]
    with psycopg.connect(dsn, autocommit=True) as database:

        def rows(statement: str) -> list[Any]:
            return database.execute(statement.encode()).fetchall()

        wrong = [
            *_differing(
                "templates",
                [(each.connection, *template) for each in rounds for template in templates],
                rows(_TEMPLATES),
            ),
            *_differing("contacts", contacts, rows(_CONTACTS)),
            *_differing(
                "exported contacts",
                contacts,
                [(each.workspace, phone) for each in rounds for phone in _exported(each)],
            ),
            *_differing("recipients", [(*send, "sent") for send in sends], rows(_RECIPIENTS)),
            *_differing(
                "messages",
                [phone for _, phone in sends],
                [f"+{message.to}" for message in graph.log.messages()],
            ),
            *_differing(
                "ends of runs",
                [
                    (_OPERATIONS[name], state)
                    for (name, state), times in said.items()
                    for _ in range(times)
                ],
                rows(_RUNS),
            ),
            *(f"runs of {key} overlap: {one} and {other}" for key, one, other in rows(_OVERLAPS)),
        ]
    where = [each.workspace for each in rounds]
    orders = ImportOrders(dsn=dsn, seed="", path="", region=REGION, workspaces=where)
    return wrong + check_imports(dsn, [], orders, truth)


def _differing(what: str, expected: Iterable[Any], found: Iterable[Any]) -> list[str]:
    """Each of them once, and no others: what is lost or doubled, or should not be there."""
    lost, more = Counter(expected), Counter(found)
    lost, more = lost - more, more - lost
    return [
        f"{sum(items.values())} {what} {wrong}: {list(items)[:5]}"
        for items, wrong in ((lost, "are missing"), (more, "are there that should not be"))
        if items
    ]


def _exported(round_: Round) -> list[str]:
    with round_.exported.open(encoding="utf-8-sig", newline="") as file:
        # Spreadsheets would take a number with a plus for a formula.
        return ["+" + row["wa_id"] for row in csv.DictReader(file)]
