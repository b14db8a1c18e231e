"""Installing the schema: at once from many processes, with few rights, and refused where unfit."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgsync import Coordinator, Limit, PgsyncError, SchemaMissing, SchemaTooNew, ServerUnsupported
from pgsync.database.migrations import MIGRATION_LOCK, migrate, migrations, render
from pgsync.version import __version__
from tests.eventually import eventually

pytestmark = pytest.mark.core

_MIGRATE = (
    "import sys; from pgsync.database.migrations import migrate; print(*migrate(sys.argv[1]))"
)

_UNCOMMENTED = """
SELECT c.relkind::text || ' ' || c.oid::regclass FROM pg_class AS c
WHERE c.relnamespace::regnamespace::text = ANY (%(schemas)s) AND c.relkind IN ('r', 'p', 'v', 'S', 'i', 'I')
  AND obj_description(c.oid, 'pg_class') IS NULL
  -- What a constraint, an identity column or a partition brings along is told where it is declared.
  AND NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = c.oid)
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'i')
  AND NOT EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhrelid = c.oid AND c.relkind = 'i')
UNION ALL
SELECT 'function ' || p.oid::regprocedure FROM pg_proc AS p
WHERE p.pronamespace::regnamespace::text = ANY (%(schemas)s) AND obj_description(p.oid, 'pg_proc') IS NULL
UNION ALL
SELECT 'column ' || a.attrelid::regclass || '.' || a.attname
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
WHERE c.relnamespace::regnamespace::text = ANY (%(schemas)s) AND c.relkind IN ('r', 'p')
  AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
  AND col_description(c.oid, a.attnum) IS NULL
  -- "Columns as in job_ready" is said once, by the table.
  AND NOT (coalesce(obj_description(c.oid, 'pg_class'), '') ~ 'columns as in' AND a.attname IN
      (SELECT b.attname FROM pg_attribute AS b JOIN pg_class AS o ON o.oid = b.attrelid
       WHERE o.relname IN ('job_ready', 'job_running')))
ORDER BY 1
"""  # noqa: E501

SHAPE = """
SELECT 'column ' || c.oid::regclass || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
       || ' ' || a.attnotnull || ' ' || coalesce(col_description(c.oid, a.attnum), '')
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relnamespace = 'pgsync'::regnamespace
UNION ALL
SELECT 'function ' || p.oid::regprocedure || md5(pg_get_functiondef(p.oid))
FROM pg_proc AS p WHERE p.pronamespace = 'pgsync'::regnamespace
UNION ALL
SELECT 'view ' || c.oid::regclass || md5(pg_get_viewdef(c.oid))
FROM pg_class AS c WHERE c.relnamespace = 'pgsync'::regnamespace AND c.relkind = 'v'
UNION ALL
SELECT 'constraint ' || k.conname || pg_get_constraintdef(k.oid)
FROM pg_constraint AS k WHERE k.connamespace = 'pgsync'::regnamespace
UNION ALL
SELECT 'migration ' || component || version || name || checksum FROM pgsync.schema_migration
ORDER BY 1
"""  # noqa: E501


def test_many_processes_may_migrate_at_once(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn) as starter:
        # All stand at the line before the first may go.
        starter.execute("SELECT pg_advisory_xact_lock(%s)", [MIGRATION_LOCK])
        processes = [
            subprocess.Popen([sys.executable, "-c", _MIGRATE, empty_dsn], stdout=subprocess.PIPE)
            for _ in range(10)
        ]
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        eventually(lambda: starter.execute(waiting).fetchone() == (10,), within=60)
    answers = [process.communicate(timeout=240)[0].decode().strip() for process in processes]
    assert [process.returncode for process in processes] == [0] * 10
    assert sorted(bool(answer) for answer in answers) == [False] * 9 + [True]
    assert migrate(empty_dsn) == []


def test_an_edited_migration_is_refused(dsn: str, database: Any) -> None:
    database.execute("UPDATE pgsync.schema_migration SET checksum = 'x' WHERE version = 2")
    with pytest.raises(PgsyncError, match=r"0002_locks\.sql differs"):
        migrate(dsn)


@pytest.mark.parametrize("migration", [True, False])
def test_a_schema_of_a_later_minor_version_is_refused(
    dsn: str, database: Any, migration: bool
) -> None:
    if migration:  # Its functions may mean something else without one.
        database.execute("INSERT INTO pgsync.schema_migration VALUES ('kernel', 9999, 'next', 'x')")
    major, minor, _ = __version__.split(".")
    installed_by(database, later := f"{major}.{int(minor) + 1}.0")
    with Coordinator(dsn) as sync, pytest.raises(SchemaTooNew, match=later):
        sync.job(1)
    with pytest.raises(SchemaTooNew, match="upgrade pgsync"):
        migrate(dsn)


def test_functions_of_an_earlier_version_are_refused(dsn: str, database: Any) -> None:
    installed_by(database, "0.0.9")
    with Coordinator(dsn) as sync, pytest.raises(SchemaMissing, match=r"0\.0\.9.* pgsync migrate"):
        sync.job(1)


def test_a_schema_of_a_later_patch_is_worked_on(dsn: str, database: Any) -> None:
    database.execute("INSERT INTO pgsync.schema_migration VALUES ('kernel', 9999, 'next', 'x')")
    installed_by(database, __version__.rpartition(".")[0] + ".99")
    with Coordinator(dsn) as sync:
        assert sync.run_worker(drain=True, scheduler=True).completed == 0


def test_an_older_process_that_migrates_leaves_a_newer_schema_as_it_is(
    dsn: str, database: Any
) -> None:
    record = "SELECT version, name, checksum FROM pgsync.schema_migration ORDER BY 1, 2, 3"
    database.execute("UPDATE pgsync.schema_migration SET checksum = 'x' WHERE component = 'api'")
    database.execute("INSERT INTO pgsync.schema_migration VALUES ('kernel', 9999, 'next', 'x')")
    before = database.execute(record).fetchall()
    assert migrate(dsn) == []
    assert database.execute(record).fetchall() == before


def installed_by(database: Any, version: str) -> None:
    database.execute(
        "UPDATE pgsync.schema_migration SET name = %s WHERE component = 'api'", [version]
    )


def test_a_missing_or_older_schema_is_refused(empty_dsn: str, dsn: str, database: Any) -> None:
    with Coordinator(empty_dsn) as sync:
        with pytest.raises(SchemaMissing, match="run pgsync migrate"):
            sync.lock("report", ttl=1).acquire()
        with pytest.raises(SchemaMissing, match="run pgsync migrate"):
            sync.limiter("graph", Limit(1, per=1)).hit("7")
    # The last one, and one before it that came later than a newer one.
    for number in (-1, -2):
        version = migrations("kernel")[number].version
        database.execute("DELETE FROM pgsync.schema_migration WHERE version = %s", [version])
        with Coordinator(dsn) as sync, pytest.raises(SchemaMissing, match=f"migration {version}"):
            sync.run_worker(drain=True)


@pytest.fixture
def role(server_dsn: str, empty_dsn: str) -> Iterator[str]:
    """A role that may nothing but connect; the test's empty database is closed to others."""
    name = f"plain_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(empty_dsn, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'plain'")
        yield name
        admin.execute(f"DROP OWNED BY {name} CASCADE")
        admin.execute(f"DROP ROLE {name}")


@pytest.mark.parametrize("grant", ["CREATE on the database", "a schema of the DBA's making"])
def test_a_role_without_superuser_installs_and_uses_it(
    empty_dsn: str, role: str, grant: str
) -> None:
    plain = make_conninfo(empty_dsn, user=role, password="plain")
    with pytest.raises(ServerUnsupported, match="grant the role this right"):
        migrate(plain)
    with psycopg.connect(empty_dsn, autocommit=True) as admin:
        name = admin.info.dbname
        if grant.startswith("CREATE"):
            admin.execute(f"GRANT CREATE ON DATABASE {name} TO {role}")
        else:
            admin.execute(f"CREATE SCHEMA pgsync AUTHORIZATION {role}")
    assert migrate(plain)
    # Its search_path has no schema pgsync, so every name in the functions is spelled out.
    with Coordinator(plain) as sync:
        ran: list[int] = []
        task: Any = sync.task(name="work")(lambda n: ran.append(n))
        task.enqueue(n=1)
        with sync.lock("report", ttl=60) as lock:
            lock.renew()
        assert sync.limiter("graph", Limit(9, per=1), Limit(9, per=9)).hit("7")
        operation: Any = sync.operation("op", lock="op", ttl=60)(lambda op: None)
        operation()
        assert sync.run_worker(drain=True, scheduler=True).completed == 1
    assert ran == [1]


def test_everything_has_a_comment(database: Any) -> None:
    schemas = ["pgsync", "pgsync_modules"]
    missing = database.execute(_UNCOMMENTED, {"schemas": schemas}).fetchall()
    assert [row[0] for row in missing] == []


def test_the_rendered_script_makes_the_same_schema(
    make_database: Callable[[str], str], empty_dsn: str
) -> None:
    rendered = make_database("template0")
    migrate(empty_dsn)
    with psycopg.connect(rendered, autocommit=True) as connection:
        connection.execute(render().encode())
        theirs = connection.execute(SHAPE).fetchall()
    with psycopg.connect(empty_dsn) as connection:
        ours = connection.execute(SHAPE).fetchall()
    assert theirs == ours
    assert migrate(rendered) == []
