"""The embedded server under real kills, at any moment, of whoever has a part in it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.database.embedded import dsn_of, embedded, query, spawn, supervisor_of
from tests.eventually import eventually


def test_kill_of_the_starter_at_any_moment(
    tmp_path: Path, users: list[subprocess.Popen[str]]
) -> None:
    path = tmp_path / "home"
    made = path / "data"

    def starts_until(moment: Callable[[], object]) -> None:
        users.append(spawn(path))
        eventually(moment)
        users[-1].kill()
        users[-1].wait()

    def seen(moment: str) -> bool:
        """Whether the starter was killed at a moment that is soon over, and not after it."""
        starts_until(lambda: list(path.glob(moment)) or made.exists())
        return not made.exists()

    starts_until(path.exists)
    for moment in ("data.new-*/base", "data.new-*/postgresql.conf"):
        while not seen(moment):
            embedded(path).stop()
            shutil.rmtree(made)
    for place in ("data", "orders", "data/postmaster.pid"):
        starts_until((path / place).exists)
    with embedded(path) as server:
        assert query(server.dsn, "SELECT 'works'") == "works"
    assert not list(path.glob("data.new-*"))


def test_killed_postmaster_comes_back_by_itself(home: Path) -> None:
    with embedded(home) as server:
        query(server.dsn, "INSERT INTO kept VALUES ('too')")
        pid = server.status().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: server.status().running and server.status().pid != pid)
        assert query(server.start(), "SELECT count(*) FROM kept") == "2"


def test_killed_supervisor_and_postmaster(home: Path) -> None:
    server = embedded(home)
    server.start()
    pid = server.status().pid
    assert pid is not None
    os.kill(supervisor_of(home), signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not server.status().running)
    assert query(server.start(), "SELECT value FROM kept") == "here"


def test_stale_process_id_is_not_believed(home: Path) -> None:
    # Left by a crash, and by now the id of a process that has nothing to do with it.
    lines = [str(os.getpid()), str(home / "data"), "1", "5432", str(home / "socket"), "", "1 2", ""]
    (home / "data" / "postmaster.pid").write_text("\n".join(lines))
    (home / "socket").mkdir(mode=0o700, exist_ok=True)
    (home / "socket" / ".s.PGSQL.5432.lock").write_text("\n".join(lines))
    assert not embedded(home).status().running
    with embedded(home) as server:
        assert query(server.dsn, "SELECT value FROM kept") == "here"


def test_killed_supervisor_leaves_a_server_that_is_adopted(home: Path) -> None:
    server = embedded(home)
    dsn = server.start()
    pid = server.status().pid
    first = supervisor_of(home)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: supervisor_of(home) != first)
    assert embedded(home).start() == dsn
    assert server.status().pid == pid
    assert query(dsn, "SELECT value FROM kept") == "here"


def test_killed_supervisor_leaves_a_server_that_can_be_stopped(home: Path) -> None:
    server = embedded(home)
    server.start(persistent=True)
    os.kill(supervisor_of(home), signal.SIGKILL)
    assert server.stop() is True
    assert not server.status().running


def test_interrupt_in_the_terminal_does_not_reach_the_server(
    home: Path, users: list[subprocess.Popen[str]]
) -> None:
    users.append(spawn(home, grace=60))
    dsn = dsn_of(users[0])
    for member in (supervisor_of(home), embedded(home).status().pid):
        assert member is not None
        assert os.getsid(member) != os.getsid(users[0].pid)
        assert os.getpgid(member) != os.getpgid(users[0].pid)
    users[0].send_signal(signal.SIGINT)
    users[0].wait(30)
    assert query(dsn, "SELECT value FROM kept") == "here"


def test_folder_removed_under_the_server(home: Path) -> None:
    with embedded(home) as server:
        pid = server.status().pid
        assert pid is not None
        parent = supervisor_of(home)
        shutil.rmtree(home, ignore_errors=True)  # the server removes files at the same time
        eventually(lambda: not alive(pid) and not alive(parent))
    shutil.rmtree(home, ignore_errors=True)
    assert server.stop() is False


def alive(pid: int) -> bool:
    answer = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() not in ("", "Z", "Zs")
