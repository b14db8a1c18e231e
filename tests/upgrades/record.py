"""What was handed out: schemas, as scripts, and libraries, as their code. Databases and processes
out there may have either.

``python -m tests.upgrades.record`` keeps those of this checkout; run it when a version is released.
"""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from pathlib import Path

from pgsync.database.migrations import migrations, render, sql_folder

__all__ = ["LIBRARIES", "SCHEMAS", "script_of", "unpack"]

_FOLDER = Path(__file__).parent

SCHEMAS = sorted(path.name.removesuffix(".sql.gz") for path in _FOLDER.glob("schema-*.sql.gz"))
"""By the number of their newest migration, the oldest first."""

LIBRARIES = sorted(path.name.removesuffix(".tar.xz") for path in _FOLDER.glob("library-*.tar.xz"))
"""By the number of the newest migration that they know, the oldest first."""

_FACES = {"cli", "dashboard", "doctor", "doors", "modules"}
"""What an app's processes can do without."""


def script_of(schema: str) -> str:
    """The script that makes it in an empty database."""
    return gzip.decompress((_FOLDER / f"{schema}.sql.gz").read_bytes()).decode()


def unpack(library: str, folder: Path) -> Path:
    """Put its code into the folder, which a process then has on its PYTHONPATH."""
    with tarfile.open(_FOLDER / f"{library}.tar.xz") as packed:
        packed.extractall(folder, filter="data")
    return folder


def _pack(sources: Path) -> bytes:
    """The library below ``sources`` without its faces, and the migrations that it asks for."""
    # The schema's own text is in its script.
    paths = [*(sources / "pgsync").rglob("*.py"), *(sources / "sql" / "migrations").glob("*.sql")]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in sorted(paths):
            name = path.relative_to(sources)
            if name.parts[1] not in _FACES:
                entry = tarfile.TarInfo(name.as_posix())
                entry.size = path.stat().st_size
                archive.addfile(entry, io.BytesIO(path.read_bytes()))
    return lzma.compress(packed.getvalue(), preset=9 | lzma.PRESET_EXTREME)


if __name__ == "__main__":
    newest = f"{migrations('kernel')[-1].version:04d}"
    script = gzip.compress(render().encode(), mtime=0)
    (_FOLDER / f"schema-{newest}.sql.gz").write_bytes(script)
    (_FOLDER / f"library-{newest}.tar.xz").write_bytes(_pack(sql_folder().parent))
