"""Who may do what, from the catalogue: nothing is granted that no list names, or is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import errors as pg

from pgsync.database.migrations import migrate

pytestmark = pytest.mark.core

Connect = Callable[[str], psycopg.Connection[Any]]


def names(connection: Any, query: str, *values: Any) -> set[str]:
    return {row[0] for row in connection.execute(query, values or None)}


def test_rights_are_what_they_should_be_and_the_public_has_none(guarded: Any) -> None:
    assert guarded.execute("SELECT pgsync.grant_roles()").fetchone() == (0,)
    wrong = guarded.execute("SELECT * FROM pgsync.role_grants WHERE wanted <> granted").fetchall()
    assert wrong == []
    of_public = names(guarded, "SELECT object FROM pgsync.role_grants WHERE grantee = 'PUBLIC'")
    assert of_public == set()


def test_without_roles_nothing_is_granted_and_nothing_taken(database: Any, dsn: str) -> None:
    # They exist in the server by now, which says nothing of this database.
    database.execute("UPDATE pgsync.schema_migration SET checksum = 'x' WHERE component = 'api'")
    assert migrate(dsn)
    granted = names(database, "SELECT DISTINCT grantee FROM pgsync.role_grants WHERE granted")
    assert granted == {"PUBLIC"}


def test_each_migration_grants_anew(guarded: Any, dsn: str, connected: Connect) -> None:
    worker = connected("pgsync_worker")
    guarded.execute("UPDATE pgsync.schema_migration SET checksum = 'x' WHERE component = 'api'")
    # As a function of an older version, which everybody could call.
    guarded.execute("DROP FUNCTION pgsync.lead_maintenance(text)")
    guarded.execute("GRANT EXECUTE ON FUNCTION pgsync.force_unlock TO pgsync_worker")
    assert migrate(dsn)
    assert names(guarded, "SELECT object FROM pgsync.role_grants WHERE wanted <> granted") == set()
    assert worker.execute("SELECT count(*) FROM pgsync.locks").fetchone() == (0,)


def test_what_runs_as_the_owner_looks_up_no_name_of_the_caller(database: Any) -> None:
    definers = database.execute(
        "SELECT p.proname, p.proconfig FROM pg_proc AS p"
        " WHERE p.pronamespace IN ('pgsync'::regnamespace, 'pgsync_modules'::regnamespace)"
        " AND p.prosecdef ORDER BY p.proname"
    ).fetchall()
    assert [name for name, _ in definers] == ["do_duty", "lock_token_base", "summarize_history"]
    for _, settings in definers:
        assert "search_path=pg_catalog, pgsync, pg_temp" in settings


def test_a_reader_reads_all_and_writes_nothing(connected: Connect) -> None:
    reader = connected("pgsync_reader")
    relations = (
        "SELECT c.oid::regclass::text FROM pg_class AS c WHERE c.relkind = ANY (%s)"
        " AND c.relnamespace IN ('pgsync'::regnamespace, 'pgsync_modules'::regnamespace)"
        " AND NOT c.relispartition"
    )
    views = names(reader, relations, ["v"])
    assert len(views) > 25
    for view in views:
        reader.execute(f"SELECT * FROM {view}").fetchall()
    writable = names(
        reader, relations + " AND has_table_privilege(c.oid, %s)", ["r", "p", "v"], _ANY_WRITE
    )
    assert writable == set()
    for call in ("enqueue('mail')", "try_lock('report', '1 min')", "pause_queue('mail')"):
        with pytest.raises(pg.InsufficientPrivilege):
            reader.execute(f"SELECT pgsync.{call}")


_ANY_WRITE = "INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER"


def test_a_reader_does_not_see_access_tokens(connected: Connect) -> None:
    reader = connected("pgsync_reader")
    reader.execute("SELECT id, name, waba_id FROM pgsync_modules.connection").fetchall()
    for columns in ("token", "*"):
        with pytest.raises(pg.InsufficientPrivilege):
            reader.execute(f"SELECT {columns} FROM pgsync_modules.connection")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT pgsync.force_unlock('report')",
        "SELECT pgsync.pause_queue('mail')",
        "SELECT pgsync.retain_queue('mail', '1 hour')",
        "INSERT INTO pgsync.queue (name, paused_at) VALUES ('mail', now())",
        "SELECT pgsync.retry_job(1)",
        "SELECT pgsync.discard_job(1)",
        "SELECT pgsync.set_limit('graph', 1, '1 min')",
        "SELECT pgsync.prune_history('0')",
        "SELECT pgsync.prune_audit('0')",
        "SELECT pgsync.drop_history('job_finished_default')",
        "SELECT pgsync.grant_roles()",
        "UPDATE pgsync.queue SET paused_at = now()",
        "DELETE FROM pgsync.job_finished",
        "UPDATE pgsync.audit_entry SET actor = 'nobody'",
        "DELETE FROM pgsync.audit_entry",
        "SELECT setval('pgsync.lock_token', 1)",
        "DELETE FROM pgsync.schema_migration",
        "TRUNCATE pgsync.job_ready",
        "CREATE TABLE pgsync.mine (id int)",
    ],
)
def test_a_worker_may_not(connected: Connect, statement: str) -> None:
    with pytest.raises(pg.InsufficientPrivilege):
        connected("pgsync_worker").execute(statement.encode())


def test_a_worker_may_not_say_how_long_things_are_kept(connected: Connect) -> None:
    worker = connected("pgsync_worker")
    assert worker.execute("SELECT pgsync.do_duty('drop old history')").fetchone() == (0,)
    with pytest.raises(pg.InvalidParameterValue):
        worker.execute("SELECT pgsync.do_duty('SELECT pgsync.prune_history(''0'')')")


def test_an_admin_operates(connected: Connect, guarded: Any) -> None:
    admin, worker = connected("pgsync_admin"), connected("pgsync_worker")
    worker.execute("SELECT pgsync.enqueue('mail')")
    admin.execute("SELECT pgsync.pause_queue('default')")
    admin.execute("SELECT pgsync.limit_queue('default', 1)")
    assert admin.execute("SELECT pgsync.discard_job(1)").fetchone() == ("discarded",)
    assert admin.execute("SELECT pgsync.retry_job(1)").fetchone() == ("available",)
    assert worker.execute(
        "SELECT l.acquired FROM pgsync.try_lock('report', '1 min') AS l"
    ).fetchone() == (True,)
    # To end another role's session is the server's to allow, not the schema's.
    with pytest.raises(pg.InsufficientPrivilege, match="may not end the session"):
        admin.execute("SELECT pgsync.force_unlock('report')")
    for right in ("pg_signal_backend", "pg_read_all_stats"):
        guarded.execute(f"GRANT {right} TO {admin.info.user}")
    assert admin.execute("SELECT pgsync.force_unlock('report')").fetchone() == (True,)
    actions = admin.execute("SELECT a.action FROM pgsync.audit AS a").fetchall()
    assert ("lock.forced",) in actions
