"""``manage.py pgsync_worker``: perform Django's tasks."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from pgsync.doors.django.backend import TaskBackend
from pgsync.doors.django.framework import task_backends
from pgsync.doors.django.worker import worker

__all__ = ["Command"]


class Command(BaseCommand):
    """Perform the tasks of a backend until SIGTERM or Ctrl-C."""

    help = "Perform the tasks of a backend until SIGTERM or Ctrl-C."

    def add_arguments(self, parser: CommandParser) -> None:
        """The same as of ``pgsync worker``."""
        parser.add_argument("--backend", default="default", help="The alias in TASKS.")
        parser.add_argument(
            "--queue", action="append", help="Repeat for more, in order; default: the backend's."
        )
        parser.add_argument("--concurrency", type=int, default=10)
        parser.add_argument("--drain", action="store_true", help="End when no task is available.")

    def handle(self, **options: Any) -> None:
        """Work, and say what was done."""
        backend = task_backends[options["backend"]]
        own = sorted(backend.queues) if isinstance(backend, TaskBackend) else []
        with worker(options["backend"]) as sync:
            report = sync.run_worker(
                queues=options["queue"] or own or ["*"],
                concurrency=options["concurrency"],
                drain=options["drain"],
            )
        self.stdout.write(str(report))
