"""The rules of the house: imports go down only, types hold, both faces are alike."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


_TAKES_OR_FREES = re.compile(
    r"\b(pg_try_advisory\w*|pg_advisory\w*|try_key|free_key|release_lock|acquire_lock|try_lock)\(",
)
_NO_CODE = re.compile(r"--[^\n]*|'(?:[^']|'')*'|\bON FUNCTION\b")
_CONDITION = re.compile(
    r"\b(?:WHERE|ON|HAVING)\b(.*?)(?:;|\$\$|\b(?:LIMIT|OFFSET|RETURNING|LOOP)\b)", re.DOTALL
)


def _to_closing_parenthesis(clause: str) -> str:
    depth = 0
    for position, character in enumerate(clause):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            return clause[:position]
    return clause


def test_no_condition_takes_or_frees_a_lock() -> None:
    # The planner calls it for rows that it then drops: one statement with LIMIT 1 took 1,000.
    found = [
        f"{path.name}: {condition.strip()}"
        for path in sorted((ROOT / "sql").glob("*/*.sql"))
        for clause in _CONDITION.findall(_NO_CODE.sub("", path.read_text()))
        if _TAKES_OR_FREES.search(condition := _to_closing_parenthesis(clause))
    ]
    assert found == []


# What one face alone has: asyncio closes a pool of its own for the dashboard.
_OF_ONE_FACE = {"AsyncCoordinator": {"new_database"}}


def _faces() -> Iterator[tuple[type, type]]:
    for room in ("coordinator", "locks", "limits", "queues", "schedules", "operations"):
        module = importlib.import_module(f"pgsync.{room}")
        for name in module.__all__:
            if name.startswith("Async"):
                yield getattr(module, name.removeprefix("Async")), getattr(module, name)


def _parameters(face: type) -> dict[str, Any]:
    methods = {
        name: getattr(face, name)
        for name in dir(face)
        if not name.startswith("_") or name in ("__init__", "__call__")
    }
    return {
        name: [(each.name, each.kind, each.default) for each in given.parameters.values()]
        if callable(method) and (given := inspect.signature(method))
        else None
        for name, method in methods.items()
        if name not in _OF_ONE_FACE.get(face.__name__, ())
    }


@pytest.mark.parametrize(("blocking", "awaited"), list(_faces()))
def test_both_faces_take_the_same(blocking: type, awaited: type) -> None:
    assert _parameters(awaited) == _parameters(blocking)
