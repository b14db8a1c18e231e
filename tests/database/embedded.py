"""Embedded servers for tests: quick ones here, and in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg

from pgsync.database.embedded import EmbeddedServer

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
