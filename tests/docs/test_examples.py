"""Every example in the documentation runs: Python blocks as one program a page, SQL after them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(python|sql)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def _blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in _BLOCK.findall(page.read_text()) if kind == language]


def test_the_pages_have_examples() -> None:
    assert sum(len(_blocks(page, "python")) for page in PAGES) > 20
    assert sum(len(_blocks(page, "sql")) for page in PAGES) > 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_run(page: Path, dsn: str, tmp_path: Path) -> None:
    program = "\n".join(_blocks(page, "python"))
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PGSYNC_DSN": dsn},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    with psycopg.connect(dsn, autocommit=True) as connection:
        for block in _blocks(page, "sql"):
            connection.execute(block.encode())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
