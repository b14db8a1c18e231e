"""Recurring work, enqueued exactly once for each due time."""

from pgsync.schedules.calls import Declared, ScheduleState
from pgsync.schedules.declaration import ScheduleDeclaration, ScheduleOptions
from pgsync.schedules.firing import declare_plan, fire_due_plan
from pgsync.schedules.front import AsyncSchedules, NextFire, Schedules, upcoming
from pgsync.schedules.triggers import Given, Rhythm, rhythm_from

__all__ = [
    "AsyncSchedules",
    "Declared",
    "Given",
    "NextFire",
    "Rhythm",
    "ScheduleDeclaration",
    "ScheduleOptions",
    "ScheduleState",
    "Schedules",
    "declare_plan",
    "fire_due_plan",
    "rhythm_from",
    "upcoming",
]
