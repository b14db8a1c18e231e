"""Each library that was handed out works on this schema: deploys roll, and what runs goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgsync.database.migrations import migrate
from tests.eventually import eventually
from tests.upgrades.app import TABLES
from tests.upgrades.record import LIBRARIES, script_of, unpack
from tests.upgrades.statements import answers, statements

pytestmark = pytest.mark.core

_WITHIN = 120.0
_HERE = Path(__file__)

_UNENDED = "SELECT count(*) FROM pgsync.jobs WHERE state <> 'scheduled' OR run_at < now()"
_WRONG = """
SELECT task || ' ' || state, count(*) FROM pgsync.job_history
WHERE (task, state) NOT IN (('broken', 'discarded'), ('send', 'cancelled')) AND state <> 'completed'
GROUP BY 1
UNION ALL
SELECT 'operation ' || state, count(*) FROM pgsync.operations WHERE state <> 'completed' GROUP BY 1
UNION ALL
SELECT duty || ': ' || error, 1 FROM pgsync.maintenance WHERE outcome = 'failed'
    -- Who does not run for five seconds within a transaction loses the session, and goes on.
    AND (duty, left(error, 20)) <> ('fire schedules', 'the connection broke')
UNION ALL
SELECT 'due times not fired', count(*) - extract(epoch FROM max(fire_time) - min(fire_time)) - 1
FROM pgsync.schedule_fire HAVING count(*) <> 1 + extract(epoch FROM max(fire_time) - min(fire_time))
"""


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The code of a library."""
    return unpack(request.param, tmp_path / request.param)


@pytest.fixture
def connection(empty_dsn: str, library: Path) -> Iterator[psycopg.Connection[Any]]:
    """To a database with the schema that the library brought."""
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute(script_of(library.name.replace("library", "schema")).encode())
        yield connection


class Process:
    """The app, with the library in a folder."""

    def __init__(self, dsn: str, library: Path, folder: Path) -> None:
        self._ledger = folder / "ledger"
        self._errors = folder / "stderr"
        self.library = library
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(_HERE.with_name("app.py")), dsn, str(self._ledger)],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(library)},
                stderr=errors,
            )

    def events(self, kind: str) -> list[Any]:
        """What it noted of this kind."""
        text = self._ledger.read_text() if self._ledger.exists() else ""
        return [event for event in map(json.loads, text.splitlines()) if event["event"] == kind]

    def goes_on(self, *kinds: str) -> Callable[[], bool]:
        """Whether it has noted two more of each kind, a round by default, since this was called."""
        before = {kind: len(self.events(kind)) for kind in kinds or ("round",)}

        def has_gone_on() -> bool:
            assert self._process.poll() is None, self.said()
            return all(len(self.events(kind)) >= n + 2 for kind, n in before.items())

        return has_gone_on

    def rest(self) -> None:
        """Have it begin nothing more, and work off what there is."""
        self._process.send_signal(signal.SIGUSR1)

    def end(self) -> None:
        """Have it end, in order."""
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(_WITHIN) == 0, self.said()
        assert self.events("ended")

    def said(self) -> str:
        """What it printed."""
        return self._errors.read_text()[-4000:]

    def kill(self) -> None:
        """For a test that fails."""
        self._process.kill()
        self._process.wait()


@contextmanager
def processes(dsn: str, folder: Path) -> Iterator[Callable[[Path], Process]]:
    """Starts apps."""
    with ExitStack() as stack:
        made: list[Process] = []

        def start(library: Path) -> Process:
            place = folder / f"process {len(made)}"
            place.mkdir()
            made.append(Process(dsn, library, place))
            stack.callback(made[-1].kill)
            return made[-1]

        yield start


@pytest.mark.timeout(600)
def test_an_older_library_works_through_the_upgrade_and_beside_the_new_one(
    library: Path, connection: psycopg.Connection[Any], empty_dsn: str, tmp_path: Path
) -> None:
    connection.execute(TABLES)
    newest = _HERE.parents[2]
    with processes(empty_dsn, tmp_path) as start:
        old = start(library)
        eventually(old.goes_on("round", "fired"), _WITHIN)
        assert migrate(empty_dsn)
        eventually(old.goes_on("round", "fired"), _WITHIN)
        # One that starts on the newer schema, as after a crash, and one that was upgraded.
        all_of_them = [old, start(library), start(newest)]
        for process in all_of_them:
            eventually(process.goes_on(), _WITHIN)
        for process in all_of_them:
            eventually(partial(_works, connection, process.library), _WITHIN)
        for process in all_of_them[:2]:
            process.end()
        eventually(all_of_them[2].goes_on(), _WITHIN)
        all_of_them[2].rest()
        eventually(lambda: connection.execute(_UNENDED).fetchone() == (0,), _WITHIN)
        all_of_them[2].end()
    for process in all_of_them:
        (began,) = process.events("began")
        assert Path(began["library"]).is_relative_to(process.library)
        assert process is old or not process.events("again")
    _check(connection, [job for each in all_of_them for job in _acknowledged(each)])


def _works(connection: psycopg.Connection[Any], library: Path) -> bool:
    """Whether its workers performed some of the last jobs."""
    last = "SELECT library FROM effect ORDER BY job DESC LIMIT 100"
    return (str(library),) in connection.execute(last).fetchall()


def _acknowledged(process: Process) -> list[int]:
    return [job for event in process.events("acknowledged") for job in event["jobs"]]


def _check(connection: psycopg.Connection[Any], acknowledged: list[int]) -> None:
    """No job was lost or done twice, no token fell, and nothing failed but what was to fail."""
    done = Counter(job for (job,) in connection.execute("SELECT job FROM effect"))
    assert set(acknowledged) <= set(done)
    assert set(done.values()) == {1}
    tokens = [token for (token,) in connection.execute("SELECT token FROM guarded ORDER BY place")]
    assert tokens == sorted(set(tokens))
    assert connection.execute(_WRONG.encode()).fetchall() == []


def test_each_statement_of_an_older_library_means_what_it_meant(
    library: Path, connection: psycopg.Connection[Any], empty_dsn: str
) -> None:
    asked = statements(library)
    before = answers(connection, asked)
    # Some are parts of larger ones, or for the tests' own clock.
    meant = {statement: answer for statement, answer in before.items() if isinstance(answer, tuple)}
    assert len(meant) > 100
    migrate(empty_dsn)
    after = answers(connection, meant)
    assert {each: (meant[each], after[each]) for each in meant if after[each] != meant[each]} == {}
