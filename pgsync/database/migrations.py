"""The schema: which SQL belongs to this version of pgsync, and bringing a database up to it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, takewhile
from pathlib import Path
from typing import Any, cast

import psycopg
from psycopg import errors as pg

from pgsync.database.dsn import check_server, connect
from pgsync.database.faults import translated
from pgsync.database.pooler import refuse_transaction_pooler
from pgsync.database.short_tries import apply_in_short_tries
from pgsync.errors import ConnectionFailed, PgsyncError, SchemaMissing, SchemaTooNew
from pgsync.version import __version__

__all__ = [
    "Script",
    "api",
    "check_schema",
    "functions_are_current",
    "migrate",
    "migrations",
    "render",
    "sql_folder",
]

MIGRATION_LOCK = 1715735445101742194
"""``pgsync.lock_key('pgsync.migrate')``: one migration at a time in a database."""

GRANTS = "SELECT pgsync.grant_roles(only_where_used => true)"
"""What is made anew has lost its grants: goes into the transaction that makes it."""

_LOCK_SECONDS = 120
_PATIENCE = 300.0
_NAME = re.compile(r"(\d+)_(\w+)\.sql")


@dataclass(frozen=True, slots=True)
class Script:
    """One SQL file: a migration (applied once) or a part of the api (replaced when it changes)."""

    component: str
    version: int
    name: str
    path: Path
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, in hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@cache
def sql_folder() -> Path:
    """The folder ``sql/``: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    for folder in (package / "sql", package.parent / "sql"):
        if (folder / "migrations").is_dir():
            return folder
    raise PgsyncError("pgsync's SQL files are missing from this installation; install it again")


@cache
def migrations(component: str) -> tuple[Script, ...]:
    """The migrations of ``kernel`` or ``modules``, oldest first."""
    folder = {"kernel": "migrations", "modules": "modules"}[component]
    return tuple(_scripts(component, sql_folder() / folder))


@cache
def api() -> tuple[Script, ...]:
    """The files of functions and views, in the order in which they are applied."""
    return tuple(_scripts("api", sql_folder() / "api"))


def _scripts(component: str, folder: Path) -> Iterator[Script]:
    for path in sorted(folder.glob("*.sql")):
        match = _NAME.fullmatch(path.name)
        if match:
            yield Script(component, int(match[1]), match[2], path, path.read_text("utf-8"))


def api_checksum() -> str:
    """One checksum over all functions and views."""
    return hashlib.sha256("".join(script.checksum for script in api()).encode()).hexdigest()


def migrate(
    dsn: str,
    *,
    modules: bool = False,
    roles: bool = False,
    told: Callable[[str], None] | None = None,
    patience: float = _PATIENCE,
) -> list[str]:
    """Bring the database up to this version's schema and return the names of what was applied.

    ``told`` hears each name when that is done, since an index on a long history takes a while.

    Safe to call from many processes at once: an advisory lock lets one work while the others wait,
    at most two minutes. Each migration is a transaction of its own, but one that takes functions
    away, and all behind it, which go with the functions that come in their place. A migration for
    which a table in use is not free is tried again, for ``patience`` seconds.

    ``roles`` creates the roles ``pgsync_reader``, ``pgsync_worker`` and ``pgsync_admin`` where they
    are missing, and has this and later migrations keep their rights.

    Raises:
        PgsyncError: if a table in use was not free for so long.
        SchemaTooNew: if the schema was installed by a newer pgsync.
        ServerUnsupported: if the server is too old, read only, or the role may not create schemas.
        PoolerDetected: if a pooler stands there that shares its sessions, and with them the lock.
        ConnectionFailed: if the server cannot be reached, or another migration does not end.
    """
    with connect(dsn, "pgsync migrate") as connection:
        check_server(connection)
        refuse_transaction_pooler(connection, dsn)
        _take_migration_lock(connection)
        with translated():
            applied = []
            steps = chain(_kernel_steps(connection), _modules_steps(connection) if modules else ())
            for step in steps:
                apply_in_short_tries(connection, step.title, step.texts, patience)
                for name in step.names:
                    applied.append(name)
                    if told:
                        told(name)
            connection.execute("SELECT pgsync.prepare_history()")
            if roles:
                connection.execute("SELECT pgsync.create_roles()")
    return applied


def check_schema(connection: psycopg.Connection[Any]) -> None:
    """Refuse to work on a schema that is not this version's.

    One of a later patch of this minor version is taken for it, by however many migrations it is
    ahead: in a rolling deploy the schema is migrated first, and processes of the former version may
    start again beside those of the new one.

    Raises:
        SchemaMissing: if it is not installed, or older than this code.
        SchemaTooNew: if it was migrated by a newer minor version of pgsync.
    """
    installed = _installed(connection).get("kernel", {})
    if not installed:
        raise SchemaMissing("the schema pgsync is not in this database; run pgsync migrate")
    newest = max(installed)
    if missing := [s.version for s in migrations("kernel") if s.version not in installed]:
        raise SchemaMissing(
            f"the schema pgsync is at version {newest}, and this code needs migration "
            f"{missing[0]} too; run pgsync migrate"
        )
    installed_by = _installed_by(connection)
    if _release(installed_by) < _release(__version__):
        raise SchemaMissing(
            f"the functions of the schema pgsync are of version {installed_by or 'unknown'}, and "
            f"this code is {__version__}; run pgsync migrate"
        )
    _refuse_later(installed_by)


def _installed_by(connection: psycopg.Connection[Any]) -> str:
    """The version of pgsync that installed the functions and views."""
    with translated():
        row = connection.execute(
            "SELECT m.name FROM pgsync.schema_migration AS m WHERE m.component = 'api'"
        ).fetchone()
    return row[0] if row else ""


def functions_are_current(connection: psycopg.Connection[Any]) -> bool:
    """Whether the installed functions and views are those of this code."""
    return _installed(connection).get("api", {}).get(0) == api_checksum()


def render(*, modules: bool = False, roles: bool = False) -> str:
    """The whole schema as one script for psql, for a DBA to read and run."""
    components = ["kernel", "modules"] if modules else ["kernel"]
    parts = ["-- The schema of pgsync, whole. Run it once, on a database that has none.", "BEGIN;"]
    for component in components:
        for script in migrations(component):
            parts += [script.text.strip(), f"{record_statement(script)};"]
        if component == "kernel":
            parts += [script.text.strip() for script in api()]
            parts.append(f"{api_statement()};")
    parts.append("SELECT pgsync.create_roles();" if roles else f"{GRANTS};")
    parts += ["SELECT pgsync.prepare_history();", "COMMIT;", ""]
    return "\n\n".join(parts)


def record_statement(script: Script) -> str:
    """The statement that records a migration; its values are file names and hex digits."""
    return (
        "INSERT INTO pgsync.schema_migration (component, version, name, checksum)\n"
        f"VALUES ('{script.component}', {script.version}, '{script.name}', '{script.checksum}')"
    )


def api_statement() -> str:
    """The statement that records which functions and views are installed."""
    return (
        "INSERT INTO pgsync.schema_migration (component, version, name, checksum)\n"
        f"VALUES ('api', 0, '{__version__}', '{api_checksum()}')\n"
        "ON CONFLICT (component, version) DO UPDATE\n"
        "SET name = excluded.name, checksum = excluded.checksum, applied_at = clock_timestamp()"
    )


def _take_migration_lock(connection: psycopg.Connection[Any]) -> None:
    connection.execute("SELECT set_config('lock_timeout', %s, false)", [f"{_LOCK_SECONDS}s"])
    try:
        connection.execute("SELECT pg_advisory_lock(%s)", [MIGRATION_LOCK])
    except pg.LockNotAvailable:
        raise ConnectionFailed(
            f"another migration of this database has not ended in {_LOCK_SECONDS} seconds; "
            "look for application_name 'pgsync migrate' in pg_stat_activity"
        ) from None


@dataclass(frozen=True, slots=True)
class _Step:
    """What goes in one transaction."""

    names: list[str]
    texts: list[str]

    @property
    def title(self) -> str:
        """What it is, for people."""
        return " to ".join(dict.fromkeys([self.names[0], self.names[-1]]))


def _kernel_steps(connection: psycopg.Connection[Any]) -> Iterator[_Step]:
    pending = _pending(connection, "kernel")
    alone = list(takewhile(lambda script: not _TAKES_AWAY.search(script.text), pending))
    yield from _one_by_one(alone)
    # Nobody may call a function after one commit and miss it until the next.
    together = pending[len(alone) :]
    names, texts = _names(together), [*chain.from_iterable(map(_recorded, together))]
    if _api_is_due(connection):
        names.append(f"api {__version__}")
        texts += [*(script.text for script in api()), api_statement(), GRANTS]
    if names:
        yield _Step(names, texts)


def _modules_steps(connection: psycopg.Connection[Any]) -> Iterator[_Step]:
    pending = _pending(connection, "modules")
    yield from _one_by_one(pending)
    if pending:
        connection.execute(GRANTS)


def _one_by_one(scripts: Sequence[Script]) -> Iterator[_Step]:
    for script in scripts:
        yield _Step(_names([script]), _recorded(script))


def _names(scripts: Sequence[Script]) -> list[str]:
    return [f"{script.component} {script.version:04d} {script.name}" for script in scripts]


def _recorded(script: Script) -> list[str]:
    return [script.text, record_statement(script)]


_TAKES_AWAY = re.compile(r"^\s*DROP (FUNCTION|VIEW)", re.MULTILINE)


def _pending(connection: psycopg.Connection[Any], component: str) -> list[Script]:
    installed = _installed(connection).get(component, {})
    if installed:
        _refuse_later(_installed_by(connection))
    for script in migrations(component):
        if script.version in installed:
            _refuse_changed(script, installed[script.version])
    return [script for script in migrations(component) if script.version not in installed]


def _api_is_due(connection: psycopg.Connection[Any]) -> bool:
    version, installed = _installed_by(connection), _installed(connection)
    # In a rolling deploy the older code must leave the newer code's functions alone.
    older = _release(version) > _release(__version__) or (
        max(installed.get("kernel", {}), default=0) > migrations("kernel")[-1].version
    )
    return not older and installed.get("api", {}).get(0) != api_checksum()


def _installed(connection: psycopg.Connection[Any]) -> dict[str, dict[int, str]]:
    installed: dict[str, dict[int, str]] = {}
    with translated():
        found = connection.execute("SELECT to_regclass('pgsync.schema_migration')").fetchone()
        if found and found[0]:
            rows = connection.execute(
                "SELECT component, version, checksum FROM pgsync.schema_migration"
            )
            for component, version, checksum in rows:
                installed.setdefault(component, {})[version] = checksum
    return installed


def _refuse_later(installed_by: str) -> None:
    if _release(installed_by)[:2] > _release(__version__)[:2]:
        raise SchemaTooNew(
            f"the schema pgsync was migrated by version {installed_by}, and this code, "
            f"{__version__}, works on those up to {'.'.join(__version__.split('.')[:2])}.x: "
            "upgrade pgsync"
        )


def _refuse_changed(script: Script, checksum: str) -> None:
    if script.checksum != checksum:
        raise PgsyncError(
            f"migration {script.path.name} differs from the one applied to this database: "
            "migrations are never edited; restore the file, or start from an empty schema"
        )


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in cast(list[str], re.findall(r"\d+", version))[:3])
