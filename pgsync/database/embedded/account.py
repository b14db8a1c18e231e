"""Whom the server runs as. PostgreSQL refuses root, and containers run everything as root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pgsync.errors import InvalidArgument


@dataclass(frozen=True)
class Account:
    """How to run a program of the server: behind which prefix, or as which other user."""

    prefix: tuple[str, ...] = ()
    uid: int | None = None
    gid: int | None = None

    def command(self, program: Path) -> list[str]:
        """The start of a command line that runs ``program`` as this account."""
        return [*self.prefix, str(program)]

    def data_argument(self, data: Path, major: int) -> str:
        """How the account names the folder ``data`` when it is also its working directory.

        Raises:
            InvalidArgument: if the account cannot reach it under any name.
        """
        if self.can_reach(data):
            return str(data)
        # Needs no right to enter the folders above; before 16, PostgreSQL left that folder.
        if sys.platform.startswith("linux") and major >= 16:
            return "/proc/self/cwd"
        raise InvalidArgument(
            f"PostgreSQL does not run as root, and user nobody cannot enter the folders above "
            f"{data}; set PGSYNC_DATA_DIR to a folder that it can reach, such as /var/lib/pgsync"
        )

    def can_reach(self, path: Path) -> bool:
        """Whether the account may enter every folder on the way to ``path``."""
        if self.uid is None:
            return True
        for folder in path.resolve().parents:
            status = folder.stat()
            if status.st_uid == self.uid:
                entry = status.st_mode & 0o100
            elif status.st_gid == self.gid:
                entry = status.st_mode & 0o010
            else:
                entry = status.st_mode & 0o001
            if not entry:
                return False
        return True

    def own(self, path: Path) -> None:
        """Give ``path`` and all below it to the account, if that is another user."""
        if self.uid is None or self.gid is None:
            return
        os.chown(path, self.uid, self.gid, follow_symlinks=False)
        for below in path.rglob("*"):
            os.chown(below, self.uid, self.gid, follow_symlinks=False)


def choose_account(data: Path) -> Account:
    """Return the account for the server whose data folder is, or will be, ``data``.

    Raises:
        InvalidArgument: if this is root, and the system has no way to be anybody else.
    """
    if os.geteuid() != 0:
        return Account()
    if data.exists():
        owner = data.stat()
        if owner.st_uid != 0:  # made as nobody: only a server of that user may open it
            return Account(uid=owner.st_uid, gid=owner.st_gid)
    return _namespace() or _nobody()


def _namespace() -> Account | None:
    """Root seen as an ordinary user: nothing needs to change hands, and nobody else gets in."""
    unshare = shutil.which("unshare")
    if unshare is None or not sys.platform.startswith("linux"):
        return None
    prefix = (unshare, "--user", "--map-user=1000", "--map-group=1000")
    try:
        probe = subprocess.run(
            [*prefix, unshare, "--version"], capture_output=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Account(prefix) if probe.returncode == 0 else None


def _nobody() -> Account:
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise InvalidArgument(
            "PostgreSQL does not run as root, and this system has neither user namespaces nor a "
            "user nobody; run pgsync as an ordinary user, or set PGSYNC_DSN"
        ) from None
    return Account(uid=entry.pw_uid, gid=entry.pw_gid)
