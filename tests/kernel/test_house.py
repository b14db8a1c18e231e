"""The rules of the house: imports go down only, and types hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


_LINT_IMPORTS = "from importlinter.cli import lint_imports_command as check; check()"


@pytest.mark.parametrize(
    "command",
    [["-c", _LINT_IMPORTS], ["-m", "mypy"]],
    ids=["imports go down only", "types hold"],
)
def test_the_rules_of_the_house_hold(command: list[str]) -> None:
    answer = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
