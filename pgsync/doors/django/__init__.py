"""Django's tasks on pgsync's queues.

``TASKS = {"default": {"BACKEND": "pgsync.doors.django.TaskBackend"}}``, and
``"pgsync.doors.django"`` among the ``INSTALLED_APPS``.
"""

from pgsync.doors.django.backend import Task, TaskBackend
from pgsync.doors.django.worker import worker

__all__ = ["Task", "TaskBackend", "worker"]
