"""Exports: all that was asked for, no formula, and back again by an import."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from openpyxl import load_workbook

from pgsync import Coordinator, InvalidArgument, LockLost, OperationBlocked
from pgsync.modules.contacts import ContactFileError, Contacts, exporting, write_sample
from pgsync.modules.models import Workspace
from pgsync.operations import OperationRun

PHONE = "+12015550123"
HEADER = ["wa_id", "name", "email", "phone", "company", "status", "tags", "notes", "created_at"]


def _facts(found: dict[str, Any]) -> dict[str, Any]:
    return {
        phone: (one.name, one.email, one.company, one.notes, one.tags, one.status, one.custom)
        for phone, one in found.items()
    }


@pytest.mark.parametrize("form", ["csv", "xlsx"])
def test_what_goes_out_comes_back(
    contacts: Contacts, book: Any, sessions: Any, tmp_path: Path, form: str
) -> None:
    write_sample(tmp_path / "sample.csv", rows=1_000, seed=11)
    contacts.contact_import(workspace_id=book.workspace, path=str(tmp_path / "sample.csv"))
    book.add("+16465550100", name='=HYPERLINK("x")', company="'=kept", notes="-1\n+2", tags=["@a"])
    book.add("+16465550101", name="'", email="+a@example.org", status="opted_out")
    tags = ["Smith, John", 'the "best"; ones', "* starred", "a:::b", '"', "plain"]
    book.add("+16465550102", tags=tags, custom={"=Q": "1", "Size (2)": "L"}, status="blocked")
    out = str(tmp_path / f"out.{form}")
    result = contacts.contact_export(
        workspace_id=book.workspace, path=out, custom=["=Q", "Size (2)"]
    )
    before = book.all()
    assert result == {"rows": len(before), "path": out, "format": form}
    with sessions.begin() as session:
        session.add(other := Workspace(name="Other", default_region="DE"))
    back = contacts.contact_import(workspace_id=other.id, path=out, keep_others=True)
    assert (back["imported"], back["rows"]) == (len(before), len(before))
    assert _facts(book.all(other.id)) == _facts(before)


def test_the_columns_and_the_guard(contacts: Contacts, book: Any, tmp_path: Path) -> None:
    book.add(PHONE, name="=1+1", company="@x", notes="\tx", tags=["a", "b"])
    contacts.contact_export(workspace_id=book.workspace, path=str(tmp_path / "out.csv"))
    text = (tmp_path / "out.csv").read_bytes().decode("utf-8-sig")
    header, row = csv.reader(text.splitlines())
    assert header == HEADER
    assert row[:8] == [
        "12015550123",
        "'=1+1",
        "",
        f"'{PHONE}",
        "'@x",
        "active",
        "a; b",
        "'\tx",
    ]
    contacts.contact_export(workspace_id=book.workspace, path=str(tmp_path / "out.xlsx"))
    sheet = load_workbook(tmp_path / "out.xlsx").worksheets[0]
    assert all(cell.data_type != "f" for line in sheet for cell in line)


def test_a_cell_that_no_workbook_holds_is_told_and_nothing_is_cut(
    contacts: Contacts, book: Any, tmp_path: Path
) -> None:
    book.add(PHONE, notes="x" * 40_000)
    with pytest.raises(ContactFileError, match=r"32,767 characters at most.* 12015550123 has more"):
        contacts.contact_export(workspace_id=book.workspace, path=str(tmp_path / "out.xlsx"))
    contacts.contact_export(workspace_id=book.workspace, path=str(tmp_path / "out.csv"))
    assert "x" * 40_000 in (tmp_path / "out.csv").read_text()
    assert len(list(tmp_path.iterdir())) == 1


def test_filters(contacts: Contacts, book: Any, tmp_path: Path) -> None:
    book.add("+12015550101", tags=["vip", "fair"])
    book.add("+12015550102", tags=["fair"], status="blocked")
    book.add("+12015550103")
    path = str(tmp_path / "out.csv")

    def export(**filters: Any) -> int:
        return contacts.contact_export(workspace_id=book.workspace, path=path, **filters)["rows"]

    assert export() == 3
    assert export(tags=["vip", "none"]) == 1
    assert export(tags=["fair"], statuses=["active", "inactive"]) == 1
    assert export(statuses=["blocked"]) == 1
    with pytest.raises(InvalidArgument, match="no status"):
        export(statuses=["gone"])


def test_contacts_are_fetched_a_few_at_a_time(
    contacts: Contacts, book: Any, database: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(exporting, "_CHUNK", 10)
    database.execute(
        "INSERT INTO pgsync_modules.contact (workspace_id, phone)"
        " SELECT %s, '+120155501' || n FROM generate_series(10, 34) AS n",
        [book.workspace],
    )
    progress, seen = OperationRun.progress, []

    def look(op: OperationRun, done: int, total: int | None = None) -> None:
        progress(op, done, total)
        reading = database.execute(
            "SELECT query FROM pg_stat_activity WHERE datname = current_database()"
            " AND state = 'idle in transaction' AND application_name = 'pgsync modules'"
        )
        seen.append((done, total, [query[:13] for (query,) in reading]))

    monkeypatch.setattr(OperationRun, "progress", look)
    contacts.contact_export(workspace_id=book.workspace, path=str(tmp_path / "out.csv"))
    assert [(done, total) for done, total, _ in seen] == [(10, None), (20, None), (25, 25)]
    # A cursor of the server's, not all of its answer in memory.
    assert [queries for *_, queries in seen[:2]] == [["FETCH FORWARD"]] * 2


def test_a_failed_export_leaves_the_old_file(
    contacts: Contacts, book: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    out = tmp_path / "out.csv"
    out.write_text("old")
    book.add(PHONE)

    def lose(op: OperationRun, *given: Any) -> None:
        raise LockLost(op.key, "a test took it")

    monkeypatch.setattr(OperationRun, "progress", lose)
    with pytest.raises(LockLost):
        contacts.contact_export(workspace_id=book.workspace, path=str(out))
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    assert out.read_text() == "old"


def test_a_second_export_at_once_is_refused(
    contacts: Contacts, book: Any, dsn: str, tmp_path: Path
) -> None:
    with (
        Coordinator(dsn) as other,
        other.lock(f"contact_export:workspace:{book.workspace}", ttl=60),
        pytest.raises(OperationBlocked) as caught,
    ):
        contacts.contact_export(workspace_id=book.workspace, path=str(tmp_path / "out.csv"))
    assert str(caught.value) == "Contact export is already in progress"


def test_bad_targets_are_refused(contacts: Contacts, book: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="format"):
        contacts.contact_export(workspace_id=book.workspace, path=str(tmp_path / "out.pdf"))
    with pytest.raises(ContactFileError, match="folder"):
        contacts.contact_export(
            workspace_id=book.workspace, path=str(tmp_path / "none" / "out.csv")
        )
    with pytest.raises(InvalidArgument, match="workspace"):
        contacts.contact_export(workspace_id=-1, path=str(tmp_path / "out.csv"))
    assert not list(tmp_path.iterdir())
