"""Template sync: what a listing does to the table, and what keeps two syncs apart."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from pgsync import Coordinator, Limit, LockLost, OperationBlocked, RateLimited
from pgsync.modules.models import Connection
from pgsync.modules.whatsapp import ConnectionDisabled, UnknownConnection, WhatsApp
from pgsync.modules.whatsapp.connections import Connections
from pgsync.modules.whatsapp.errors import GraphDenied, GraphError, GraphThrottled
from pgsync.modules.whatsapp.standin import GraphStandin
from tests.eventually import eventually
from tests.modules.conftest import TOKEN
from tests.tenants import new_connection


def _rows(database: Any, columns: str = "name, status, sendable") -> list[Any]:
    return database.execute(
        f"SELECT {columns} FROM pgsync_modules.template ORDER BY remote_id"
    ).fetchall()


def test_a_first_sync_creates_and_a_second_updates(
    whatsapp: WhatsApp, connection: Connection, database: Any
) -> None:
    first = whatsapp.template_sync(connection_id=connection.id)
    assert first == {"created": 25, "updated": 0, "missing": 0, "errors": [], "total": 25}
    before = _rows(database, "id, remote_id, name, status, components")
    second = whatsapp.template_sync(connection_id=connection.id)
    assert second == {"created": 0, "updated": 25, "missing": 0, "errors": [], "total": 25}
    assert _rows(database, "id, remote_id, name, status, components") == before


def test_only_approved_templates_are_sendable(
    whatsapp: WhatsApp, connection: Connection, database: Any
) -> None:
    whatsapp.template_sync(connection_id=connection.id)
    rows = _rows(database)
    assert {status for _, status, _ in rows} > {"APPROVED", "REJECTED"}
    assert all(sendable is (status == "APPROVED") for _, status, sendable in rows)


def test_a_template_gone_upstream_is_kept_and_comes_back(
    whatsapp: WhatsApp, connection: Connection, standin: GraphStandin, database: Any
) -> None:
    whatsapp.template_sync(connection_id=connection.id)
    gone = next(each for each in standin.templates.all() if each["status"] == "APPROVED")
    standin.templates.remove(gone["id"])
    result = whatsapp.template_sync(connection_id=connection.id)
    assert (result["missing"], result["total"]) == (1, 24)
    query = (
        "SELECT remotely_deleted_at IS NOT NULL, sendable FROM pgsync_modules.template"
        " WHERE remote_id = %s"
    )
    assert database.execute(query, [gone["id"]]).fetchone() == (True, False)
    standin.templates.add(**gone)
    whatsapp.template_sync(connection_id=connection.id)
    assert database.execute(query, [gone["id"]]).fetchone() == (False, True)
    events = database.execute("SELECT event FROM pgsync_modules.template_event ORDER BY id")
    assert [event for (event,) in events] == ["deleted", "restored"]


def test_a_change_of_status_is_recorded(
    whatsapp: WhatsApp, connection: Connection, standin: GraphStandin, database: Any
) -> None:
    whatsapp.template_sync(connection_id=connection.id)
    changed = next(each for each in standin.templates.all() if each["status"] == "APPROVED")
    standin.templates.change(changed["id"], status="PAUSED")
    whatsapp.template_sync(connection_id=connection.id)
    events = database.execute('SELECT event, "before", "after" FROM pgsync_modules.template_event')
    assert events.fetchall() == [("status", "APPROVED", "PAUSED")]


def test_bad_templates_do_not_lose_the_others(
    whatsapp: WhatsApp, connection: Connection, standin: GraphStandin, database: Any
) -> None:
    card = {"components": [{"type": "BUTTONS", "buttons": ["shop"]}]}
    changes: list[tuple[dict[str, Any], str]] = [
        ({"status": ""}, "it has no status"),
        ({"components": "body"}, "its components are not a list of objects"),
        ({"components": [{"cards": card}]}, "its cards are not a list of objects"),
        ({"components": [{"cards": [card]}]}, "its buttons are not a list of objects"),
        (
            {"components": [{"limited_time_offer": "soon"}]},
            "its limited_time_offer is not an object",
        ),
    ]
    bad = standin.templates.all()[3 : 3 + len(changes)]
    for template, (change, _) in zip(bad, changes, strict=True):
        standin.templates.change(template["id"], **change)
    result = whatsapp.template_sync(connection_id=connection.id)
    assert (result["created"], result["total"]) == (25 - len(changes), 25)
    assert result["errors"] == [
        {"template": template["name"], "error": error}
        for template, (_, error) in zip(bad, changes, strict=True)
    ]
    assert len(_rows(database)) == 25 - len(changes)


def test_all_pages_are_read_within_the_limit(
    sync: Coordinator,
    sessions: sessionmaker[Session],
    connection: Connection,
    standin: GraphStandin,
) -> None:
    limit = Limit(4, per=0.5)
    whatsapp = WhatsApp(sync, sessions, graph_url=standin.url, page_size=2, sync_limit=limit)
    began = time.monotonic()
    result = whatsapp.template_sync(connection_id=connection.id)
    assert result["total"] == 25
    requests = standin.log.requests_by_path
    assert sum(requests.values()) == 13
    # Thirteen requests at four a window need three windows to pass.
    assert time.monotonic() - began > 1.4


def test_a_sync_beyond_the_limit_is_refused_with_the_words_of_the_original(
    sync: Coordinator,
    sessions: sessionmaker[Session],
    connection: Connection,
    standin: GraphStandin,
) -> None:
    whatsapp = WhatsApp(sync, sessions, graph_url=standin.url)
    for _ in range(10):
        whatsapp.template_sync(connection_id=connection.id)
    with pytest.raises(RateLimited, match=r"Rate limit: Maximum 10 sync requests per minute") as e:
        whatsapp.template_sync(connection_id=connection.id)
    assert f"Please wait {round(e.value.retry_after)} seconds." in str(e.value)
    assert whatsapp.template_sync.status(connection_id=connection.id).state == "completed"


def test_a_second_sync_is_refused_while_one_runs(
    whatsapp: WhatsApp, connection: Connection, dsn: str, standin: GraphStandin
) -> None:
    name = f"template_sync:connection:{connection.id}"
    with (
        Coordinator(dsn) as other,
        other.lock(name, ttl=60, owner="another sync"),
        pytest.raises(OperationBlocked) as caught,
    ):
        whatsapp.template_sync(connection_id=connection.id)
    assert str(caught.value) == "Template sync is already in progress"
    assert caught.value.holder == "another sync"
    assert standin.log.requests_by_path == {}


def test_a_sync_whose_lock_is_lost_changes_nothing(
    whatsapp: WhatsApp, connection: Connection, standin: GraphStandin, database: Any
) -> None:
    standin.inject("slow", path="message_templates", seconds=1)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(whatsapp.template_sync, connection_id=connection.id)
        name = f"template_sync:connection:{connection.id}"
        eventually(lambda: standin.log.requests_by_path)
        assert database.execute("SELECT pgsync.force_unlock(%s)", [name]).fetchone() == (True,)
        with pytest.raises(LockLost):
            running.result(30)
    assert _rows(database) == []


def test_a_refused_token_disables_the_connection(
    whatsapp: WhatsApp,
    connection: Connection,
    standin: GraphStandin,
    caplog: pytest.LogCaptureFixture,
    database: Any,
) -> None:
    standin.expire_token(TOKEN)
    with caplog.at_level(logging.DEBUG), pytest.raises(GraphDenied):
        whatsapp.template_sync(connection_id=connection.id)
    with pytest.raises(ConnectionDisabled, match="renew its token"):
        whatsapp.template_sync(connection_id=connection.id)
    assert "is disabled" in caplog.text
    assert TOKEN not in caplog.text
    history = database.execute("SELECT array_agg(o::text) FROM pgsync.operations AS o").fetchone()
    assert TOKEN not in str(history)


def test_an_unknown_connection_is_said_to_be(whatsapp: WhatsApp) -> None:
    with pytest.raises(UnknownConnection):
        whatsapp.template_sync(connection_id=404)


@pytest.mark.parametrize("asks", [{"retry_after": 300}, {"usage_minutes": 5}])
def test_a_throttled_answer_stops_all_workers(
    sync: Coordinator,
    sessions: sessionmaker[Session],
    whatsapp: WhatsApp,
    connection: Connection,
    standin: GraphStandin,
    database: Any,
    asks: dict[str, int],
) -> None:
    standin.inject("error", code=80007, **asks)
    with pytest.raises(GraphThrottled):
        whatsapp.template_sync(connection_id=connection.id)
    row = database.execute(
        "SELECT key, until > now() + interval '4 minutes' FROM pgsync.rate_limit_penalty"
    ).fetchone()
    assert row == (f"graph:connection:{connection.id}", True)
    # Another worker, which has nothing in common but the database, makes no call, be it a message.
    calls = len(standin.log.entries())
    others = Connections(sync, sessions, graph_url=standin.url)
    graph = others.graph(others.find(connection.id), patience=0.0)
    with pytest.raises(RateLimited, match="retry in"):
        graph.send_template(
            connection.phone_number_id, to="+4915112000001", template="hello", language="de"
        )
    assert len(standin.log.entries()) == calls


@pytest.mark.parametrize(
    ("fault", "who_waits"),
    [
        ({"code": 130429}, {"mine"}),
        ({"code": 131016, "retry_after": 60}, {"mine"}),
        ({"code": 80007}, {"mine", "same account"}),
        ({"code": 613, "usage_minutes": 5}, {"mine", "same account"}),
        ({"code": 4}, {"mine", "same account", "same app"}),
    ],
)
def test_those_wait_who_share_the_limit_that_was_met(
    sessions: sessionmaker[Session],
    whatsapp: WhatsApp,
    connection: Connection,
    standin: GraphStandin,
    database: Any,
    fault: dict[str, int],
    who_waits: set[str],
) -> None:
    others = {"mine": connection}
    for name, waba_id in (("same account", connection.waba_id), ("same app", "404")):
        others[name] = new_connection(sessions, standin)
        with sessions.begin() as session:
            session.merge(others[name]).waba_id = waba_id
    standin.inject("error", path="messages", **fault)
    with pytest.raises(GraphError):
        whatsapp.connections.graph(connection).send_template(
            connection.phone_number_id, to="+4915112000001", template="hello", language="de"
        )
    waits = {name for name, each in others.items() if not whatsapp.connections.budget(each).left()}
    assert waits == who_waits


def test_the_budget_of_calls_is_shared_by_all_clients(
    sync: Coordinator,
    sessions: sessionmaker[Session],
    connection: Connection,
    standin: GraphStandin,
    database: Any,
) -> None:
    with sessions.begin() as session:
        session.execute(update(Connection).values(calls_per_minute=50))
    for _ in range(2):
        # As another worker would have it: nothing in common but the database.
        connections = Connections(sync, sessions, graph_url=standin.url)
        graph = connections.graph(connections.find(connection.id))
        assert len(list(graph.template_pages(standin.waba_id))) == 1
    row = database.execute("SELECT key, hits, max_hits FROM pgsync.rate_limit_counter").fetchone()
    assert row == (f"graph:connection:{connection.id}", 2, 50)


def test_a_template_that_the_database_refuses_does_not_lose_the_others(
    whatsapp: WhatsApp, connection: Connection, standin: GraphStandin, database: Any
) -> None:
    whatsapp.template_sync(connection_id=connection.id)
    known = standin.templates.all()[2]
    kept = "SELECT status, components FROM pgsync_modules.template WHERE remote_id = %s"
    before = database.execute(kept, [known["id"]]).fetchone()
    nul = [{"type": "BODY", "text": "\x00"}]
    standin.templates.change(known["id"], status="PAUSED", components=nul)
    result = whatsapp.template_sync(connection_id=connection.id)
    assert (result["updated"], result["missing"], result["total"]) == (24, 0, 25)
    assert [each["template"] for each in result["errors"]] == [known["name"]]
    assert database.execute(kept, [known["id"]]).fetchone() == before
    noted = database.execute(
        "SELECT remote_id FROM pgsync_modules.template WHERE last_error IS NOT NULL"
    ).fetchall()
    assert noted == [(known["id"],)]
    # A sync that can take them again says so.
    standin.templates.change(known["id"], components=[])
    whatsapp.template_sync(connection_id=connection.id)
    row = database.execute(
        "SELECT status, last_error FROM pgsync_modules.template WHERE remote_id = %s",
        [known["id"]],
    ).fetchone()
    assert row == ("PAUSED", None)


def test_a_name_may_be_used_again_by_another_template(
    whatsapp: WhatsApp, connection: Connection, standin: GraphStandin, database: Any
) -> None:
    whatsapp.template_sync(connection_id=connection.id)
    old = standin.templates.all()[0]
    standin.templates.remove(old["id"])
    standin.templates.add(**{**old, "id": "9" * 15})
    result = whatsapp.template_sync(connection_id=connection.id)
    assert result == {"created": 1, "updated": 24, "missing": 1, "errors": [], "total": 25}


def test_a_listing_with_a_template_that_has_no_id_marks_none_as_missing(
    whatsapp: WhatsApp, connection: Connection, standin: GraphStandin, database: Any
) -> None:
    whatsapp.template_sync(connection_id=connection.id)
    numberless = standin.templates.all()[4]
    standin.templates.remove(numberless["id"])
    standin.templates.add(**{**numberless, "id": ""})
    result = whatsapp.template_sync(connection_id=connection.id)
    assert result["errors"] == [{"template": numberless["name"], "error": "it has no id"}]
    # It may be any of those that were not seen.
    assert result["missing"] == 0
