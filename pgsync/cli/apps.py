"""The app that a command works for, found as Python finds it from this folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pgsync.coordinator import AsyncCoordinator, Coordinator
from pgsync.daemon import load_app
from pgsync.errors import InvalidArgument

__all__ = ["open_app"]


def open_app(
    app: str | None, dsn: str | None, direct_dsn: str | None
) -> Coordinator | AsyncCoordinator:
    """Load the app, on the database that is given, or else the environment's.

    Raises:
        InvalidArgument: if none is named, or it makes no coordinator.
    """
    if not app:
        raise InvalidArgument("which app? give --app package.module:coordinator, or PGSYNC_APP")
    for name, value in (("PGSYNC_DSN", dsn), ("PGSYNC_DIRECT_DSN", direct_dsn)):
        if value is not None:
            os.environ[name] = value  # where the app finds it
    sys.path.insert(0, str(Path.cwd()))
    sync = load_app(app)
    if not isinstance(sync, (Coordinator, AsyncCoordinator)):
        raise InvalidArgument(f"--app: {app} is a {type(sync).__name__}, not a coordinator")
    return sync
