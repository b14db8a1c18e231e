"""A private Redis for the peers that need one: without persistence, reached by a Unix socket."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["find_redis", "redis_server", "redis_version"]

_PATIENCE = 10.0


def find_redis() -> str | None:
    """The program ``redis-server`` on the PATH; None where there is none."""
    return shutil.which("redis-server")


def redis_version(program: str) -> str:
    """The program's own version, such as ``7.0.15``."""
    words = subprocess.check_output([program, "--version"], text=True, timeout=_PATIENCE).split()
    return next((word[2:] for word in words if word.startswith("v=")), "unknown")


@contextmanager
def redis_server(program: str) -> Iterator[str]:
    """A Redis of its own in a temporary folder, for the ``with``; the path of its socket.

    It writes nothing to disk: what it confirms is in memory only.

    Raises:
        RuntimeError: if it does not answer within 10 seconds.
    """
    with tempfile.TemporaryDirectory(prefix="pgsync-redis-") as folder:
        path = Path(folder) / "redis.sock"
        command = [program, "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700"]
        command += ["--save", "", "--appendonly", "no", "--dir", folder, "--daemonize", "no"]
        log = Path(folder) / "redis.log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait_ready(process, path, log)
            yield str(path)
        finally:
            _end(process)


def _wait_ready(process: subprocess.Popen[bytes], path: Path, log: Path) -> None:
    until = time.monotonic() + _PATIENCE
    while not _answers(path):
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"redis-server did not start: {log.read_text()[-2000:]}")
        time.sleep(0.02)


def _answers(path: Path) -> bool:
    with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        client.connect(str(path))
        client.sendall(b"PING\r\n")
        return client.recv(16).startswith(b"+PONG")
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
