"""What a wall clock shows, as moments: also where it jumps ahead, and where it is set back.

APScheduler computes on a clock that does not jump; here its times become moments of a zone. Its own
handling of changes depends on the line: a run at 02:00 that half an hour's jump leaves out
(Australia/Lord_Howe) is lost, one at 02:30 of an hour's jump is not.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

__all__ = ["next_by_wall_clock"]

# Clocks are set by half an hour to three hours.
_LONGEST_CHANGE = timedelta(hours=3)


def next_by_wall_clock(
    next_wall: Callable[[datetime], datetime | None],
    zone: ZoneInfo,
    moment: datetime,
    *,
    twice: bool,
) -> datetime | None:
    """The first moment after ``moment`` at which a clock of the zone shows a due time.

    ``next_wall`` gives the first due time at or after one, as the clock shows it, labelled UTC.
    What the clock leaves out when it jumps ahead is due that much later. What it shows twice when
    it is set back is due at the first passing, or with ``twice`` at both.
    """
    found: list[datetime] = []
    wall = next_wall(moment + _offset(zone, moment) + datetime.resolution)
    if wall is not None:
        # Of a time that is left out, fold 0 makes the one that is that much later.
        found.append(wall.replace(tzinfo=zone, fold=0).astimezone(UTC))
    for around in {moment, moment + _LONGEST_CHANGE, *found}:
        found += _due_at_change(next_wall, zone, around, moment, twice)
    return min((due for due in found if due > moment), default=None)


def _due_at_change(
    next_wall: Callable[[datetime], datetime | None],
    zone: ZoneInfo,
    around: datetime,
    moment: datetime,
    twice: bool,
) -> list[datetime]:
    """What is due after ``moment`` on each side of a change in the hours before ``around``."""
    start = around - _LONGEST_CHANGE
    before, after = _offset(zone, start), _offset(zone, around)
    if before == after:
        return []
    while around - start > datetime.resolution:
        middle = start + (around - start) // 2
        if _offset(zone, middle) == before:
            start = middle
        else:
            around = middle
    change = around
    # From, to, offset: what the new clock leaves out, by the old one; and what the new one shows.
    spans = [(change + before, change + after, before), (change + after, None, after)]
    if after < before:
        spans = [(change + (after if twice else before), None, after)]
    due = []
    for first, end, offset in spans:
        wall = next_wall(max(first, moment + offset + datetime.resolution))
        if wall is not None and (end is None or wall < end):
            due.append(wall - offset)
    return due


def _offset(zone: ZoneInfo, moment: datetime) -> timedelta:
    offset = moment.astimezone(zone).utcoffset()
    return offset if offset is not None else timedelta(0)
