"""Imports beside people who edit contacts: neither loses what the other changed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pgsync import PgsyncError
from pgsync.modules import guarding
from pgsync.modules.contacts import Contact, ContactRow, Contacts
from pgsync.modules.contacts.chunks import Arrival
from pgsync.modules.contacts.lines import Lines
from tests.eventually import eventually
from tests.modules.import_counts import counts
from tests.waiting import sessions_waiting

PHONE = "+12015550123"
OTHER = "+12015550124"


def test_an_import_and_a_live_edit_do_not_lose_each_others_changes(
    contacts: Contacts, book: Any, database: Any
) -> None:
    book.add(PHONE, name="Ana", tags=["vip"])
    path = book.file("phone,email,tags", f"{PHONE},ana@example.org,imported")

    with ThreadPoolExecutor(1) as pool:
        # What an app does: it reads, thinks, and writes what it made of it.
        with contacts.editing(book.workspace, PHONE) as contact:
            running = pool.submit(contacts.contact_import, workspace_id=book.workspace, path=path)
            eventually(lambda: sessions_waiting(database) or running.done())
            contact.tags = [*contact.tags, "edited"]
            contact.name = "Ana Maria"
        running.result(60)
    found = book.all()[PHONE]
    assert (found.name, found.email) == ("Ana Maria", "ana@example.org")
    assert found.tags == ["vip", "edited", "imported"]


def test_what_an_edit_changes_in_place_is_kept(contacts: Contacts, book: Any) -> None:
    book.add(PHONE, tags=["vip"], custom={"Size": "M"})
    before = book.all()[PHONE].updated_at
    with contacts.editing(book.workspace, PHONE) as contact:
        contact.tags.append("edited")
        contact.custom["Club"] = "chess"
    found = book.all()[PHONE]
    assert (found.tags, found.custom) == (["vip", "edited"], {"Size": "M", "Club": "chess"})
    assert found.updated_at > before
    with contacts.editing(book.workspace, PHONE):
        pass
    assert book.all()[PHONE].updated_at == found.updated_at


def test_a_contact_that_somebody_adds_meanwhile_is_merged_like_the_others(
    contacts: Contacts, book: Any, database: Any, sessions: Any
) -> None:
    path = book.file("phone,name,email", f"{PHONE},Ana,ana@example.org", f"{OTHER},Bo,")
    with ThreadPoolExecutor(1) as pool, sessions.begin() as session:
        # Not committed yet, so that the import finds nobody, and waits where it adds.
        session.add(Contact(workspace_id=book.workspace, phone=PHONE, name="Ana Maria"))
        session.flush()
        running = pool.submit(contacts.contact_import, workspace_id=book.workspace, path=path)
        eventually(lambda: sessions_waiting(database) or running.done())
        session.commit()
        result = running.result(60)
    assert counts(result) == {"imported": 1, "updated": 1}
    found = book.all()
    assert (found[PHONE].name, found[PHONE].email) == ("Ana Maria", "ana@example.org")
    assert found[OTHER].name == "Bo"


def test_an_edit_waits_for_an_import_and_sees_what_it_brought(
    contacts: Contacts, book: Any, database: Any, sessions: Any
) -> None:
    book.add(PHONE, tags=["vip"])

    def edit() -> None:
        with contacts.editing(book.workspace, PHONE) as contact:
            contact.tags = [*contact.tags, "edited"]

    with sessions.begin() as session, ThreadPoolExecutor(1) as pool:
        lines = Lines()
        lines.extend([ContactRow(2, PHONE, tags=("imported",))])
        arrival = Arrival(session, 0, book.workspace, lines, lock_known=True)
        arrival.copy_new(meanwhile=lambda: None)
        arrival.merge_others("people.csv", "fill")
        running = pool.submit(edit)
        eventually(lambda: sessions_waiting(database) or running.done())
        session.commit()
        running.result(60)
    assert book.all()[PHONE].tags == ["vip", "imported", "edited"]


def test_an_import_waits_for_an_edit_that_nobody_ends_only_so_long(
    contacts: Contacts, book: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(guarding, "_PATIENCE", 1)
    book.add(PHONE)
    path = book.file("phone,name", f"{PHONE},Ana")
    with (
        contacts.editing(book.workspace, PHONE),
        pytest.raises(PgsyncError, match="others have kept rows locked for over 1 seconds"),
    ):
        contacts.contact_import(workspace_id=book.workspace, path=path)
    result = contacts.contact_import(workspace_id=book.workspace, path=path)
    assert (counts(result), result["resumed"]) == ({"updated": 1}, 1)
