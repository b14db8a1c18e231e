"""The facts that ``EmbeddedServer.status()`` gives, and the command line prints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ServerStatus:
    """What an embedded server does at this moment."""

    running: bool
    persistent: bool
    """It stays until it is stopped; otherwise it ends after the last process that uses it."""
    in_use: bool
    """Some process holds it, this one included."""
    path: Path
    log: Path
    major: int | None
    """PostgreSQL's major version, or None where nothing was started yet."""
    pid: int | None
    dsn: str | None
