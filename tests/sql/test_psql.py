"""The kernel from psql alone: installed, used and read without any Python of ours."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pgsync.database.binaries import find_binaries
from pgsync.database.install_script import install_script
from pgsync.database.migrations import migrate, sql_folder

pytestmark = pytest.mark.core


def _psql_program() -> str:
    found = find_binaries().program("psql") or shutil.which("psql")
    if found is None:
        pytest.fail("these tests need psql: install PostgreSQL's client (postgresql-client)")
    return str(found)


@pytest.fixture
def psql() -> Callable[..., str]:
    """Runs psql on a database and returns what it prints, without alignment and headers."""
    program = _psql_program()

    def run(dsn: str, *arguments: str) -> str:
        done = subprocess.run(
            [program, "--no-psqlrc", "-qAt", "-v", "ON_ERROR_STOP=1", "-d", dsn, *arguments],
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_the_script_is_fresh() -> None:
    text = (sql_folder() / "install.sql").read_text()
    assert text == install_script(), (
        "run: python -m pgsync.database.install_script > sql/install.sql"
    )


def test_psql_installs_and_migrate_takes_up_from_there(
    empty_dsn: str, psql: Callable[..., str]
) -> None:
    script = str(sql_folder() / "install.sql")
    psql(empty_dsn, "-f", script)
    psql(empty_dsn, "-f", script)
    assert migrate(empty_dsn) == []


def test_psql_and_migrate_install_the_same_schema(
    empty_dsn: str, dsn: str, psql: Callable[..., str]
) -> None:
    psql(empty_dsn, "-f", str(sql_folder() / "install.sql"))
    described = (
        "SELECT p.oid::regprocedure::text, md5(p.prosrc || coalesce(obj_description(p.oid), ''))"
        " FROM pg_proc AS p WHERE p.pronamespace = 'pgsync'::regnamespace"
        " UNION ALL SELECT a.attrelid::regclass || '.' || a.attname,"
        "  a.atttypid::regtype || coalesce(col_description(a.attrelid, a.attnum), '')"
        " FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid"
        " WHERE c.relnamespace = 'pgsync'::regnamespace AND a.attnum > 0 ORDER BY 1, 2"
    )
    by_psql, by_migrate = psql(empty_dsn, "-c", described), psql(dsn, "-c", described)
    assert len(by_psql.splitlines()) > 100
    assert by_psql == by_migrate


def test_a_lock_is_taken_seen_and_released(dsn: str, psql: Callable[..., str]) -> None:
    answer = psql(
        dsn,
        "-c",
        "SELECT acquired, token FROM pgsync.try_lock('report', '5 minutes', 'me')",
        "-c",
        "SELECT name, owner, remaining > interval '4 minutes' FROM pgsync.locks",
        "-c",
        "SELECT pgsync.unlock('report', token) FROM pgsync.locks",
        "-c",
        "SELECT count(*) FROM pgsync.locks",
    )
    grant, *rest = answer.splitlines()
    assert re.fullmatch(r"t\|\d+", grant)
    assert rest == ["report|me|t", "t", "0"]


def test_the_eleventh_hit_of_ten_is_refused(dsn: str, psql: Callable[..., str]) -> None:
    hit = "SELECT allowed, retry_after > interval '50 seconds' FROM pgsync.rate_limit_hit({})"
    call = hit.format("'mail', 10, '1 minute'")
    answers = psql(dsn, *(each for _ in range(11) for each in ("-c", call))).splitlines()
    assert answers == ["t|f"] * 10 + ["f|t"]


def test_a_job_is_enqueued_and_seen(dsn: str, psql: Callable[..., str]) -> None:
    answer = psql(
        dsn,
        "-c",
        "SELECT pgsync.enqueue('send_mail', '{\"to\": \"a@example.org\"}', queue => 'mail')",
        "-c",
        "SELECT id, queue, task, args ->> 'to', state, attempt FROM pgsync.jobs",
    )
    assert answer.splitlines() == ["1", "1|mail|send_mail|a@example.org|available|0"]


def test_the_examples_of_the_readme_run(dsn: str, psql: Callable[..., str], tmp_path: Path) -> None:
    readme = (sql_folder() / "README.md").read_text()
    (example,) = re.findall(r"```sql\n(.*?)```", readme, re.DOTALL)
    (tmp_path / "example.sql").write_text(example)
    lines = psql(dsn, "-f", str(tmp_path / "example.sql")).splitlines()
    assert re.match(r"t\|\d+\|me\|", lines[0])
    assert lines[-1] == "1|mail|send_mail|available|0"
