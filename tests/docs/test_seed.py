"""Line by line: what the page about the seed names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = sorted(
    set(re.findall(r"`([\w/]+\.(?:py|sql))(?:::(\w+))?`", (ROOT / "docs" / "seed.md").read_text()))
)


@pytest.mark.parametrize(("path", "test"), NAMED)
def test_what_the_seed_names_exists(path: str, test: str) -> None:
    text = (ROOT / path).read_text()
    assert not test or f"def {test}(" in text


def test_each_part_of_the_seed_is_told_of() -> None:
    assert len(NAMED) > 40
