"""A page that names tests names such as there are, in the file that it names before them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def _named(text: str) -> Iterator[tuple[str, str]]:
    """Each test that is named, and the file."""
    path = ""
    for file, of_file, test in re.findall(
        r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`|`(test_\w+)`", text
    ):
        path = file or path
        yield path, of_file or test


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_a_page_names_are_there(page: Path) -> None:
    for path, test in _named(page.read_text()):
        assert not path or f"def {test}" in (ROOT / path).read_text(), (path, test)


def test_they_are_found() -> None:
    assert len(list(_named((ROOT / "docs" / "locks.md").read_text()))) > 40
