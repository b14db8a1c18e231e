"""The site builds without a broken link, and its Python reference has all that is public."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from markdown.extensions.toc import slugify

import pgsync
from tests.docs.external_links import external_links

ROOT = Path(__file__).parents[2]
_HOST = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+")
_LISTED = re.findall(r"^::: (\S+)$", (ROOT / "docs/python.md").read_text(), re.MULTILINE)


def test_the_site_builds_without_a_broken_link(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "site/python.html").read_text()
    assert 'id="pgsync.Coordinator.lock"' in html


def test_links_that_lead_elsewhere_are_well_formed_and_encrypted() -> None:
    # Whether somebody answers there is not asked: the tests have no network.
    parts = [(page, urlsplit(address)) for page, address in external_links()]
    wrong = [
        (page, address.geturl())
        for page, address in parts
        if address.scheme != "https" or not _HOST.fullmatch(address.netloc)
    ]
    assert parts
    assert wrong == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "sql/README.md"])
def test_links_of_pages_beside_the_site_lead_to_what_is_there(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text()):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        found = (ROOT / page).parent / target if target else ROOT / page
        assert found.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE)
            assert anchor in {slugify(title, "-") for title in titles}, link


def test_what_is_public_is_in_the_reference_once() -> None:
    assert len(_LISTED) == len(set(_LISTED))
    public = {f"pgsync.{name}" for name in pgsync.__all__ if name != "__version__"}
    assert public <= set(_LISTED)
    assert not {name for name in _LISTED if re.fullmatch(r"pgsync\.[A-Z]\w+", name)} - public


@pytest.mark.parametrize("name", _LISTED)
def test_what_is_in_the_reference_is_documented(name: str) -> None:
    found = pkgutil.resolve_name(_found_in(name))
    assert inspect.getdoc(found), name
    if inspect.isclass(found):
        undocumented = [
            method for method, value in _own_methods(found) if not inspect.getdoc(value)
        ]
        assert not undocumented


def _found_in(name: str) -> str:
    """``a.b.C`` as ``a.b:C``, as far as ``a.b`` is a module."""
    module, _, rest = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return f"{module}:{rest}"
    return name


def _own_methods(found: type[Any]) -> list[tuple[str, Any]]:
    """The public methods and properties of a class that pgsync itself has defined."""
    return [
        (name, value)
        for owner in found.__mro__
        if owner.__module__.startswith("pgsync")
        for name, value in vars(owner).items()
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property))
    ]
