"""The front door, which forwards to the rooms."""

from pgsync.coordinator.faces import AsyncCoordinator, Coordinator
from pgsync.coordinator.shared import CoordinatorFace, ScheduledTaskOptions, WorkerOptions

__all__ = [
    "AsyncCoordinator",
    "Coordinator",
    "CoordinatorFace",
    "ScheduledTaskOptions",
    "WorkerOptions",
]
