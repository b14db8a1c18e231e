"""Job queues on SKIP LOCKED tables."""

from pgsync.queues.calls import Enqueued, Job, JobOptions, JobState
from pgsync.queues.context import CancelJob, DiscardJob, JobContext, ReleaseJob, current_job
from pgsync.queues.retry import Backoff, backoff_from
from pgsync.queues.tasks import AsyncTask, Task, TaskDeclaration, TaskRegistry

__all__ = [
    "AsyncTask",
    "Backoff",
    "CancelJob",
    "DiscardJob",
    "Enqueued",
    "Job",
    "JobContext",
    "JobOptions",
    "JobState",
    "ReleaseJob",
    "Task",
    "TaskDeclaration",
    "TaskRegistry",
    "backoff_from",
    "current_job",
]
