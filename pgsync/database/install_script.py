"""``sql/install.sql``: the schema for those who have psql and no Python.

``python -m pgsync.database.install_script`` prints it; a test keeps the file in the repository
equal to what is printed.
"""

from __future__ import annotations

import sys

from pgsync.database.migrations import (
    GRANTS,
    MIGRATION_LOCK,
    Script,
    api,
    api_statement,
    migrations,
    record_statement,
)

__all__ = ["install_script"]

_HEAD = """\
-- Installs the schema pgsync, or brings it up to this version:
--     psql "$PGSYNC_DSN" -f sql/install.sql
-- Written by python -m pgsync.database.install_script; do not edit.

\\set ON_ERROR_STOP on
SELECT pg_advisory_lock({lock}) \\g /dev/null
-- All traffic would wait behind whoever waits longer for a table: rather run this again.
SET lock_timeout = '2s';
SELECT to_regclass('pgsync.schema_migration') IS NULL AS pending \\gset
\\if :pending
BEGIN;
\\ir {first}
{record};
COMMIT;
\\endif
"""

_MIGRATION = """\
SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = '{component}' AND version = {version}) AS pending \\gset
\\if :pending
BEGIN;
\\ir {path}
{record};
COMMIT;
\\endif
"""

_TAIL = """\
BEGIN;
{includes}
{record};
{grants} \\g /dev/null
SELECT pgsync.prepare_history() \\g /dev/null
COMMIT;
"""


def install_script() -> str:
    """The text of ``sql/install.sql``."""
    first, *others = migrations("kernel")
    parts = [
        _HEAD.format(lock=MIGRATION_LOCK, first=_path(first), record=record_statement(first)),
        *(
            _MIGRATION.format(
                component=script.component,
                version=script.version,
                path=_path(script),
                record=record_statement(script),
            )
            for script in others
        ),
        _TAIL.format(
            includes="\n".join(f"\\ir {_path(script)}" for script in api()),
            record=api_statement(),
            grants=GRANTS,
        ),
    ]
    return "\n".join(parts)


def _path(script: Script) -> str:
    return f"{script.path.parent.name}/{script.path.name}"


if __name__ == "__main__":
    sys.stdout.write(install_script())
