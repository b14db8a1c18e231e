"""``python -m tests.docs.external_links``: the links that lead elsewhere, one a line.

They are listed and not fetched: the tests have no network. Look at them before a release.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["external_links"]

_ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"\]\((\w+://[^)\s]+)\)|<(\w+://[^>\s]+)>")


def external_links() -> Iterator[tuple[str, str]]:
    """Each page of the documentation, and the README, with each address that it links to."""
    for page in (*_ROOT.glob("*.md"), *sorted((_ROOT / "docs").rglob("*.md"))):
        for bracketed, angled in _LINK.findall(page.read_text()):
            yield str(page.relative_to(_ROOT)), bracketed or angled


if __name__ == "__main__":
    for page, address in external_links():
        sys.stdout.write(f"{page}: {address}\n")
