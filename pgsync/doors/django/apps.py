"""The app: ``manage.py migrate`` installs the schema, and ``pgsync_worker`` performs tasks."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate

from pgsync.database.migrations import migrate
from pgsync.doors.django import framework
from pgsync.doors.django.backend import TaskBackend

__all__ = ["PgsyncConfig"]


class PgsyncConfig(AppConfig):
    """pgsync as an app of Django."""

    name = "pgsync.doors.django"
    label = "pgsync"
    verbose_name = "pgsync"

    def ready(self) -> None:
        """Follow Django's migrations, those of its test databases too."""
        post_migrate.connect(_migrate, sender=self, dispatch_uid="pgsync")


def _migrate(using: str, verbosity: int = 1, **_signal: Any) -> None:
    backends = [framework.task_backends[alias] for alias in framework.task_backends]
    for backend in backends:
        if isinstance(backend, TaskBackend) and backend.database == using:
            applied = migrate(backend.dsn())
            if verbosity >= 2:
                print(f"pgsync: {', '.join(applied) or 'up to date'}")  # noqa: T201 - as Django does
            return
