"""A dry run: it counts as the import does afterwards, and writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pgsync import Coordinator, InvalidArgument
from pgsync.modules.contacts import Contact, ContactFileError, Contacts, write_sample
from pgsync.modules.models import Workspace

PHONE = "+12015550123"
COUNTS = ("rows", "imported", "updated", "duplicates", "rejected", "opt_outs_kept", "errors")

# Few numbers, so that most rows meet another, or a contact that is known.
_CELLS = {
    "phone": ("12", "", *(f"+120155501{number:02}" for number in range(8))),
    "name": ("", "Ana", "Bo"),
    "tags": ("", "vip", "vip;fair"),
    "status": ("", "active", "blocked", "opted_out"),
    "consent": ("", "yes", "no"),
    "Size": ("", "M"),
}


# Not made smaller where it fails: that would take minutes.
@settings(
    max_examples=20,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(st.tuples(*map(st.sampled_from, _CELLS.values())), max_size=30),
    st.sampled_from(("skip", "fill", "overwrite")),
    st.booleans(),
)
def test_a_dry_run_counts_as_the_import_does(
    few_at_a_time: Contacts,
    book: Any,
    rows: list[tuple[str, ...]],
    on_duplicate: str,
    keep_others: bool,
) -> None:
    book.workspace = _known_people(few_at_a_time, book)
    path = book.file(",".join(_CELLS), *(",".join(f'"{cell}"' for cell in row) for row in rows))
    given_ = {"on_duplicate": on_duplicate, "keep_others": keep_others}
    before = {phone: contact.updated_at for phone, contact in book.all().items()}
    told = few_at_a_time.dry_run(book.workspace, path, **given_)
    assert {phone: contact.updated_at for phone, contact in book.all().items()} == before
    done = few_at_a_time.contact_import(workspace_id=book.workspace, path=path, **given_)
    assert {name: told[name] for name in COUNTS} == {name: done[name] for name in COUNTS}


@pytest.fixture
def few_at_a_time(sync: Coordinator, sessions: Any) -> Contacts:
    """So that the rows of a number are often in different chunks."""
    return Contacts(sync, sessions, batch=4)


def _known_people(contacts: Contacts, book: Any) -> int:
    """A workspace of its own with contacts of all kinds, one of them merged into another."""
    with book.sessions.begin() as session:
        session.add(home := Workspace(name="Home", default_region="US"))
        session.flush()
        known = [
            Contact(workspace_id=home.id, phone=f"+120155501{number:02}", **values)
            for number, values in enumerate(
                (
                    {"name": "Ana", "tags": ["vip"], "custom": {"Size": "L"}},
                    {"name": "Old", "status": "opted_out"},
                    {"status": "blocked"},
                    {},
                )
            )
        ]
        session.add_all(known)
    contacts.contact_merge(workspace_id=home.id, keep=known[0].id, others=[known[3].id])
    return int(home.id)


def test_a_dry_run_writes_no_import(contacts: Contacts, book: Any, database: Any) -> None:
    contacts.dry_run(book.workspace, book.file("phone", PHONE))
    assert database.execute("SELECT FROM pgsync_modules.contact_import").fetchone() is None
    assert not book.all()


def test_a_dry_run_of_the_sample_knows_its_truth(
    contacts: Contacts, book: Any, tmp_path: Path
) -> None:
    truth = write_sample(tmp_path / "sample.csv", rows=3_000, seed=4)
    told = contacts.dry_run(book.workspace, tmp_path / "sample.csv")
    assert (told["rows"], told["imported"]) == (truth.rows, len(truth.contacts))
    assert (told["duplicates"], told["rejected"]) == (truth.duplicates, len(truth.rejects))
    assert told["errors"] == truth.errors[:20]
    assert not book.all()


def test_a_dry_run_tells_which_rows_have_one_number(contacts: Contacts, book: Any) -> None:
    rows = ("+12015550123", "12", "+12015550124", "(201) 555-0123", "", "2015550123")
    told = contacts.dry_run(book.workspace, book.file("phone", *rows))
    assert told["repeats"] == [
        "Row 5: its number is that of row 2",
        "Row 7: its number is that of row 2",
    ]
    many = contacts.dry_run(book.workspace, book.file("phone", *(rows[:1] * 50)))
    assert (len(many["repeats"]), many["duplicates"]) == (20, 49)


def test_a_dry_run_shows_columns_and_first_rows(contacts: Contacts, book: Any) -> None:
    path = book.file(
        "Handy;First Name;Last Name;Size;consent;consent_at", f"{PHONE};Ana;Lima;M;yes;2026-01-01"
    )
    told = contacts.dry_run(
        book.workspace, path, first=1, mapping={"phone": "Handy"}, keep_others=True
    )
    assert told["format"] == "CSV in utf-8, delimiter ';'"
    assert told["fields"] == {
        "phone": ["Handy"],
        "name": ["First Name", "Last Name"],
        "consent": ["consent"],
        "consent_at": ["consent_at"],
    }
    assert told["others"] == ["Size"]
    assert told["first"] == [
        {
            "row": 2,
            "phone": PHONE,
            "name": "Ana Lima",
            "custom": {"Size": "M"},
            "consent": {
                "opted_in": True,
                "at": "2026-01-01T00:00:00+00:00",
                "source": None,
                "evidence": None,
            },
        }
    ]


def test_a_dry_run_refuses_what_an_import_refuses(contacts: Contacts, book: Any) -> None:
    path = book.file("phone", PHONE)
    with pytest.raises(InvalidArgument, match="no workspace"):
        contacts.dry_run(book.workspace + 1, path)
    with pytest.raises(InvalidArgument, match="no region"):
        contacts.dry_run(book.workspace, path, region="Atlantis")
    with pytest.raises(ContactFileError, match="no column holds phone numbers"):
        contacts.dry_run(book.workspace, book.file("nom", "Ana"))
