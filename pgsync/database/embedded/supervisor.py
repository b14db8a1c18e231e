"""The supervisor: a small process that is postgres's parent and outlives whoever started it.

It starts the server (or adopts one whose supervisor was killed), starts it again after a crash,
and ends it when it is told to, or when the last process that used it has gone. It is run as a
script of the standard library alone, so that it starts in milliseconds and holds little memory:

    python -I -S supervisor.py FOLDER

All it needs to know it reads from the folder's locks and files, which ``folder.py`` describes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

_TICK = 0.2  # seconds between two looks; measured: 0.2 % of one processor
_LOG_BOUND = 10_000_000  # bytes, above which the log is moved to server.log.1
_CRASHES = 5  # within _CRASH_WINDOW seconds: then it is given up
_CRASH_WINDOW = 60.0
_ORPHANS = 30.0  # seconds that a dead postmaster's children may take to notice
_SHUTDOWN_STEPS = ((signal.SIGINT, 60.0), (signal.SIGQUIT, 15.0), (signal.SIGKILL, 10.0))


class Orders(NamedTuple):
    """How to run the server: what the one who started it wrote into the file ``orders``."""

    command: list[str]
    cwd: str
    socket_folder: str
    user: int | None
    group: int | None
    grace: float
    """Seconds without any user after which the server is ended."""


class Supervisor:
    def __init__(self, home: Path) -> None:
        self.orders = Orders(**json.loads((home / "orders").read_text(encoding="utf-8")))
        self.wanted = home / "wanted"
        self.log = home / "server.log"
        self.users_lock = home / "users.lock"
        self.server_lock = home / "server.lock"
        self.pid_file = home / "data" / "postmaster.pid"
        self.child: subprocess.Popen[bytes] | None = None
        self.crashes: list[float] = []
        self.told_to_stop = False
        self.unused_since: float | None = None

    def run(self) -> int:
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        started = False
        while True:
            if self.told_to_stop or self._wanted() == "stopped":
                return self._shut_down()
            if not started:
                started = self._start()
                if not started:
                    return 1
            elif not self._alive():
                if not self.pid_file.exists():
                    return 0  # it removes that file when it ends in order
                if not self._may_restart() or not self._start():
                    return 1
            if self._unused():
                return self._shut_down()
            self._bound_log()
            time.sleep(_TICK)

    def _on_signal(self, *_: object) -> None:
        self.told_to_stop = True

    def _wanted(self) -> str:
        try:
            return self.wanted.read_text(encoding="ascii")
        except FileNotFoundError:
            return "stopped"  # the folder itself was removed

    def _start(self) -> bool:
        """Start the server, or adopt the one that runs; False where neither can be done."""
        deadline = time.monotonic() + _ORPHANS
        while (lock := flock(self.server_lock)) is None:
            if self._postmaster_lives():
                return True
            if time.monotonic() > deadline:
                self._say("the last server's processes do not end")
                return False
            time.sleep(_TICK / 2)
        with contextlib.closing(os.fdopen(lock, "rb")):
            self._remove_stale_files()
            with self.log.open("ab") as log:
                self.child = subprocess.Popen(
                    self.orders.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.orders.cwd,
                    user=self.orders.user,
                    group=self.orders.group,
                    extra_groups=[] if self.orders.user is not None else None,
                    # postgres and its children keep the lock for exactly as long as one lives.
                    pass_fds=[lock],
                    start_new_session=True,
                )
        return True

    def _alive(self) -> bool:
        if self.child is not None and self.child.poll() is not None:
            self.child = None
            return False
        if self.child is not None:
            return True
        return not self._lock_is_free() and self._postmaster_lives()

    def _pid(self) -> int | None:
        if self.child is not None:
            return self.child.pid
        try:
            return int(self.pid_file.read_text(encoding="utf-8").split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None

    def _postmaster_lives(self) -> bool:
        """Whether postmaster.pid's process is there; only asked while server.lock is held."""
        pid = self._pid()
        return pid is not None and _is_postgres(pid, self.pid_file.parent, hidden=True)

    def _remove_stale_files(self) -> None:
        # server.lock was free, so no server of ours lives; the process id in these files may by
        # now be that of any other process, or a zombie's, and postgres would refuse to start.
        # Where somebody started one by hand on this data, postgres itself says so.
        pid = self._pid()
        if pid is None or not _is_postgres(pid, self.pid_file.parent, hidden=False):
            self.pid_file.unlink(missing_ok=True)
            for left in Path(self.orders.socket_folder).glob(".s.PGSQL.*"):
                left.unlink(missing_ok=True)

    def _may_restart(self) -> bool:
        now = time.monotonic()
        self.crashes = [at for at in self.crashes if now - at < _CRASH_WINDOW] + [now]
        if len(self.crashes) > _CRASHES:
            self._say(f"the server crashed {_CRASHES} times in {_CRASH_WINDOW:g} s: given up")
            return False
        return True

    def _unused(self) -> bool:
        """Whether nobody has used the server for the grace time.

        Then users.lock stays locked, which keeps newcomers waiting until the server has ended.
        """
        lock = flock(self.users_lock)
        if lock is None or self._wanted() == "persistent":
            self.unused_since = None
        else:
            now = time.monotonic()
            self.unused_since = self.unused_since or now
            if now - self.unused_since >= self.orders.grace:
                return True
        if lock is not None:
            os.close(lock)
        return False

    def _shut_down(self) -> int:
        for number, seconds in _SHUTDOWN_STEPS:
            signalled = False
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                alive = self._alive()
                if not alive and self._lock_is_free():
                    with contextlib.suppress(OSError):
                        Path(self.orders.socket_folder).rmdir()
                    return 0
                pid = self._pid()
                if alive and pid is not None and not signalled:
                    signalled = True
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                time.sleep(_TICK / 5)
        self._say("the server does not end, not even by SIGKILL")
        return 1

    def _lock_is_free(self) -> bool:
        try:
            lock = flock(self.server_lock)
        except FileNotFoundError:
            return True  # the folder was removed under the server
        if lock is not None:
            os.close(lock)
        return lock is not None

    def _bound_log(self) -> None:
        # Copied and cut, not renamed: postgres goes on appending to the file that it has open.
        with contextlib.suppress(OSError):
            if self.log.stat().st_size > _LOG_BOUND:
                shutil.copyfile(self.log, self.log.with_name("server.log.1"))
                os.truncate(self.log, 0)

    def _say(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        with contextlib.suppress(OSError), self.log.open("a", encoding="utf-8") as log:
            log.write(f"{stamp} pgsync: {text}\n")


def flock(path: Path) -> int | None:
    """Lock ``path`` exclusively; the open descriptor, or None where somebody else holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _is_postgres(pid: int, data: Path, *, hidden: bool) -> bool:
    """Whether the process ``pid`` is alive and a server on the folder ``data``.

    ``hidden`` is the answer for a process whose working directory the system does not show us.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    try:
        # A zombie has no working directory any more; a postmaster never leaves its data folder.
        return Path(f"/proc/{pid}/cwd").samefile(data)
    except PermissionError:  # root without CAP_SYS_PTRACE, in a container
        return hidden
    except OSError:
        if Path("/proc/self").exists():
            return False
    name = subprocess.run(
        ["ps", "-p", str(pid), "-o", "stat=,comm="], capture_output=True, text=True, check=False
    ).stdout
    return "postgres" in name and not name.startswith("Z")


def main(arguments: list[str]) -> int:
    home = Path(arguments[0])
    deadline = time.monotonic() + 2.0
    while flock(home / "supervisor.lock") is None:  # held until this process ends
        if time.monotonic() > deadline:
            return 0
        time.sleep(_TICK / 5)
    return Supervisor(home).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
