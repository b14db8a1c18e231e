"""Imports against a real database: what a file says, and nothing else, is what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pgsync import Coordinator, InvalidArgument, LockLost, OperationBlocked
from pgsync.modules.contacts import ContactFileError, Contacts, write_sample
from pgsync.operations import OperationRun

PHONE = "+12015550123"
OTHER = "+12015550124"


def _counts(result: dict[str, Any]) -> dict[str, int]:
    names = ("imported", "updated", "duplicates", "rejected")
    assert result["rows"] == sum(result[name] for name in names)
    return {name: result[name] for name in names if result[name]}


def test_the_sample_becomes_what_it_was_built_from(
    contacts: Contacts, book: Any, database: Any, tmp_path: Path
) -> None:
    truth = write_sample(tmp_path / "sample.csv", rows=5_000, seed=7)
    result = contacts.contact_import(workspace_id=book.workspace, path=str(tmp_path / "sample.csv"))
    assert result["rows"] == truth.rows
    assert _counts(result) == {
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
    left = database.execute("SELECT count(*) FROM pgsync_modules.contact_import_row")
    assert left.fetchone() == (0,)


def test_a_second_run_changes_nothing(contacts: Contacts, book: Any, tmp_path: Path) -> None:
    path = tmp_path / "sample.csv"
    truth = write_sample(path, rows=2_500, seed=8)
    contacts.contact_import(workspace_id=book.workspace, path=str(path))
    before = {phone: contact.updated_at for phone, contact in book.all().items()}
    again = contacts.contact_import(workspace_id=book.workspace, path=str(path))
    rejected = len(truth.rejects)
    assert _counts(again) == {"duplicates": truth.rows - rejected, "rejected": rejected}
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
    ("on_duplicate", "name", "email", "tags", "counts"),
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
    counts: dict[str, int],
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
    assert _counts(result) == counts
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


def test_an_opt_out_in_the_file_is_kept(contacts: Contacts, book: Any) -> None:
    book.add(PHONE)
    lines = ("phone,status", f"{PHONE},Opted out", f"{OTHER},opted_out")
    contacts.contact_import(workspace_id=book.workspace, path=book.file(*lines))
    for contact in book.all().values():
        assert contact.status == "opted_out"
        assert contact.opted_out_at is not None


def test_a_lost_lock_stops_the_import(
    sync: Coordinator, sessions: Any, book: Any, database: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    contacts = Contacts(sync, sessions, batch=100)
    write_sample(tmp_path / "sample.csv", rows=1_000)
    key = contacts.contact_import.key(workspace_id=book.workspace)
    progress, reports = OperationRun.progress, []

    def report_then_lose(op: OperationRun, done: int, total: int | None = None) -> None:
        reports.append(total)
        if reports.count(1_000) == 3:
            database.execute("SELECT pgsync.force_unlock(%s)", [key])
            database.execute("SELECT pgsync.try_lock(%s, '1 minute', 'another')", [key])
        progress(op, done, total)

    monkeypatch.setattr(OperationRun, "progress", report_then_lose)
    with pytest.raises(LockLost):
        contacts.contact_import(workspace_id=book.workspace, path=str(tmp_path / "sample.csv"))
    assert reports.count(1_000) == 3
    state, imported, through = database.execute(
        "SELECT state, imported, merged_through FROM pgsync_modules.contact_import"
    ).fetchone()
    found = book.all()
    assert (state, imported) == ("failed", len(found))
    assert max(found) == through
    assert sync.status_of("contact_import", key).state == "failed"


def test_a_crashed_import_is_started_over(
    contacts: Contacts, book: Any, database: Any, tmp_path: Path
) -> None:
    path = tmp_path / "sample.csv"
    truth = write_sample(path, rows=500, seed=9)
    database.execute(
        "INSERT INTO pgsync_modules.contact_import (id, workspace_id, file_name, on_duplicate,"
        " state) OVERRIDING SYSTEM VALUE VALUES (77, %s, 'sample.csv', 'fill', 'merging')",
        [book.workspace],
    )
    database.execute(
        "INSERT INTO pgsync_modules.contact_import_row (import_id, row, phone, name)"
        " VALUES (77, 2, %s, 'half')",
        [PHONE],
    )
    result = contacts.contact_import(workspace_id=book.workspace, path=str(path))
    assert result["imported"] == len(truth.contacts) == len(book.all())
    states = database.execute("SELECT state FROM pgsync_modules.contact_import ORDER BY id DESC")
    assert states.fetchall() == [("abandoned",), ("completed",)]
    assert database.execute(
        "SELECT count(*) FROM pgsync_modules.contact_import_row"
    ).fetchone() == (0,)


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
    states = database.execute(
        "SELECT DISTINCT state, error IS NULL FROM pgsync_modules.contact_import"
    )
    assert states.fetchall() == [("failed", False)]


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
