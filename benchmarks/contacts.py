"""The import of a CSV file of contacts beside COPY of the same rows."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
from psycopg import sql

from benchmarks.frame import Comparison, Contender, Pace, compare
from benchmarks.peers import Peers
from pgsync import Coordinator
from pgsync.database.migrations import migrate
from pgsync.modules.contacts import Contacts, write_sample
from pgsync.modules.database import sessions_for
from pgsync.modules.models import Workspace

__all__ = ["measure"]

_ROWS = 100_000
_COLUMNS = ("phone", "name", "email", "company", "notes")


def measure(dsn: str, pace: Pace, _peers: Peers) -> Iterator[Comparison]:
    """Yield the comparison of this subject.

    The rows are dirty, as those of people are: phone numbers in ten spellings, doubles, refused
    ones. COPY is given the contacts that they make; once into a bare table, and once into one with
    the constraints and indexes of the contacts. The import is given the same once more as a file:
    its numbers are in E.164 already, so that next to nothing is spent on reading them.
    """
    migrate(dsn, modules=True)
    with tempfile.TemporaryDirectory() as folder, psycopg.connect(dsn, autocommit=True) as raw:
        dirty, clean = Path(folder) / "dirty.csv", Path(folder) / "clean.csv"
        truth = write_sample(dirty, rows=pace.count(_ROWS), seed=7)
        contacts = [(c.phone, c.name, c.email, c.company, c.notes) for c in truth.contacts.values()]
        with clean.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([_COLUMNS, *contacts])
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
                return len(contacts)

            def bring(path: Path, rows: int) -> int:
                raw.execute(
                    "TRUNCATE pgsync_modules.contact, pgsync_modules.contact_import CASCADE"
                )
                result = module.contact_import(workspace_id=workspace.id, path=str(path))
                assert result["imported"] == len(contacts)
                return rows

            yield compare(
                f"import of {truth.rows:,} rows of CSV",
                [
                    Contender("COPY, bare table", partial(copy, "bench_contact")),
                    Contender("COPY, constraints and indexes", partial(copy, "bench_contact_kept")),
                    Contender("pgsync", partial(bring, dirty, truth.rows)),
                    Contender("pgsync, numbers in E.164", partial(bring, clean, len(contacts))),
                ],
                pace.few,
            )
        sessions.kw["bind"].dispose()
