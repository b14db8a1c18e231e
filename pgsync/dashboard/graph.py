"""What a job comes after and before, laid out for a small drawing: columns of boxes, and lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

__all__ = ["Box", "Graph", "graph_of"]

_WIDTH, _HEIGHT = 210, 40
_ACROSS, _DOWN = 60, 10
_LONGEST_NAME = 26


@dataclass(frozen=True, slots=True)
class Box:
    """A job at a place."""

    id: int
    name: str
    state: str
    x: int
    y: int
    is_this: bool = False


@dataclass(frozen=True, slots=True)
class Graph:
    """Boxes, the paths between them, and the size of it all."""

    boxes: tuple[Box, ...]
    paths: tuple[str, ...]
    width: int
    height: int
    box_width: int = _WIDTH
    box_height: int = _HEIGHT


def graph_of(
    job: Mapping[str, Any],
    parents: Sequence[Mapping[str, Any]],
    children: Sequence[Mapping[str, Any]],
) -> Graph | None:
    """The drawing of a job between those that it waits for and those that wait for it."""
    if not parents and not children:
        return None
    columns: list[Sequence[Mapping[str, Any]]] = [
        each for each in (parents, [job], children) if each
    ]
    height = max(_tall(len(column)) for column in columns)
    placed = [_column(column, n, height, job["id"]) for n, column in enumerate(columns)]
    paths = [
        _path(left, right) for these, those in pairwise(placed) for left in these for right in those
    ]
    width = len(columns) * (_WIDTH + _ACROSS) - _ACROSS
    return Graph(tuple(box for column in placed for box in column), tuple(paths), width, height)


def _tall(boxes: int) -> int:
    return boxes * (_HEIGHT + _DOWN) - _DOWN


def _column(jobs: Sequence[Mapping[str, Any]], number: int, height: int, this: int) -> list[Box]:
    top = (height - _tall(len(jobs))) // 2
    return [
        Box(
            job["id"],
            _short(job["task"]),
            job["state"] or "unknown",
            number * (_WIDTH + _ACROSS),
            top + n * (_HEIGHT + _DOWN),
            job["id"] == this,
        )
        for n, job in enumerate(jobs)
    ]


def _path(left: Box, right: Box) -> str:
    begin, end = left.x + _WIDTH, right.x
    between = (begin + end) // 2
    here, there = left.y + _HEIGHT // 2, right.y + _HEIGHT // 2
    return f"M{begin},{here} C{between},{here} {between},{there} {end},{there}"


def _short(name: str | None) -> str:
    name = name or "no longer known"
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
