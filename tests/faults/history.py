"""What a worker process of the fault harness did, in a file that outlives ``kill -9``."""

from __future__ import annotations

import json
import os
from typing import Any

__all__ = ["History"]


class History:
    """Appends events to a file; each line is one write, whole or not there."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def add(self, event: str, **facts: Any) -> None:
        """Record an event with its facts."""
        os.write(self._file, (json.dumps({"event": event, **facts}) + "\n").encode())
