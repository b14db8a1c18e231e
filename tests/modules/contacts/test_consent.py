"""Consent: who opted in or out, when, how that is known; and nothing of it lost."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from pgsync import InvalidArgument
from pgsync.modules.contacts import Contacts

PHONE = "+12015550123"
OTHER = "+12015550124"
EARLY, LATE = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)


def _events(database: Any) -> list[tuple[Any, ...]]:
    return database.execute(
        "SELECT phone, event, at, source, evidence FROM pgsync_modules.contact_event ORDER BY id"
    ).fetchall()


def test_an_opt_out_and_a_later_opt_in_are_kept_with_their_evidence(
    contacts: Contacts, book: Any, database: Any
) -> None:
    out = contacts.opt_out(book.workspace, PHONE, source="letter", evidence="page 3", at=EARLY)
    assert (out.status, out.at, out.changed) == ("opted_out", EARLY, True)
    back = contacts.opt_in(book.workspace, PHONE, source="form", evidence="/signup/7", at=LATE)
    assert (back.contact_id, back.status, back.changed) == (out.contact_id, "active", True)
    contact = book.all()[PHONE]
    assert (contact.opted_in_at, contact.opted_out_at) == (LATE, None)
    assert (contact.consent_source, contact.consent_evidence) == ("form", "/signup/7")
    assert _events(database) == [
        (PHONE, "opted_out", EARLY, "letter", "page 3"),
        (PHONE, "opted_in", LATE, "form", "/signup/7"),
    ]


def test_an_opt_in_that_is_older_than_the_opt_out_changes_nothing(
    contacts: Contacts, book: Any, database: Any
) -> None:
    contacts.opt_out(book.workspace, PHONE, source="letter", at=LATE)
    late = contacts.opt_in(book.workspace, PHONE, source="form", evidence="/1", at=EARLY)
    assert (late.status, late.changed) == ("opted_out", False)
    again = contacts.opt_out(book.workspace, PHONE, source="call")
    assert (again.at, again.changed) == (LATE, False)
    assert [event[1] for event in _events(database)] == ["opted_out"]


def test_an_opt_in_without_evidence_is_refused(contacts: Contacts, book: Any) -> None:
    with pytest.raises(InvalidArgument, match="needs a source and its evidence"):
        contacts.opt_in(book.workspace, PHONE, source="form", evidence=" ")
    with pytest.raises(InvalidArgument, match="is no phone number"):
        contacts.opt_out(book.workspace, "12", source="form")
    with pytest.raises(InvalidArgument, match="no workspace"):
        contacts.opt_out(book.workspace + 1, PHONE, source="form")
    assert not book.all()


def test_a_blocked_contact_stays_blocked_whatever_it_consents_to(
    contacts: Contacts, book: Any
) -> None:
    book.add(PHONE, status="blocked")
    contacts.opt_out(book.workspace, "(201) 555-0123", source="call")
    assert (book.all()[PHONE].status, book.all()[PHONE].opted_out_at is None) == ("blocked", False)
    contacts.opt_in(book.workspace, PHONE, source="form", evidence="/1")
    assert (book.all()[PHONE].status, book.all()[PHONE].opted_out_at) == ("blocked", None)


def test_whoever_writes_an_opt_out_there_is_an_event(book: Any, database: Any) -> None:
    book.add(PHONE)
    database.execute("UPDATE pgsync_modules.contact SET status = 'opted_out'")
    database.execute("UPDATE pgsync_modules.contact SET opted_out_at = '2026-01-01'")
    database.execute(
        "UPDATE pgsync_modules.contact SET status = 'active', opted_out_at = NULL, name = 'Ana'"
    )
    assert [event[1] for event in _events(database)] == [
        "opted_out",
        "opted_out",
        "opt_out_cleared",
    ]


@pytest.mark.parametrize("on_duplicate", ["skip", "fill", "overwrite"])
def test_no_import_opts_in_who_has_opted_out_and_it_says_so(
    contacts: Contacts, book: Any, database: Any, on_duplicate: str
) -> None:
    contacts.opt_out(book.workspace, PHONE, source="letter", at=EARLY)
    result = contacts.contact_import(
        workspace_id=book.workspace,
        path=book.file(
            "phone,name,status,opt in,opt in date",
            f"{PHONE},Ana,active,yes,2026-03-01",
            f"{OTHER},Bo,,yes,2026-03-01",
            f"{OTHER},Bo,,no,",
            f"{OTHER},Bo,active,yes,2026-04-01",
        ),
        on_duplicate=on_duplicate,
    )
    assert result["opt_outs_kept"] == 2
    found = book.all()
    assert {found[PHONE].status, found[OTHER].status} == {"opted_out"}
    assert (found[PHONE].opted_in_at, found[PHONE].opted_out_at) == (None, EARLY)
    assert [event[:2] for event in _events(database)] == [
        (PHONE, "opted_out"),
        (OTHER, "opted_in"),
        (OTHER, "opted_out"),
    ]


@pytest.mark.parametrize("on_duplicate", ["skip", "fill", "overwrite"])
def test_an_opt_out_in_a_file_holds_however_it_treats_what_is_known(
    contacts: Contacts, book: Any, database: Any, on_duplicate: str
) -> None:
    book.add(PHONE, name="Ana")
    book.add(OTHER, status="blocked")
    path = book.file("phone,name,consent", f"{PHONE},Bea,No", f"{OTHER},,withdrawn")
    result = contacts.contact_import(
        workspace_id=book.workspace, path=path, on_duplicate=on_duplicate
    )
    assert result["updated"] == 2
    found = book.all()
    assert (found[PHONE].status, found[OTHER].status) == ("opted_out", "blocked")
    assert found[PHONE].name == ("Bea" if on_duplicate == "overwrite" else "Ana")
    assert all(contact.opted_out_at is not None for contact in found.values())
    assert [event[3:] for event in _events(database)] == [
        ("import", "people.csv, row 2"),
        ("import", "people.csv, row 3"),
    ]
    assert (
        contacts.contact_import(workspace_id=book.workspace, path=path, on_duplicate=on_duplicate)[
            "updated"
        ]
        == 0
    )


@pytest.mark.parametrize(("yes", "no"), [("Ja", "Nein"), ("OUI", "non"), ("sí", "Não")])
def test_a_no_in_another_language_is_an_opt_out(
    contacts: Contacts, book: Any, yes: str, no: str
) -> None:
    path = book.file("Telefon;Einwilligung", f"{PHONE};{no}", f"{OTHER};{yes}")
    contacts.contact_import(workspace_id=book.workspace, path=path)
    found = book.all()
    assert (found[PHONE].status, found[OTHER].status) == ("opted_out", "active")
    assert found[OTHER].opted_in_at is not None


def test_consent_in_a_file_comes_with_what_the_file_says_of_it(
    contacts: Contacts, book: Any, database: Any
) -> None:
    book.add(OTHER)
    path = book.file(
        "phone,opted_in,consent_date,consent_source,consent_proof",
        f"{PHONE},YES,2026-01-01T01:00:00+01:00,fair,card 12",
        f"{OTHER},x,2026-01-01,,",
        "+12015550125,perhaps,2026-01-01,fair,",
    )
    contacts.contact_import(workspace_id=book.workspace, path=path)
    assert _events(database) == [
        (PHONE, "opted_in", EARLY, "fair", "card 12"),
        (OTHER, "opted_in", EARLY, "import", "people.csv, row 3"),
    ]
    found = book.all()
    assert found[PHONE].opted_in_at == found[OTHER].opted_in_at == EARLY
    assert found["+12015550125"].opted_in_at is None
