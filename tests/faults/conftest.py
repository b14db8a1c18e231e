"""The command line, on an app of the test's module."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def pgsync(dsn: str, tmp_path: Path, app: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command line on a module ``app`` of the test's own; kills what is left.

    Its text is what the fixture ``app`` of the test's module gives, or what the call names.
    """
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, app: str = app, **environment: str) -> subprocess.Popen[str]:
        (tmp_path / "app.py").write_text(app)
        program = subprocess.Popen(
            [sys.executable, "-c", "from pgsync.cli import main; main()", *arguments],
            env={**os.environ, "PGSYNC_DSN": dsn, "PGSYNC_APP": "app:sync", **environment},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(program)
        return program

    yield start
    for program in started:
        program.kill()
        program.communicate()
