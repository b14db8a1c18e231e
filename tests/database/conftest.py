"""Folders of embedded servers, and processes that use them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.database.embedded import embedded, query


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
