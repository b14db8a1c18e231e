"""Imports that are cut off, by a lost lock or a kill, and go on behind their last chunk."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pgsync import Coordinator, LockLost, OperationBlocked
from pgsync.modules.contacts import Contacts, SampleTruth, write_sample
from pgsync.operations import OperationRun
from tests.eventually import eventually
from tests.faults.import_run import run_worker
from tests.modules.import_counts import counts

PHONE = "+12015550123"
OTHER = "+12015550124"


def test_a_lost_lock_stops_the_import_and_the_next_one_goes_on(
    sync: Coordinator, sessions: Any, book: Any, database: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    contacts = Contacts(sync, sessions, batch=100)
    path = tmp_path / "sample.csv"
    truth = write_sample(path, rows=1_000)
    key = contacts.contact_import.key(workspace_id=book.workspace)
    progress, reports = OperationRun.progress, []

    def report_then_lose(op: OperationRun, done: int, total: int | None = None) -> None:
        reports.append(done)
        if len(reports) == 3:
            database.execute("SELECT pgsync.force_unlock(%s)", [key])
            database.execute("SELECT pgsync.try_lock(%s, '1 minute', 'another')", [key])
        progress(op, done, total)

    monkeypatch.setattr(OperationRun, "progress", report_then_lose)
    with pytest.raises(LockLost):
        contacts.contact_import(workspace_id=book.workspace, path=str(path))
    assert reports == [100, 200, 300]
    assert database.execute(
        "SELECT state, rows, through, imported FROM pgsync_modules.contact_import"
    ).fetchone() == ("failed", 300, 301, len(book.all()))
    assert sync.status_of("contact_import", key).state == "failed"

    monkeypatch.undo()
    database.execute("SELECT pgsync.force_unlock(%s)", [key])
    _resumes(contacts, book, path, truth)


def test_an_import_killed_in_the_middle_goes_on_where_it_was(
    contacts: Contacts, book: Any, dsn: str, tmp_path: Path
) -> None:
    path = tmp_path / "sample.csv"
    truth = write_sample(path, rows=5_000, seed=9)
    assert run_worker(dsn, book.workspace, path, batch=50, kill_in=40) is None
    _resumes(contacts, book, path, truth)


def _resumes(contacts: Contacts, book: Any, path: Path, truth: SampleTruth) -> None:
    """The next import of the file ends as if the first had never been cut off."""

    def import_it() -> dict[str, Any] | None:
        with suppress(OperationBlocked):  # The server takes a moment to see that a process died.
            return contacts.contact_import(workspace_id=book.workspace, path=str(path))
        return None

    result = eventually(import_it, within=60)
    assert result["resumed"] == 1
    assert counts(result) == {
        "imported": len(truth.contacts),
        "duplicates": truth.duplicates,
        "rejected": len(truth.rejects),
    }
    assert result["errors"] == truth.errors[:20]
    assert {phone: contact.name for phone, contact in book.all().items()} == {
        phone: contact.name for phone, contact in truth.contacts.items()
    }


@pytest.mark.parametrize("other", ["file", "settings"])
def test_another_import_does_not_go_on_with_the_one_before(
    contacts: Contacts, book: Any, database: Any, other: str
) -> None:
    path = book.file("phone,name", f"{PHONE},Ana", f"{OTHER},Bo")
    contacts.contact_import(workspace_id=book.workspace, path=path)
    database.execute(
        "UPDATE pgsync_modules.contact_import SET state = 'running', rows = 1, through = 2"
    )
    if other == "file":
        path = book.file("phone,name", f"{PHONE},Ana", f"{OTHER},Bob")
    result = contacts.contact_import(
        workspace_id=book.workspace,
        path=path,
        on_duplicate="overwrite" if other == "settings" else "fill",
    )
    assert (result["rows"], result["resumed"]) == (2, 0)
    states = database.execute("SELECT state FROM pgsync_modules.contact_import ORDER BY id")
    assert states.fetchall() == [("abandoned",), ("completed",)]
