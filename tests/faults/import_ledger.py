"""Finishes the harness's imports in calm, and compares what they made with what the file holds."""

from __future__ import annotations

import psycopg

from pgsync import Coordinator
from pgsync.modules.contacts.sample import SampleTruth
from tests.faults.importer import ImportOrders, declare
from tests.faults.ledger import Event

__all__ = ["check_imports", "finish_imports"]

_RUNS = "SELECT id, state, outcome FROM pgsync.operations WHERE operation = 'contact_import'"


def finish_imports(dsn: str, orders: ImportOrders) -> int:
    """Import into all workspaces that still lack it, or where a run was cut off; how many."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        whole = connection.execute(
            "SELECT workspace_id FROM pgsync_modules.contact_import AS i GROUP BY workspace_id"
            " HAVING bool_and(state = 'completed') AND NOT EXISTS ("
            "   SELECT FROM pgsync.operations AS o WHERE o.state = 'running'"
            "     AND o.key = 'contact_import:workspace:' || i.workspace_id)"
        )
        left = set(orders.workspaces) - {workspace for (workspace,) in whole}
    with Coordinator(dsn) as sync:
        contacts = declare(sync)
        for workspace in left:
            contacts.contact_import(workspace_id=workspace, path=orders.path, region=orders.region)
    return len(left)


def check_imports(
    dsn: str, history: list[Event], orders: ImportOrders, truth: SampleTruth
) -> list[str]:
    """What is wrong, in sentences: each workspace has each contact of the file once, whole."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT workspace_id, phone, name, email, company, notes, tags"
            " FROM pgsync_modules.contact WHERE workspace_id = ANY (%s)",
            [orders.workspaces],
        ).fetchall()
        counts = connection.execute(
            "SELECT id, state, rows, imported + updated + duplicates + rejected, total,"
            " (SELECT count(*) FROM pgsync_modules.contact_import_rejects AS r"
            "  WHERE r.import_id = i.id), rejected"
            " FROM pgsync_modules.contact_import AS i WHERE workspace_id = ANY (%s)",
            [orders.workspaces],
        ).fetchall()
        first = connection.execute(
            "SELECT workspace_id, sum(imported) FROM pgsync_modules.contact_import"
            " WHERE workspace_id = ANY (%s) GROUP BY workspace_id",
            [orders.workspaces],
        ).fetchall()
        runs = {run: (state, outcome) for run, state, outcome in connection.execute(_RUNS)}
    expected = {
        phone: (c.name, c.email, c.company, c.notes, sorted(c.tags))
        for phone, c in truth.contacts.items()
    }
    found: dict[int, dict[str, object]] = {workspace: {} for workspace in orders.workspaces}
    doubled = 0
    for workspace, phone, *values, tags in rows:
        doubled += phone in found[workspace]
        found[workspace][phone] = (*values, sorted(tags))
    other = [workspace for workspace, contacts in found.items() if contacts != expected]
    acknowledged = [event["import_id"] for event in history if event["event"] == "imported"]
    completed = {outcome["import_id"] for state, outcome in runs.values() if state == "completed"}
    unfinished = [row for row in counts if row[1] != "completed"]
    uneven = [row for row in counts if not row[2] == row[3] == row[4] or row[5] != row[6]]
    made = [workspace for workspace, times in first if times != len(expected)]
    return [
        text
        for wrong, text in (
            (doubled, f"{doubled} contacts are there twice"),
            (other, f"{len(other)} workspaces have other contacts than the file: {other[:5]}"),
            (unfinished, f"{len(unfinished)} imports did not complete: {unfinished[:5]}"),
            (uneven, f"{len(uneven)} imports do not count as the file has rows: {uneven[:5]}"),
            (made, f"{len(made)} workspaces count other imports than contacts: {made[:5]}"),
            (
                set(acknowledged) - completed,
                "imports were acknowledged, and are not in the history as completed",
            ),
        )
        if wrong
    ]
