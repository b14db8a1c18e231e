"""What ends an import or export that a worker runs: a request to cancel, a worker that stops."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from pgsync import Coordinator
from pgsync.modules.contacts import Contacts, exporting, write_sample
from pgsync.operations import OperationRun
from pgsync.queues import current_job
from tests.eventually import eventually


@pytest.fixture
def at_first_progress(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Callable[[OperationRun], None]], None]:
    """Has something done where a run first tells how far it is, before it goes on."""

    def do(what: Callable[[OperationRun], None]) -> None:
        progress, told = OperationRun.progress, threading.Event()

        def tell(op: OperationRun, done: int, total: int | None = None) -> None:
            progress(op, done, total)
            if not told.is_set():
                told.set()
                what(op)

        monkeypatch.setattr(OperationRun, "progress", tell)

    return do


def _cancel(database: Any) -> Callable[[OperationRun], None]:
    def cancel(op: OperationRun) -> None:
        database.execute("SELECT pgsync.cancel_operation(%s, 'bob')", [op.id])
        job = current_job()
        assert job is not None
        eventually(lambda: job.is_cancelled)

    return cancel


def _import_state(database: Any) -> Any:
    return database.execute(
        "SELECT state, rows, through FROM pgsync_modules.contact_import"
    ).fetchone()


def test_an_import_that_is_cancelled_stops_at_its_chunk_and_another_goes_on(
    sync: Coordinator,
    sessions: sessionmaker[Session],
    book: Any,
    database: Any,
    at_first_progress: Any,
    tmp_path: Path,
) -> None:
    contacts = Contacts(sync, sessions, batch=100)
    truth = write_sample(tmp_path / "sample.csv", rows=400)
    here = {"workspace_id": book.workspace, "path": str(tmp_path / "sample.csv")}
    at_first_progress(_cancel(database))
    contacts.contact_import.enqueue(**here)
    assert sync.run_worker(queues=["default"], drain=True).cancelled == 1
    assert _import_state(database) == ("failed", 100, 101)
    assert (
        sync.status_of("contact_import", contacts.contact_import.key(**here)).state == "cancelled"
    )
    done = contacts.contact_import(**here)
    assert (done["rows"], done["resumed"]) == (400, 1)
    assert book.all().keys() == truth.contacts.keys()


def test_an_import_whose_worker_stops_goes_on_in_another(
    sync: Coordinator,
    sessions: sessionmaker[Session],
    book: Any,
    database: Any,
    at_first_progress: Any,
    tmp_path: Path,
) -> None:
    contacts = Contacts(sync, sessions, batch=100)
    truth = write_sample(tmp_path / "sample.csv", rows=400)
    began = threading.Event()

    def wait(op: OperationRun) -> None:
        began.set()
        job = current_job()
        assert job is not None
        assert job.stopping.wait(60)

    at_first_progress(wait)
    job = contacts.contact_import.enqueue(
        workspace_id=book.workspace, path=str(tmp_path / "sample.csv")
    )
    sync.start(queues=["default"], grace=60)
    assert began.wait(60)
    sync.stop()
    assert _import_state(database)[1:] == (100, 101)
    assert sync.job(job.id).attempt == 0
    assert sync.run_worker(queues=["default"], drain=True).completed == 1
    assert _import_state(database)[:2] == ("completed", 400)
    assert book.all().keys() == truth.contacts.keys()


def test_an_export_that_is_cancelled_leaves_the_old_file(
    sync: Coordinator,
    contacts: Contacts,
    book: Any,
    database: Any,
    at_first_progress: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(exporting, "_CHUNK", 10)
    database.execute(
        "INSERT INTO pgsync_modules.contact (workspace_id, phone)"
        " SELECT %s, '+120155501' || n FROM generate_series(10, 39) AS n",
        [book.workspace],
    )
    out = tmp_path / "out.csv"
    out.write_text("old")
    at_first_progress(_cancel(database))
    contacts.contact_export.enqueue(workspace_id=book.workspace, path=str(out))
    assert sync.run_worker(queues=["default"], drain=True).cancelled == 1
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
