"""Imports against a real database: what a file says, and nothing else, is what becomes of it."""

from __future__ import annotations

import csv
import hashlib
import tempfile
from pathlib import Path
from typing import Any

import pytest
from openpyxl import Workbook

from pgsync import Coordinator, InvalidArgument, OperationBlocked
from pgsync.modules.contacts import (
    ContactFileError,
    Contacts,
    chunks,
    write_sample,
)
from pgsync.modules.contacts.sheets import write_rows
from pgsync.modules.models import Workspace
from pgsync.operations import OperationRun
from tests.modules.import_counts import counts

PHONE = "+12015550123"
OTHER = "+12015550124"


def test_the_sample_becomes_what_it_was_built_from(
    contacts: Contacts, book: Any, database: Any, tmp_path: Path
) -> None:
    truth = write_sample(tmp_path / "sample.csv", rows=5_000, seed=7)
    result = contacts.contact_import(workspace_id=book.workspace, path=str(tmp_path / "sample.csv"))
    assert result["rows"] == truth.rows
    assert counts(result) == {
        "imported": len(truth.contacts),
        "duplicates": truth.duplicates,
        "rejected": len(truth.rejects),
    }
    assert result["errors"] == truth.errors[:20]
    found = book.all()
    assert found.keys() == truth.contacts.keys()
    for phone, expected in truth.contacts.items():
        contact = found[phone]
        assert (contact.name, contact.email, contact.company, contact.notes, contact.tags) == (
            expected.name,
            expected.email,
            expected.company,
            expected.notes,
            list(expected.tags),
        )
    rejects = database.execute(
        "SELECT row, reason FROM pgsync_modules.contact_import_rejects ORDER BY row"
    )
    assert rejects.fetchall() == truth.rejects


def test_a_second_run_changes_nothing(contacts: Contacts, book: Any, tmp_path: Path) -> None:
    path = tmp_path / "sample.csv"
    truth = write_sample(path, rows=2_500, seed=8)
    contacts.contact_import(workspace_id=book.workspace, path=str(path))
    before = {phone: contact.updated_at for phone, contact in book.all().items()}
    again = contacts.contact_import(workspace_id=book.workspace, path=str(path))
    rejected = len(truth.rejects)
    assert counts(again) == {"duplicates": truth.rows - rejected, "rejected": rejected}
    assert {phone: contact.updated_at for phone, contact in book.all().items()} == before


def test_a_second_import_at_once_is_refused(contacts: Contacts, book: Any, dsn: str) -> None:
    path = book.file("phone", PHONE)
    with (
        Coordinator(dsn) as other,
        other.lock(f"contact_import:workspace:{book.workspace}", ttl=60),
        pytest.raises(OperationBlocked) as caught,
    ):
        contacts.contact_import(workspace_id=book.workspace, path=path)
    assert str(caught.value) == "Contact import is already in progress"
    assert not book.all()


@pytest.mark.parametrize(
    ("on_duplicate", "name", "email", "tags", "counted"),
    [
        ("skip", "Old", None, ["vip"], {"duplicates": 2}),
        ("fill", "Old", "new@example.org", ["vip", "fair"], {"updated": 1, "duplicates": 1}),
        ("overwrite", "New", "last@example.org", ["fair"], {"updated": 1, "duplicates": 1}),
    ],
)
def test_what_a_known_contact_gets(
    contacts: Contacts,
    book: Any,
    on_duplicate: str,
    name: str,
    email: str,
    tags: list[str],
    counted: dict[str, int],
) -> None:
    book.add(PHONE, name="Old", company="Acme", tags=["vip"])
    result = contacts.contact_import(
        workspace_id=book.workspace,
        path=book.file(
            "phone,name,email,company,tags",
            "(201) 555-0123,New,new@example.org,,fair",
            "001 201 555 0123, ,last@example.org, ,",
        ),
        on_duplicate=on_duplicate,
    )
    assert counts(result) == counted
    contact = book.all()[PHONE]
    assert (contact.name, contact.email, contact.tags) == (name, email, tags)
    assert contact.company == "Acme"


@pytest.mark.parametrize("on_duplicate", ["skip", "fill", "overwrite"])
@pytest.mark.parametrize("status", ["opted_out", "blocked"])
def test_no_import_clears_an_opt_out(
    contacts: Contacts, book: Any, database: Any, on_duplicate: str, status: str
) -> None:
    book.add(PHONE, status=status, do_not_contact=True)
    database.execute("UPDATE pgsync_modules.contact SET opted_out_at = '2026-01-01'")
    before = book.all()[PHONE].opted_out_at
    contacts.contact_import(
        workspace_id=book.workspace,
        path=book.file("phone,name,status", f"{PHONE},Ana,active"),
        on_duplicate=on_duplicate,
    )
    contact = book.all()[PHONE]
    assert (contact.status, contact.do_not_contact) == (status, True)
    assert contact.opted_out_at == before


@pytest.mark.parametrize(
    ("on_duplicate", "before", "said", "after"),
    [
        ("overwrite", "active", "inactive", "inactive"),
        ("overwrite", "inactive", "blocked", "blocked"),
        ("overwrite", "inactive", "active", "inactive"),
        ("overwrite", "inactive", "", "inactive"),
        ("overwrite", "blocked", "inactive", "blocked"),
        ("overwrite", "opted_out", "blocked", "opted_out"),
        ("fill", "active", "blocked", "active"),
    ],
)
def test_a_file_may_set_a_known_contact_aside_and_never_takes_that_back(
    contacts: Contacts, book: Any, on_duplicate: str, before: str, said: str, after: str
) -> None:
    book.add(PHONE, status=before)
    path = book.file("phone,status", f"{PHONE},{said}")
    contacts.contact_import(workspace_id=book.workspace, path=path, on_duplicate=on_duplicate)
    assert book.all()[PHONE].status == after


def test_an_opt_out_in_the_file_is_kept(contacts: Contacts, book: Any) -> None:
    book.add(PHONE)
    lines = ("phone,status", f"{PHONE},Opted out", f"{OTHER},opted_out")
    contacts.contact_import(workspace_id=book.workspace, path=book.file(*lines))
    for contact in book.all().values():
        assert contact.status == "opted_out"
        assert contact.opted_out_at is not None


def test_columns_that_are_not_understood_can_become_custom_fields(
    contacts: Contacts, book: Any
) -> None:
    book.add(PHONE, custom={"Size": "M"})
    path = book.file("phone,Size,Club", f"{PHONE},L,chess", f"{OTHER},S,")
    contacts.contact_import(workspace_id=book.workspace, path=path, keep_others=True)
    assert {phone: contact.custom for phone, contact in book.all().items()} == {
        PHONE: {"Size": "M", "Club": "chess"},
        OTHER: {"Size": "S"},
    }
    contacts.contact_import(
        workspace_id=book.workspace, path=path, keep_others=True, on_duplicate="overwrite"
    )
    assert book.all()[PHONE].custom == {"Size": "L", "Club": "chess"}


@pytest.mark.parametrize("consent", ["", "yes"], ids=["copied straight", "staged and merged"])
def test_what_cells_hold_comes_in_letter_by_letter(
    contacts: Contacts, book: Any, consent: str
) -> None:
    odd = ["\\N", "C:\\new\\t", "tab\tand\nline", "\\.", "a\\", 'say "hi"', "{}", "NULL", '\\"']
    path = book.folder / "odd.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["phone", "name", "notes", "tags", "Path", "consent", "evidence"])
        for number, text in enumerate(odd):
            writer.writerow([f"+1201555010{number}", text, text, text, text, consent, text])
    contacts.contact_import(
        workspace_id=book.workspace,
        path=str(path),
        mapping={"consent_evidence": "evidence"},
        keep_others=True,
    )
    found = [contact for _, contact in sorted(book.all().items())]
    assert [(one.name, one.notes, one.custom["Path"]) for one in found] == [
        (text,) * 3 for text in odd
    ]
    assert [one.tags for one in found] == [text.split("\n") for text in odd]
    assert [one.consent_evidence for one in found] == [(consent and text) or None for text in odd]


def test_rows_of_one_chunk_count_in_their_order_whatever_they_tell(
    contacts: Contacts, book: Any
) -> None:
    book.add("+12015550125")
    path = book.file(
        "phone,name,status",
        f"{PHONE},Ana,",
        f"{OTHER},,opted_out",
        f"{OTHER},Bo,active",
        f"{PHONE},Ana Maria,opted_out",
        "+12015550125,Cy,inactive",
        "+12015550126,Di,inactive",
    )
    result = contacts.contact_import(
        workspace_id=book.workspace, path=path, on_duplicate="overwrite"
    )
    assert counts(result) == {"imported": 3, "updated": 1, "duplicates": 2}
    assert result["opt_outs_kept"] == 1
    assert {
        phone: (contact.name, contact.status, contact.opted_out_at is not None)
        for phone, contact in book.all().items()
    } == {
        PHONE: ("Ana Maria", "opted_out", True),
        OTHER: ("Bo", "opted_out", True),
        "+12015550125": ("Cy", "inactive", False),
        "+12015550126": ("Di", "inactive", False),
    }


def test_a_workbook_is_imported_as_its_rows_are(
    contacts: Contacts, book: Any, database: Any, tmp_path: Path
) -> None:
    path = tmp_path / "people.xlsx"
    rows = [
        ["", ""],
        ["phone", "notes"],
        [PHONE, 'a "quoted"\nline, and more'],
        ["", ""],
        ["12", "kept"],
        ["", ""],
        [OTHER, "sep=;"],
    ]
    workbook = Workbook(write_only=True)
    sheet = workbook.create_sheet()
    for row in rows:
        sheet.append(row)
    workbook.save(path)
    result = contacts.contact_import(workspace_id=book.workspace, path=str(path))
    assert counts(result) == {"imported": 2, "rejected": 1}
    assert result["errors"] == ["Row 5: Invalid phone number/WhatsApp ID format"]
    assert {phone: contact.notes for phone, contact in book.all().items()} == {
        PHONE: rows[2][1],
        OTHER: rows[6][1],
    }
    digest = database.execute("SELECT digest FROM pgsync_modules.contact_import").fetchone()
    assert digest == (hashlib.sha256(path.read_bytes()).hexdigest(),)


def test_a_workbook_that_finds_no_room_changes_nothing(
    contacts: Contacts, book: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    path = tmp_path / "people.xlsx"
    write_rows(path, "xlsx", [["phone"], [PHONE]])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(ContactFileError, match=r"'people\.xlsx' cannot be unpacked to .*gone"):
        contacts.contact_import(workspace_id=book.workspace, path=str(path))
    assert not book.all()


def test_rows_with_long_cells_are_done_a_few_at_a_time(
    contacts: Contacts, book: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(chunks, "_CHARACTERS", 50_000)
    progress, done = OperationRun.progress, []

    def look(op: OperationRun, rows: int, total: int | None = None) -> None:
        progress(op, rows, total)
        done.append(rows)

    monkeypatch.setattr(OperationRun, "progress", look)
    for phone in (PHONE, "12"):  # good ones and refused ones
        path = book.file("phone,notes", *(f"{phone},{'x' * 300}" for _ in range(750)))
        contacts.contact_import(workspace_id=book.workspace, path=path)
    assert done == [250, 500, 750] * 2


def test_a_number_without_country_is_of_the_workspace_s(
    contacts: Contacts, book: Any, sessions: Any
) -> None:
    with sessions.begin() as session:
        session.add(berlin := Workspace(name="Berlin", default_region="DE"))
    path = book.file("phone", "0151 23456789")
    assert contacts.dry_run(berlin.id, path)["region"] == "DE"
    for workspace, region in ((berlin.id, None), (book.workspace, "de")):
        contacts.contact_import(workspace_id=workspace, path=path, region=region)
        assert book.all(workspace).keys() == {"+4915123456789"}
    contacts.opt_out(berlin.id, "0151 23456789", source="call")
    assert book.all(berlin.id)["+4915123456789"].status == "opted_out"


def test_one_number_in_every_row_is_one_contact(contacts: Contacts, book: Any) -> None:
    lines = [f"{PHONE},,tag {number % 3}" for number in range(300)]
    path = book.file("phone,name,tags", f"{PHONE},Ana,", *lines)
    result = contacts.contact_import(workspace_id=book.workspace, path=path)
    assert counts(result) == {"imported": 1, "duplicates": 300}
    contact = book.all()[PHONE]
    assert (contact.name, contact.tags) == ("Ana", ["tag 0", "tag 1", "tag 2"])


def test_a_file_that_cannot_be_read_changes_nothing(
    contacts: Contacts, book: Any, database: Any
) -> None:
    for content, message in (
        ("", "CSV file is empty or invalid"),
        (f'phone,name\n{PHONE},"open', "Row 2: a quote is opened and never closed"),
        ("nom,prénom\na,b", "no column holds phone numbers"),
    ):
        with pytest.raises(ContactFileError, match=message):
            contacts.contact_import(workspace_id=book.workspace, path=book.file(content))
    assert not book.all()
    assert database.execute("SELECT FROM pgsync_modules.contact_import").fetchone() is None
    state = contacts.contact_import.status(workspace_id=book.workspace)
    assert state is not None
    assert state.state == "failed"


def test_bad_arguments_are_refused(contacts: Contacts, book: Any) -> None:
    path = book.file("phone", PHONE)
    with pytest.raises(InvalidArgument, match="workspace"):
        contacts.contact_import(workspace_id=book.workspace + 1, path=path)
    with pytest.raises(InvalidArgument, match="region"):
        contacts.contact_import(workspace_id=book.workspace, path=path, region="Atlantis")
    with pytest.raises(InvalidArgument, match="on_duplicate"):
        contacts.contact_import(workspace_id=book.workspace, path=path, on_duplicate="merge")


def test_a_worker_imports_with_a_mapping(sync: Coordinator, contacts: Contacts, book: Any) -> None:
    path = book.file("Kunde;Handy", "Zoë;0151 23456789", "Nobody;")
    job = contacts.contact_import.enqueue(
        workspace_id=book.workspace,
        path=path,
        region="de",
        mapping={"phone": "Handy", "name": "Kunde"},
    )
    sync.run_worker(queues=["default"], drain=True)
    state = contacts.contact_import.status(workspace_id=book.workspace)
    assert state is not None
    assert (state.state, state.done, state.total) == ("completed", 2, 2)
    assert job.id
    assert {phone: contact.name for phone, contact in book.all().items()} == {
        "+4915123456789": "Zoë"
    }
