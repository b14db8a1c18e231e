"""The import of a CSV file of contacts beside COPY of the same rows."""

from __future__ import annotations

import csv
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
from psycopg import sql

from benchmarks.frame import Comparison, Contender, Pace, Run, compare
from benchmarks.peers import Peers
from pgsync import Coordinator
from pgsync.database.migrations import migrate
from pgsync.modules.contacts import Contacts, write_sample
from pgsync.modules.contacts.phones import to_e164
from pgsync.modules.database import sessions_for
from pgsync.modules.models import Workspace

__all__ = ["measure"]

_ROWS = 100_000
_COLUMNS = ("phone", "name", "email", "company", "notes")


def measure(dsn: str, pace: Pace, _peers: Peers) -> Iterator[Comparison]:
    """Yield the comparison of this subject.

    The rows are dirty, as those of people are: phone numbers in ten spellings, doubles, refused
    ones. COPY is given them clean; once into a bare table, and once into one with the constraints
    and indexes of the contacts.
    """
    migrate(dsn, modules=True)
    with tempfile.TemporaryDirectory() as folder, psycopg.connect(dsn, autocommit=True) as raw:
        path = Path(folder) / "contacts.csv"
        truth = write_sample(path, rows=pace.count(_ROWS), seed=7)
        contacts = [(c.phone, c.name, c.email, c.company, c.notes) for c in truth.contacts.values()]
        sessions = sessions_for(dsn)
        with sessions.begin() as session:
            session.add(workspace := Workspace(name="bench", default_region="US"))
        raw.execute("CREATE TABLE bench_contact (LIKE pgsync_modules.contact INCLUDING DEFAULTS)")
        raw.execute(
            "CREATE TABLE bench_contact_kept (LIKE pgsync_modules.contact INCLUDING ALL,"
            " FOREIGN KEY (workspace_id) REFERENCES pgsync_modules.workspace (id))"
        )
        with Coordinator(dsn) as sync:
            module = Contacts(sync, sessions)

            def copy(table: str) -> int:
                raw.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier(table)))
                columns = sql.SQL(", ").join(map(sql.Identifier, ("id", "workspace_id", *_COLUMNS)))
                statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
                    sql.Identifier(table), columns
                )
                with raw.cursor() as cursor, cursor.copy(statement) as stream:
                    for number, contact in enumerate(contacts):
                        stream.write_row((number, workspace.id, *contact))
                return truth.rows

            def bring(aside: float = 0.0) -> Run:
                raw.execute(
                    "TRUNCATE pgsync_modules.contact, pgsync_modules.contact_import CASCADE"
                )
                began = time.perf_counter()
                result = module.contact_import(workspace_id=workspace.id, path=str(path))
                took = time.perf_counter() - began
                assert result["imported"] == len(truth.contacts)
                return Run(truth.rows, took - aside)

            phones = _seconds_for_phones(path)
            yield compare(
                f"import of {truth.rows:,} rows of CSV",
                [
                    Contender("COPY, bare table", partial(copy, "bench_contact")),
                    Contender("COPY, constraints and indexes", partial(copy, "bench_contact_kept")),
                    Contender("pgsync", bring),
                    Contender("pgsync, phone numbers aside", partial(bring, phones)),
                ],
                pace.rounds,
            )
        sessions.kw["bind"].dispose()


def _seconds_for_phones(path: Path) -> float:
    """How long it takes to read the phone numbers of the file alone."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        cells = [row[1] for row in csv.reader(file) if len(row) > 1]
    to_e164.cache_clear()
    began = time.perf_counter()
    for cell in cells:
        to_e164(cell, "US")
    took = time.perf_counter() - began
    to_e164.cache_clear()
    return took
