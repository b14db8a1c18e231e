"""Recurring work, enqueued exactly once for each due time."""

from pgsync.schedules.calls import ScheduleDeclaration, ScheduleOptions
from pgsync.schedules.firing import declare_plan, fire_due_plan
from pgsync.schedules.triggers import Given, Rhythm, rhythm_from

__all__ = [
    "Given",
    "Rhythm",
    "ScheduleDeclaration",
    "ScheduleOptions",
    "declare_plan",
    "fire_due_plan",
    "rhythm_from",
]
