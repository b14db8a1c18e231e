"""Campaigns and templates from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pgsync.cli.main import cli
from pgsync.modules.models import Connection
from pgsync.modules.whatsapp.standin import GraphStandin
from tests.modules.conftest import connection, sessions, standin

__all__ = ["connection", "sessions", "standin"]


@pytest.fixture
def pgsync(
    dsn: str, standin: GraphStandin, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Runs a command on the test's database and stand-in."""
    monkeypatch.setenv("PGSYNC_GRAPH_URL", standin.url)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, [*arguments, "--dsn", dsn])

    return run


def test_a_campaign_is_made_looked_at_started_paused_and_cancelled(
    pgsync: Callable[..., Result], connection: Connection, standin: GraphStandin, database: Any
) -> None:
    database.execute(
        "INSERT INTO pgsync_modules.contact (workspace_id, phone, name)"
        " VALUES (%s, '+4915112000001', 'Zoë')",
        [connection.workspace_id],
    )
    made = pgsync(
        *("campaigns", "create", "--connection", str(connection.id), "--name", "All"),
        *("--template", "hello", "--language", "de"),
    )
    campaign = made.output.strip()
    early = pgsync("campaigns", "preflight", campaign)
    assert early.exit_code == 4
    assert "is not known" in json.loads(early.output)["problems"][0]

    standin.templates.add(name="hello", language="de", body="Hello {{1}}")
    assert pgsync("templates", "sync", str(connection.id)).exit_code == 0
    assert "hello" in pgsync("templates", "list", str(connection.id)).output
    ready = json.loads(pgsync("campaigns", "preflight", campaign).output)
    assert ready["messages"] == [{"to": "+4915112000001", "text": "Hello Zoë"}]

    started = pgsync("campaigns", "start", campaign, "--by", "ann")
    assert started.output.startswith("job ")
    database.execute("UPDATE pgsync_modules.campaign SET state = 'sending'")
    assert "paused" in pgsync("campaigns", "pause", campaign, "--why", "a typo").output
    row = json.loads(pgsync("campaigns", "show", campaign, "--json").output)[0]
    assert (row["state"], row["state_reason"], row["pending"]) == ("paused", "a typo", 1)
    assert "a typo" in pgsync("campaigns", "list").output
    assert pgsync("campaigns", "resume", campaign).output.startswith("job ")
    again = pgsync("campaigns", "resume", campaign)
    assert "is scheduled" in str(again.exception)
    assert "cancelled" in pgsync("campaigns", "cancel", campaign, "--by", "bob").output
    audit = database.execute(
        "SELECT action, actor FROM pgsync.audit WHERE subject = %s ORDER BY id", [campaign]
    ).fetchall()
    assert [audit[0], audit[-1]] == [("campaign.scheduled", "ann"), ("campaign.cancelled", "bob")]
    assert [action for action, _ in audit[1:-1]] == ["campaign.paused", "campaign.scheduled"]
    assert pgsync("campaigns", "show", "404").exit_code == 3


def test_a_template_with_a_header_and_buttons_is_filled(
    pgsync: Callable[..., Result], connection: Connection, standin: GraphStandin
) -> None:
    parts = [
        {"type": "HEADER", "format": "IMAGE"},
        {"type": "BODY", "text": "Hello {{1}}"},
        {"type": "BUTTONS", "buttons": [{"type": "URL", "url": "https://shop.example/{{1}}"}]},
    ]
    standin.templates.add(name="offer", language="de", components=parts)
    assert pgsync("templates", "sync", str(connection.id)).exit_code == 0
    create = (
        *("campaigns", "create", "--connection", str(connection.id), "--name", "Spring"),
        *("--template", "offer", "--language", "de", "--variable", "body.1=name"),
        *("--variable", "button.0=custom.way"),
    )
    assert pgsync(*create, "--constant", "header").exit_code == 2
    made = pgsync(*create, "--constant", "header=https://cdn.example/spring.jpg").output.strip()
    copy = pgsync("campaigns", "duplicate", made).output.strip()
    sent = pgsync(
        *("campaigns", "test-send", copy, "+4915112000001"),
        *("--value", "body.1=me", "--value", "button.0=here?from=1"),
    )
    assert sent.exit_code == 0, sent.output
    assert standin.log.message(sent.output.strip()).to == "4915112000001"
    (entry,) = [each for each in standin.log.entries() if each.method == "POST"]
    kinds = [part["type"] for part in entry.body["template"]["components"]]
    assert kinds == ["header", "body", "button"]
