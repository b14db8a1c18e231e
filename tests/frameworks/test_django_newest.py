"""The same tests of Django's tasks once more, on the newest Django, which needs Python 3.12.

In a venv that has nothing else: what these tests import must not need more.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _interpreters() -> Iterator[list[str]]:
    """How a Python of 3.12 or newer may be called on this machine, the newest first."""
    for minor in range(19, 11, -1):
        if found := shutil.which(f"python3.{minor}"):
            yield [found]
    if pyenv := shutil.which("pyenv"):
        listed = subprocess.run(
            [pyenv, "versions", "--bare"], capture_output=True, text=True, check=False
        )
        for version in reversed(listed.stdout.split()):
            prefix = subprocess.run(
                [pyenv, "prefix", version], capture_output=True, text=True, check=False
            )
            yield [f"{prefix.stdout.strip()}/bin/python3"]


def _find_python() -> str | None:
    program = "import sys; assert sys.version_info >= (3, 12); print(sys.executable)"
    for command in _interpreters():
        try:
            answer = subprocess.run(
                [*command, "-c", program], capture_output=True, text=True, check=False
            )
        except OSError:
            continue
        if answer.returncode == 0:
            return answer.stdout.strip()
    return None


_TESTS = ("hypothesis", "pytest", "pytest-timeout")


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="here the newest Django is installed")
@pytest.mark.timeout(400)
def test_djangos_tasks_on_the_newest_django(server_dsn: str, tmp_path: Path) -> None:
    python = _find_python()
    if python is None:
        pytest.skip("there is no Python of 3.12 or newer, which Django 6 needs")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], "psycopg[binary]", "django>=6", *_TESTS]
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    inside = tmp_path / "venv" / "bin" / "python"
    subprocess.run([inside, "-m", "pip", "install", "--quiet", *needed], check=True)
    answer = subprocess.run(
        [inside, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/frameworks/test_django.py"],
        cwd=ROOT,
        env={**os.environ, "PGSYNC_TEST_DSN": server_dsn, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert " passed" in answer.stdout
