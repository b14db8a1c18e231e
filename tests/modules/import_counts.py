"""What became of the rows of an import."""

from __future__ import annotations

from typing import Any

__all__ = ["counts"]


def counts(result: dict[str, Any]) -> dict[str, int]:
    """The counts that are not 0; each row is in one of them."""
    names = ("imported", "updated", "duplicates", "rejected")
    assert result["rows"] == sum(result[name] for name in names)
    return {name: result[name] for name in names if result[name]}
