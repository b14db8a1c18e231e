"""Locks on files that the operating system drops when their process dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from pgsync.errors import ConnectionFailed

_POLL = 0.02


class FileLock:
    """A lock on one file: shared by many holders, or exclusive for one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    def acquire(self, *, shared: bool = False, timeout: float) -> None:
        """Take the lock, waiting up to ``timeout`` seconds.

        Raises:
            ConnectionFailed: if another process kept it for all that time.
        """
        deadline = time.monotonic() + timeout
        while not self.try_acquire(shared=shared):
            if time.monotonic() >= deadline:
                raise ConnectionFailed(
                    f"another process has kept {self.path} locked for {timeout:g} seconds while "
                    "it starts or stops the embedded server; see what it waits for, or end it"
                )
            time.sleep(_POLL)

    def try_acquire(self, *, shared: bool = False) -> bool:
        """Take the lock if it is free now, and say whether it was."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Give the lock back; without effect where it is not held."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def fileno(self) -> int:
        """The descriptor to hand on to a child process, which then holds the lock too."""
        assert self._descriptor is not None
        return self._descriptor


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock on ``path`` exclusively."""
    return path.exists() and not _free(path, shared=True)


def is_shared(path: Path) -> bool:
    """Whether some process holds the lock on ``path`` in any way."""
    return path.exists() and not _free(path, shared=False)


def _free(path: Path, *, shared: bool) -> bool:
    probe = FileLock(path)
    free = probe.try_acquire(shared=shared)
    probe.release()
    return free
