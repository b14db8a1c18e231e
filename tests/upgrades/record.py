"""The schemas that were handed out, as scripts: what databases out there may have.

``python -m tests.upgrades.record`` keeps that of this checkout; run it when a version is released.
"""

from __future__ import annotations

import gzip
from pathlib import Path

from pgsync.database.migrations import migrations, render

__all__ = ["SCHEMAS", "script_of"]

_FOLDER = Path(__file__).parent

SCHEMAS = sorted(path.name.removesuffix(".sql.gz") for path in _FOLDER.glob("schema-*.sql.gz"))
"""By the number of their newest migration, the oldest first."""


def script_of(schema: str) -> str:
    """The script that makes it in an empty database."""
    return gzip.decompress((_FOLDER / f"{schema}.sql.gz").read_bytes()).decode()


if __name__ == "__main__":
    newest = migrations("kernel")[-1].version
    path = _FOLDER / f"schema-{newest:04d}.sql.gz"
    path.write_bytes(gzip.compress(render().encode(), mtime=0))
