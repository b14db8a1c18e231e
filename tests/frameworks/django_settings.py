"""A Django site whose tasks are pgsync's jobs, on the database of ``PGSYNC_DSN``."""

from __future__ import annotations

import os
from typing import Any

import django
from psycopg.conninfo import conninfo_to_dict


def database(dsn: str) -> dict[str, Any]:
    """A database of Django's settings."""
    given = conninfo_to_dict(dsn)
    name = given.pop("dbname")
    return {"ENGINE": "django.db.backends.postgresql", "NAME": name, "OPTIONS": given}


USE_TZ = True
TIME_ZONE = "UTC"
SECRET_KEY = "for tests"
INSTALLED_APPS = ["pgsync.doors.django"]
if django.VERSION < (6,):
    INSTALLED_APPS.append("django_tasks")
DATABASES = {"default": database(os.environ.get("PGSYNC_DSN", "dbname=none"))}
TASKS = {
    "default": {
        "BACKEND": "pgsync.doors.django.TaskBackend",
        "QUEUES": ["default", "mail"],
        "OPTIONS": {"backoff": 0, "max_attempts": 2},
    }
}
