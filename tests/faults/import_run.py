"""A large import beside COPY, its memory and progress, and once more killed half-way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from pgsync.database.embedded import EmbeddedServer
from pgsync.database.migrations import migrate
from tests.faults.people import misplaced, write_people
from tests.faults.report import Report, run_folder

__all__ = ["run", "run_on", "run_worker"]

_REPOSITORY = Path(__file__).parents[2]
_ROOM_MB = 48  # What an allocator may keep; a list of all rows would be hundreds.


def run(rows: int) -> Report:
    """Do the whole of it on a server of its own."""
    with run_folder(Report()) as folder, EmbeddedServer(folder / "server") as server:
        migrate(server.dsn, modules=True)
        return run_on(server.dsn, folder, rows)


def run_on(dsn: str, folder: Path, rows: int) -> Report:
    """Do it on a migrated database, with files in the folder."""
    report = Report()
    batch = max(100, min(10_000, rows // 20))
    tenth, whole = folder / "tenth.csv", folder / "whole.csv"
    write_people(tenth, rows // 10)
    truth = write_people(whole, rows)
    with psycopg.connect(dsn, autocommit=True) as database:
        first, second, third = (_workspace(database) for _ in range(3))
        copied = _copy(database, whole)
        small = run_worker(dsn, first, tenth, batch)
        with _watching(dsn) as seen:
            large = run_worker(dsn, second, whole, batch)
        killed = run_worker(dsn, third, whole, batch, kill_in=rows // batch // 2)
        half = _contacts(database, third)
        resumed = run_worker(dsn, third, whole, batch)
        kept = _copy_contacts(database, dsn, second)
        report.violations += _wrong(truth, large, 0) + _wrong(truth, resumed, 1)
        if killed is not None:
            report.violations.append("the import that was to be killed ended")
        if not 0 < half < truth["imported"]:
            report.violations.append(f"it was killed with {half} contacts, not half-way")
        for workspace, its in ((first, rows // 10), (second, rows), (third, rows)):
            report.violations += misplaced(database, workspace, its)
    if large is None or small is None or resumed is None:
        report.violations.append("an import did not end; see its error above")
        return report
    if large["peak_mb"] > small["peak_mb"] + _ROOM_MB:
        report.violations.append("memory grows with the rows")
    # The operation tells five times a second at the most.
    if not seen or seen != sorted(seen) or seen[-1] != rows:
        report.violations.append(f"progress was {seen[:5]} to {seen[-5:]}")
    report.faults["kill -9 in a chunk's transaction"] += 1
    report.figures = {
        "rows": rows,
        "import, s": round(large["seconds"], 1),
        "the rest after the kill, s": round(resumed["seconds"], 1),
        "contacts at the kill": half,
        "COPY of the file, bare table, s": round(copied, 1),
        "COPY of contacts, like table, s": round(kept, 1),
        "import to COPY, bare table": round(copied / large["seconds"], 3),
        "import to COPY, like table": round(kept / large["seconds"], 3),
        f"peak memory, {rows // 10:,} rows, MB": round(small["peak_mb"]),
        f"peak memory, {rows:,} rows, MB": round(large["peak_mb"]),
        "steps of progress seen": len(set(seen)),
        "contacts": truth["imported"],
    }
    return report


def run_worker(
    dsn: str, workspace: int, path: Path, batch: int, *, kill_in: int = 0
) -> dict[str, Any] | None:
    """Import in a process of its own; None if it was killed. Raises where it ends otherwise."""
    given = (dsn, str(workspace), str(path), str(batch), str(kill_in))
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.import_worker", *given],
        stdout=subprocess.PIPE,
        text=True,
        cwd=_REPOSITORY,
        check=False,
    )
    if done.returncode == -signal.SIGKILL:
        return None
    done.check_returncode()
    return dict(json.loads(done.stdout))


def _workspace(database: psycopg.Connection[Any]) -> int:
    row = database.execute(
        "INSERT INTO pgsync_modules.workspace (name, default_region) VALUES ('w', 'US')"
        " RETURNING id"
    ).fetchone()
    assert row is not None
    return int(row[0])


def _contacts(database: psycopg.Connection[Any], workspace: int) -> int:
    row = database.execute(
        "SELECT count(*) FROM pgsync_modules.contact WHERE workspace_id = %s", [workspace]
    ).fetchone()
    assert row is not None
    return int(row[0])


def _copy(database: psycopg.Connection[Any], path: Path) -> float:
    """Seconds of COPY of the very file into a table without keys, logged as the contacts are."""
    database.execute(
        "CREATE TABLE bare (phone text, name text, email text, company text, tags text)"
    )
    began = time.monotonic()
    with (
        database.cursor() as cursor,
        cursor.copy("COPY bare FROM STDIN (FORMAT csv, HEADER)") as copy,
        path.open("rb") as file,
    ):
        while block := file.read(1 << 16):
            copy.write(block)
    return time.monotonic() - began


def _copy_contacts(database: psycopg.Connection[Any], dsn: str, workspace: int) -> float:
    """Seconds of COPY of the imported contacts into a table with their constraints and indexes."""
    database.execute(
        "CREATE TABLE kept (LIKE pgsync_modules.contact INCLUDING ALL,"
        " FOREIGN KEY (workspace_id) REFERENCES pgsync_modules.workspace (id))"
    )
    database.execute("CREATE TABLE rows_of_kept (LIKE pgsync_modules.contact)")
    database.execute(
        "INSERT INTO rows_of_kept SELECT * FROM pgsync_modules.contact WHERE workspace_id = %s",
        [workspace],
    )
    with psycopg.connect(dsn, autocommit=True) as source:
        with (
            source.cursor() as reader,
            database.cursor() as writer,
            reader.copy("COPY rows_of_kept TO STDOUT (FORMAT binary)") as out,
            writer.copy("COPY kept FROM STDIN (FORMAT binary)") as into,
        ):
            began = time.monotonic()
            for block in out:
                into.write(block)
        return time.monotonic() - began


@contextmanager
def _watching(dsn: str) -> Iterator[list[int]]:
    """What ``pgsync.operations`` tells of the newest import while the block runs."""
    seen: list[int] = []
    stop = threading.Event()

    def look(database: psycopg.Connection[Any]) -> None:
        row = database.execute(
            "SELECT done FROM pgsync.operations WHERE operation = 'contact_import'"
            " AND done IS NOT NULL AND id > %s ORDER BY id DESC LIMIT 1",
            [mark],
        ).fetchone()
        if row is not None and row[0] not in seen[-1:]:
            seen.append(row[0])

    def follow() -> None:
        with psycopg.connect(dsn, autocommit=True) as database:
            while not stop.wait(0.2):
                look(database)
            look(database)

    with psycopg.connect(dsn, autocommit=True) as database:
        newest = database.execute("SELECT coalesce(max(id), 0) FROM pgsync.operations").fetchone()
    assert newest is not None
    mark = newest[0]
    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def _wrong(truth: dict[str, int], done: dict[str, Any] | None, resumed: int) -> list[str]:
    if done is None:
        return []
    expected = {"updated": 0, **truth, "resumed": resumed}
    return [
        f"{name}: {done['result'][name]}, not {number}"
        for name, number in expected.items()
        if done["result"][name] != number
    ]
