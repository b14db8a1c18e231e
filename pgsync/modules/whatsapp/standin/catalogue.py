"""The message templates of one account: made up, listed by cursor, changed at run time."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pgsync.modules.whatsapp.standin.samples import sample

__all__ = ["FIELDS", "Catalogue", "Listing"]

# What may be asked for; a template without such a field leaves it out, as the API does.
FIELDS = frozenset(
    {
        "id",
        "name",
        "language",
        "status",
        "category",
        "previous_category",
        "components",
        "quality_score",
        "rejected_reason",
        "parameter_format",
        "last_updated_time",
        "message_send_ttl_seconds",
        "sub_category",
        "correct_category",
        "library_template_name",
        "cta_url_link_tracking_opted_out",
        "degrees_of_freedom_spec",
    }
)


@dataclass(frozen=True, slots=True)
class Listing:
    """A slice of the catalogue. ``first`` and ``last`` are positions; ``more`` may follow it."""

    templates: list[dict[str, Any]]
    first: int
    last: int
    more: bool


class Catalogue:
    """The templates of one account. Safe to use from several threads.

    What the methods return are copies; a template changes through :meth:`change` only.
    """

    def __init__(self, first_id: int, count: int = 0) -> None:
        self._lock = threading.Lock()
        self._first_id = first_id
        self._positions = itertools.count(1)
        self._rows: dict[str, tuple[int, dict[str, Any]]] = {}
        self._by_name: dict[tuple[str, str], str] = {}
        for number in range(count):
            self.add(**sample(number))

    def __len__(self) -> int:
        return len(self._rows)

    def add(
        self,
        *,
        name: str,
        language: str = "en_US",
        status: str = "APPROVED",
        body: str = "Thank you for your order.",
        **fields: Any,
    ) -> dict[str, Any]:
        """Add a template and return it. ``body`` is used where no ``components`` are given.

        Raises:
            ValueError: if the account has a template of this name in this language.
        """
        with self._lock:
            if (name, language) in self._by_name:
                raise ValueError(f"template {name!r} in {language!r} exists already")
            position = next(self._positions)
            row: dict[str, Any] = {
                "id": str(self._first_id + position),
                "name": name,
                "language": language,
                "status": status,
                "category": "UTILITY",
                "components": [{"type": "BODY", "text": body}],
                "quality_score": {"score": "UNKNOWN", "date": 1735689600},
                "rejected_reason": "NONE",
                "parameter_format": "POSITIONAL",
                **fields,
            }
            self._rows[row["id"]] = (position, row)
            self._by_name[name, language] = row["id"]
            return dict(row)

    def remove(self, template_id: str) -> None:
        """Remove a template. Raises KeyError if there is none of this id."""
        with self._lock:
            _, row = self._rows.pop(template_id)
            del self._by_name[row["name"], row["language"]]

    def change(self, template_id: str, **fields: Any) -> dict[str, Any]:
        """Change fields (not id, name or language) and return the template. Raises KeyError."""
        for fixed in ("id", "name", "language"):
            if fixed in fields:
                raise ValueError(f"{fixed} of a template cannot change")
        with self._lock:
            position, row = self._rows[template_id]
            changed = {**row, **fields}
            self._rows[template_id] = (position, changed)
            return dict(changed)

    def get(self, template_id: str) -> dict[str, Any] | None:
        """Return the template of this id, or None."""
        with self._lock:
            found = self._rows.get(template_id)
            return dict(found[1]) if found else None

    def find(self, name: str, language: str) -> dict[str, Any] | None:
        """Return the template of this name and language, or None."""
        with self._lock:
            template_id = self._by_name.get((name, language))
            return dict(self._rows[template_id][1]) if template_id else None

    def all(self, status: str | None = None) -> list[dict[str, Any]]:
        """Return all templates, or those of one status, in the order they were added."""
        with self._lock:
            rows = [dict(row) for _, row in self._rows.values()]
        return [row for row in rows if status is None or row["status"] == status]

    def after(self, position: int, limit: int, filters: Mapping[str, str]) -> Listing:
        """Return up to ``limit`` templates that follow ``position`` and fit the filters.

        A filter is a field and the values it may have, separated by commas.

        A cursor is a position, so that templates removed meanwhile do not shift the pages.
        """
        with self._lock:
            found = [
                (at, row)
                for at, row in self._rows.values()
                if at > position
                and all(row[field] in value.split(",") for field, value in filters.items())
            ]
        page = found[:limit]
        first, last = (page[0][0], page[-1][0]) if page else (position, position)
        return Listing([dict(row) for _, row in page], first, last, more=len(found) > limit)
