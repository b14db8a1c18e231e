"""Recurring work, enqueued exactly once for each due time."""

from pgsync.schedules.calls import ScheduleDeclaration
from pgsync.schedules.firing import declare_plan, fire_due_plan
from pgsync.schedules.triggers import Rhythm, rhythm_from

__all__ = ["Rhythm", "ScheduleDeclaration", "declare_plan", "fire_due_plan", "rhythm_from"]
