"""Where the server's Unix socket lies: private, and short enough for the operating system."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import tempfile
from pathlib import Path

from pgsync.database.embedded.account import Account
from pgsync.database.embedded.folder import ServerFolder
from pgsync.errors import InvalidArgument

PORT = 5432
"""Only a part of the socket's name: the server does not listen on TCP."""


def socket_folder(folder: ServerFolder, account: Account) -> Path:
    """Return a private folder for the socket: beside the data, else below the temporary folder.

    A path beside the data is refused by the system where it is too long (107 bytes on Linux, 103
    on macOS), or on a file system without sockets.

    Raises:
        InvalidArgument: if a folder of that name belongs to somebody else.
    """
    if account.can_reach(folder.socket):
        _make_private(folder.socket, account)
        if _can_bind(folder.socket):
            return folder.socket
    owner = os.geteuid() if account.uid is None else account.uid
    name = hashlib.sha256(os.fsencode(folder.path.resolve())).hexdigest()[:12]
    for base in dict.fromkeys((Path(tempfile.gettempdir()), Path("/tmp"))):  # noqa: S108
        parent = base / f"pgsync-{owner}"
        short = parent / name
        if account.can_reach(parent):
            _make_private(parent, account)
            _make_private(short, account)
            if _can_bind(short):
                return short
    raise InvalidArgument(
        "no folder was found in which a Unix socket can be made; set TMPDIR to a short path that "
        "the server may write"
    )


def _make_private(path: Path, account: Account) -> None:
    owner = os.geteuid() if account.uid is None else account.uid
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        pass
    else:
        account.own(path)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
        raise InvalidArgument(
            f"{path} must be a folder that only user id {owner} can enter, and it is not; "
            "remove it, or set TMPDIR to a folder of your own"
        )


def _can_bind(path: Path) -> bool:
    # As long as the name that PostgreSQL makes, which is .s.PGSQL.5432 with a .lock beside it.
    probe = path / f".s.probe.{PORT}"
    probe.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as trial:
        try:
            trial.bind(str(probe))
        except OSError:
            return False
    probe.unlink()
    return True
