"""The folder of an embedded server: what lies in it, and what its files say.

    data/              PostgreSQL's own data folder
    socket/            its socket, beside the data so that a backup does not copy it
    server.log         its log, and the one before it (server.log.1)
    wanted             what its supervisor shall do: while-used, persistent or stopped
    start.lock         held by whoever starts or stops the server
    users.lock         shared by every process that uses it
    orders             how to run the server, for its supervisor
    supervisor.lock    held by the supervisor
    server.lock        held by the postmaster and all its children

Nobody's process id is trusted unless the lock beside it is held.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import platformdirs

from pgsync.database.embedded.filelock import is_locked
from pgsync.errors import InvalidArgument

_TAIL_BYTES = 16_384
_TAIL_LINES = 15

Wanted = Literal["while-used", "persistent", "stopped"]


@dataclass(frozen=True)
class Postmaster:
    """What a running server wrote about itself in postmaster.pid."""

    pid: int
    socket_folder: str
    port: int
    ready: bool


class ServerFolder:
    """The paths of one embedded server, and the reading and writing of its small files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = path / "data"
        self.socket = path / "socket"
        self.log = path / "server.log"
        self.wanted = path / "wanted"
        self.orders = path / "orders"
        self.start_lock = path / "start.lock"
        self.users_lock = path / "users.lock"
        self.supervisor_lock = path / "supervisor.lock"
        self.server_lock = path / "server.lock"

    def create(self) -> None:
        """Make the folder, private to this user, unless it is there.

        The modes of folders that are there already are left alone: they are somebody's choice.

        Raises:
            InvalidArgument: if it cannot be made, is another user's, or is a data folder already.
        """
        # Root's server may have to run as nobody, who must get through to the data.
        mode = 0o711 if os.geteuid() == 0 else 0o700
        try:
            self.path.mkdir(mode=mode, parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidArgument(
                f"the embedded server's folder {self.path} cannot be made ({error.strerror}); "
                "set PGSYNC_DATA_DIR to a folder of your own"
            ) from error
        owner = self.path.stat().st_uid
        if owner != os.geteuid():
            raise InvalidArgument(
                f"the embedded server's folder {self.path} belongs to user id {owner}, and you are "
                f"{os.geteuid()}; run as that user, or set PGSYNC_DATA_DIR to a folder of your own"
            )
        if (self.path / "PG_VERSION").exists():
            raise InvalidArgument(
                f"{self.path} is the data folder of another PostgreSQL server; "
                "set PGSYNC_DATA_DIR to a folder of its own for pgsync"
            )

    def major(self) -> int | None:
        """The major version that the data was made by, or None where there is no data yet."""
        try:
            return int((self.data / "PG_VERSION").read_text(encoding="ascii"))
        except FileNotFoundError:
            return None

    def running(self) -> bool:
        """Whether a postmaster, or any process it left behind, is alive on this data."""
        return is_locked(self.server_lock)

    def supervised(self) -> bool:
        return is_locked(self.supervisor_lock)

    def postmaster(self) -> Postmaster | None:
        """What the running server says about itself, or None while it does not run."""
        if not self.running():
            return None
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except OSError:
            return None
        # Lines: pid, data folder, start time, port, socket folder, address, shared memory, state.
        if len(lines) < 8:
            return None
        return Postmaster(int(lines[0]), lines[4], int(lines[3]), lines[7].strip() == "ready")

    def read_wanted(self) -> str:
        try:
            return self.wanted.read_text(encoding="ascii")
        except FileNotFoundError:
            return "stopped"

    def write_wanted(self, wanted: Wanted) -> None:
        replace_file(self.wanted, wanted)

    def open_log(self) -> BinaryIO:
        """The log, to append to; what is in it is for its owner alone."""
        return os.fdopen(os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")

    def log_size(self) -> int:
        try:
            return self.log.stat().st_size
        except FileNotFoundError:
            return 0

    def log_tail(self, start: int) -> str:
        """The last lines of the log that were written after its byte ``start``."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(start, self.log_size() - _TAIL_BYTES))
                text = log.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-_TAIL_LINES:])


def replace_file(path: Path, text: str) -> None:
    """Write ``path`` so that a reader, or a crash, finds the old text or the new one."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def default_path(major: int) -> Path:
    """Where the server of that major version lives, unless the caller says otherwise."""
    named = os.environ.get("PGSYNC_DATA_DIR")
    if named:
        return Path(named).absolute()
    return platformdirs.user_data_path("pgsync") / f"postgres-{major}"
