"""A disk for one server that can be filled: a file system in memory, whose size is changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

__all__ = ["Disk", "can_mount"]

_ROOM = 4 << 30
_MARGIN = 16 << 20


def can_mount(folder: Path) -> bool:
    """Whether this user may mount file systems here: root may, if its container lets it."""
    if os.geteuid() != 0 or not sys.platform.startswith("linux"):
        return False
    trial = folder / "trial"
    trial.mkdir()
    try:
        with Disk(trial):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


class Disk:
    """A file system mounted at a folder; it takes memory only for what is in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ballast = folder / "ballast"

    def __enter__(self) -> Disk:
        options = f"size={_ROOM},mode=0711"
        _run("mount", "-t", "tmpfs", "-o", options, "pgsync-faults", str(self._folder))
        return self

    def __exit__(self, *_: object) -> None:
        # Lazily: a process of the server may be ending still.
        _run("umount", "--lazy", str(self._folder))

    def fill(self) -> None:
        """Leave no room: each file that must grow cannot."""
        # Others write meanwhile, and what is used must not exceed the size.
        self._resize(shutil.disk_usage(self._folder).used + _MARGIN)
        with suppress(OSError), self._ballast.open("wb", buffering=0) as ballast:
            while ballast.write(bytes(_MARGIN)):
                pass

    def free(self) -> None:
        """Make room again."""
        self._ballast.unlink()
        self._resize(_ROOM)

    def _resize(self, size: int) -> None:
        _run("mount", "-o", f"remount,size={size}", str(self._folder))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)
