"""A JSON value as a tree to fold and unfold: bounded, whatever it holds, with exact numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pgsync.dashboard.exact import write_exact
from pgsync.masking import HIDDEN, masked_value

__all__ = ["Node", "tree_of"]

_MOST_CHILDREN = 100
_MOST_NODES = 1_000
_LONGEST = 2_000


@dataclass(frozen=True, slots=True)
class Node:
    """A value under a key; ``left_out`` of its children are not shown."""

    key: str | None
    kind: str
    """object, list, text, number, word (true, false, null), or hidden."""
    text: str
    children: tuple[Node, ...] = ()
    left_out: int = 0


def tree_of(value: Any) -> Node:
    """The tree of a value, with what is secret in it hidden."""
    return _Planting().node(None, masked_value(value))


class _Planting:
    def __init__(self) -> None:
        self._left = _MOST_NODES

    def node(self, key: str | None, value: Any) -> Node:
        self._left -= 1
        if isinstance(value, dict):
            return self._branch(key, "object", "{%d}", value.items())
        if isinstance(value, list):
            return self._branch(key, "list", "[%d]", [(str(n), v) for n, v in enumerate(value)])
        if value == HIDDEN:
            return Node(key, "hidden", HIDDEN)
        text = write_exact(value)
        if len(text) > _LONGEST:
            text = f"{text[:_LONGEST]}… ({len(text):,} characters)"
        kind = "text" if type(value) is str else "number"
        return Node(key, "word" if value is None or isinstance(value, bool) else kind, text)

    def _branch(
        self, key: str | None, kind: str, text: str, members: Iterable[tuple[str, Any]]
    ) -> Node:
        given = list(members)
        children = []
        for name, value in given[:_MOST_CHILDREN]:
            if self._left <= 0:
                break
            children.append(self.node(name, value))
        left_out = len(given) - len(children)
        return Node(key, kind, text % len(given), tuple(children), left_out)
