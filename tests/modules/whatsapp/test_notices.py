"""Webhooks about templates: repeated, late, out of order, and of kinds that are not known."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest

from pgsync import Coordinator, InvalidArgument
from pgsync.modules.models import Connection
from pgsync.modules.whatsapp import WhatsApp
from pgsync.modules.whatsapp.standin import GraphStandin


@pytest.fixture
def remote_id(whatsapp: WhatsApp, connection: Connection, standin: GraphStandin) -> str:
    """The id of an approved template that is synced."""
    added = standin.templates.add(name="hello", language="de")
    whatsapp.template_sync(connection_id=connection.id)
    return str(added["id"])


def _template(database: Any, remote_id: str) -> tuple[str, bool, str | None, Any]:
    row = database.execute(
        "SELECT status, sendable, category, quality_score ->> 'score'"
        " FROM pgsync_modules.template WHERE remote_id = %s",
        [remote_id],
    ).fetchone()
    return tuple(row)


@pytest.mark.parametrize(
    "status",
    ["REJECTED", "PENDING_DELETION", "FLAGGED", "REINSTATED", "UNARCHIVED", "LOCKED", "NEW_ONE"],
)
def test_a_status_is_kept_as_it_is_and_only_approved_is_sendable(
    whatsapp: WhatsApp, standin: GraphStandin, remote_id: str, database: Any, status: str
) -> None:
    now = time.time()
    record = whatsapp.notices.record
    assert record(standin.waba_id, remote_id, "status", status, now) == "changed"
    assert _template(database, remote_id)[:2] == (status, False)
    assert record(standin.waba_id, remote_id, "status", "APPROVED", now + 1) == "changed"
    assert _template(database, remote_id)[:2] == ("APPROVED", True)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_order_in_which_notices_come_does_not_matter(
    whatsapp: WhatsApp,
    standin: GraphStandin,
    remote_id: str,
    database: Any,
    order: tuple[int, ...],
) -> None:
    now = time.time()
    told = [("PAUSED", now + 1), ("APPROVED", now + 2), ("FLAGGED", now + 3)]
    for number in (*order, *order):
        whatsapp.notices.record(standin.waba_id, remote_id, "status", *told[number])
    assert _template(database, remote_id)[0] == "FLAGGED"
    count = database.execute("SELECT count(*) FROM pgsync_modules.template_event").fetchone()
    assert count == (3,)


def test_quality_and_category_are_kept_with_their_events(
    whatsapp: WhatsApp, standin: GraphStandin, remote_id: str, database: Any
) -> None:
    now = time.time()
    before = _template(database, remote_id)
    for kind, value in (("quality", "RED"), ("category", "MARKETING")):
        whatsapp.template_notice(
            waba_id=standin.waba_id, remote_id=remote_id, kind=kind, value=value, at=now
        )
    assert _template(database, remote_id)[2:] == ("MARKETING", "RED")
    events = database.execute(
        "SELECT event, before, after FROM pgsync_modules.template_event ORDER BY id"
    ).fetchall()
    assert events == [
        ("quality", before[3], "RED"),
        ("category", before[2], "MARKETING"),
    ]


def test_a_notice_older_than_the_last_sync_changes_nothing(
    whatsapp: WhatsApp, standin: GraphStandin, remote_id: str, database: Any
) -> None:
    old = time.time() - 3600
    assert whatsapp.notices.record(standin.waba_id, remote_id, "status", "PAUSED", old) == "old"
    assert _template(database, remote_id)[0] == "APPROVED"


def test_what_is_not_known_is_said(
    whatsapp: WhatsApp, standin: GraphStandin, remote_id: str
) -> None:
    record = whatsapp.notices.record
    assert record(standin.waba_id, "404", "status", "APPROVED", time.time()) == "unknown"
    assert record("404", remote_id, "status", "APPROVED", time.time()) == "unknown"
    with pytest.raises(InvalidArgument, match="status, quality, category"):
        record(standin.waba_id, remote_id, "colour", "RED", time.time())


def test_each_working_connection_is_synced_hourly(
    whatsapp: WhatsApp, connection: Connection, sync: Coordinator, database: Any
) -> None:
    assert whatsapp.sync_all() == 1
    assert whatsapp.sync_all() == 1
    jobs = database.execute("SELECT task, args FROM pgsync.jobs").fetchall()
    assert jobs == [("template_sync", {"connection_id": connection.id})]
    whatsapp.connections.disable(connection.id, "refused")
    assert whatsapp.sync_all() == 0
