"""Two contacts that are one person become one: with consent, tags, recipients, and all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from pgsync import Coordinator, InvalidArgument, OperationBlocked
from pgsync.modules.broadcasts.audience import Audience, add_contacts, add_phones
from pgsync.modules.contacts import Contacts
from pgsync.modules.models import Connection
from tests.eventually import eventually
from tests.waiting import sessions_waiting

A, B, C = "+12015550101", "+12015550102", "+12015550103"


@pytest.fixture
def ids(book: Any) -> dict[str, int]:
    """Three contacts of one person."""
    book.add(A, name="Ana", tags=["vip"], custom={"size": "M"}, notes="first")
    book.add(B, email="b@example.org", tags=["fair", "vip"], custom={"size": "L", "club": "chess"})
    book.add(C, name="A. Lima", company="Acme", notes="third")
    return {phone: contact.id for phone, contact in book.all().items()}


def _campaign(sessions: Any, workspace: int, database: Any, states: dict[str, str]) -> int:
    """A campaign with recipients in these states."""
    with sessions.begin() as session:
        connection = Connection(
            workspace_id=workspace, name="N", waba_id="1", phone_number_id="2", token="t"
        )
        session.add(connection)
    campaign: int = database.execute(
        "INSERT INTO pgsync_modules.campaign (workspace_id, connection_id, name, template_name,"
        " language) VALUES (%s, %s, 'Hello', 'hello', 'de') RETURNING id",
        [workspace, connection.id],
    ).fetchone()[0]
    for phone, state in states.items():
        database.execute(
            "INSERT INTO pgsync_modules.campaign_recipient (campaign_id, phone, state)"
            " VALUES (%s, %s, %s)",
            [campaign, phone, state],
        )
    return campaign


def _recipients(database: Any, campaign: int) -> dict[str, str]:
    return dict(
        database.execute(
            "SELECT phone, state FROM pgsync_modules.campaign_recipient WHERE campaign_id = %s",
            [campaign],
        ).fetchall()
    )


def test_the_one_that_is_kept_gets_what_it_lacks(
    contacts: Contacts, book: Any, ids: dict[str, int], database: Any
) -> None:
    merge = contacts.contact_merge.by("alice")
    result = merge(workspace_id=book.workspace, keep=ids[A], others=[ids[B], ids[C]])
    assert result["contacts"] == 2
    found = book.all()
    kept = found[A]
    assert (kept.name, kept.email, kept.company) == ("Ana", "b@example.org", "Acme")
    assert (kept.tags, kept.notes) == (["vip", "fair"], "first\nthird")
    assert kept.custom == {"size": "M", "club": "chess"}
    assert [(found[phone].status, found[phone].merged_into) for phone in (B, C)] == [
        ("merged", kept.id),
        ("merged", kept.id),
    ]
    audit = database.execute(
        "SELECT contact_id, phone, actor, detail ->> 'name' FROM pgsync_modules.contact_event"
        " WHERE event = 'merged' ORDER BY phone"
    )
    assert audit.fetchall() == [(kept.id, B, "alice", None), (kept.id, C, "alice", "A. Lima")]
    run = database.execute(
        "SELECT actor, state FROM pgsync.operations WHERE operation = 'contact_merge'"
    )
    assert run.fetchall() == [("alice", "completed")]


@pytest.mark.parametrize("keep", [A, B])
def test_an_opt_out_wins_and_its_history_goes_along(
    contacts: Contacts, book: Any, ids: dict[str, int], database: Any, keep: str
) -> None:
    contacts.opt_in(book.workspace, A, source="form", evidence="/1")
    contacts.opt_out(book.workspace, B, source="letter", evidence="page 3")
    before = book.all()[B].opted_out_at
    other = B if keep == A else A
    contacts.contact_merge(workspace_id=book.workspace, keep=ids[keep], others=[ids[other]])
    kept = book.all()[keep]
    assert (kept.status, kept.opted_out_at) == ("opted_out", before)
    assert (kept.consent_source, kept.consent_evidence) == ("letter", "page 3")
    history = database.execute(
        "SELECT phone, event FROM pgsync_modules.contact_event WHERE contact_id = %s"
        " AND event <> 'merged' ORDER BY id",
        [kept.id],
    )
    assert history.fetchall() == [(A, "opted_in"), (B, "opted_out")]


def test_a_block_and_do_not_contact_hold_for_the_one_that_is_kept(
    contacts: Contacts, book: Any, ids: dict[str, int], database: Any
) -> None:
    database.execute(
        "UPDATE pgsync_modules.contact SET status = 'blocked', do_not_contact = true"
        " WHERE phone = %s",
        [B],
    )
    contacts.contact_merge(workspace_id=book.workspace, keep=ids[A], others=[ids[B]])
    assert (book.all()[A].status, book.all()[A].do_not_contact) == ("blocked", True)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({B: "pending"}, {A: "pending"}),
        ({A: "pending", B: "pending"}, {A: "pending", B: "skipped"}),
        ({A: "pending", B: "sent"}, {A: "skipped", B: "sent"}),
        ({A: "sent", B: "pending"}, {A: "sent", B: "skipped"}),
        ({A: "failed", B: "pending"}, {A: "failed", B: "skipped"}),
        ({B: "pending", C: "pending"}, {A: "pending", C: "skipped"}),
        ({B: "unknown", C: "pending"}, {B: "unknown", C: "skipped"}),
        ({B: "failed", C: "pending"}, {B: "failed", A: "pending"}),
    ],
)
def test_a_campaign_writes_to_the_person_once(
    contacts: Contacts,
    book: Any,
    ids: dict[str, int],
    sessions: Any,
    database: Any,
    before: dict[str, str],
    after: dict[str, str],
) -> None:
    campaign = _campaign(sessions, book.workspace, database, before)
    contacts.contact_merge(workspace_id=book.workspace, keep=ids[A], others=[ids[B], ids[C]])
    assert _recipients(database, campaign) == after
    messages = database.execute(
        "SELECT DISTINCT contact_id FROM pgsync_modules.contact_messages WHERE campaign_id = %s",
        [campaign],
    )
    assert messages.fetchall() == [(ids[A],)]


def test_the_number_of_a_merged_contact_is_not_written_to_and_is_no_new_contact(
    contacts: Contacts,
    book: Any,
    ids: dict[str, int],
    sessions: Any,
    database: Any,
    tmp_path: Any,
) -> None:
    contacts.contact_merge(workspace_id=book.workspace, keep=ids[A], others=[ids[B]])
    contacts.contact_merge(workspace_id=book.workspace, keep=ids[C], others=[ids[A]])
    campaign = _campaign(sessions, book.workspace, database, {})
    with sessions.begin() as session:
        assert add_phones(session, campaign, [B], None) == 0
        assert add_contacts(session, campaign, Audience()) == 1
    assert _recipients(database, campaign) == {C: "pending"}
    path = book.file("phone,email,tags", f"{B},new@example.org,old", f"{A},,older", f"{C},,oldest")
    result = contacts.contact_import(
        workspace_id=book.workspace, path=path, on_duplicate="overwrite"
    )
    assert (result["imported"], result["updated"], result["duplicates"]) == (0, 1, 2)
    assert (book.all()[C].email, book.all()[C].tags) == ("new@example.org", ["oldest"])
    assert contacts.opt_out(book.workspace, B, source="call").contact_id == ids[C]
    with contacts.editing(book.workspace, A) as contact:
        assert contact.id == ids[C]
    out = tmp_path / "out.csv"
    assert contacts.contact_export(workspace_id=book.workspace, path=str(out))["rows"] == 1


def test_what_is_no_pair_of_contacts_is_refused_and_nothing_changes(
    contacts: Contacts, book: Any, ids: dict[str, int]
) -> None:
    before = {phone: contact.updated_at for phone, contact in book.all().items()}
    merges = (
        (ids[A], [ids[A]], "not merged itself"),
        (ids[A], [], "each contact to merge once"),
        (ids[A], [ids[B], ids[B]], "each contact to merge once"),
        (ids[A], [ids[B], 10**12], "not all of these are contacts"),
    )
    for keep, others, message in merges:
        with pytest.raises(InvalidArgument, match=message):
            contacts.contact_merge(workspace_id=book.workspace, keep=keep, others=others)
    with pytest.raises(InvalidArgument, match="not all of these are contacts"):
        contacts.contact_merge(workspace_id=book.workspace + 1, keep=ids[A], others=[ids[B]])
    assert {phone: contact.updated_at for phone, contact in book.all().items()} == before


def test_many_are_merged_in_one_statement(book: Any, ids: dict[str, int], database: Any) -> None:
    book.add("+12015550104", name="Bo")
    fourth = book.all()["+12015550104"].id
    merged = database.execute(
        "SELECT * FROM pgsync_modules.merge_contacts(%s, %s, %s)",
        [book.workspace, [ids[A], ids[C]], [ids[B], fourth]],
    ).fetchone()
    assert merged == (2, 0, 0)
    assert [book.all()[phone].merged_into for phone in (B, "+12015550104")] == [ids[A], ids[C]]


def test_a_merge_waits_for_a_live_edit_and_keeps_it(
    book: Any, ids: dict[str, int], database: Any, dsn: str, contacts: Contacts
) -> None:
    with psycopg.connect(dsn) as editor, ThreadPoolExecutor(1) as pool:
        editor.execute(
            "UPDATE pgsync_modules.contact SET company = 'Edited' WHERE id = %s", [ids[B]]
        )
        running = pool.submit(
            contacts.contact_merge, workspace_id=book.workspace, keep=ids[A], others=[ids[B]]
        )
        eventually(lambda: sessions_waiting(database) or running.done())
        editor.commit()
        running.result(60)
    assert book.all()[A].company == "Edited"


def test_a_second_merge_at_once_is_refused(
    contacts: Contacts, book: Any, ids: dict[str, int], dsn: str
) -> None:
    with (
        Coordinator(dsn) as other,
        other.lock(f"contact_merge:workspace:{book.workspace}", ttl=60),
        pytest.raises(OperationBlocked, match="Contact merge is already in progress"),
    ):
        contacts.contact_merge(workspace_id=book.workspace, keep=ids[A], others=[ids[B]])
