"""Logs of the daemon on standard error: as text, or one JSON object a line.

Neither says a job's arguments, nor a DSN's password.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

from pgsync.log_fields import current_fields
from pgsync.queues import current_job

__all__ = ["JsonFormatter", "LogStyle", "begin_logging", "current_style"]

_TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"
_OF_A_LINE = ("job", "task", "queue", "attempt", "operation", "lock", "worker")

LogStyle = tuple[int, str]
"""A level of :mod:`logging`, and ``text`` or ``json``."""


class JsonFormatter(logging.Formatter):
    """A line is one object: time (UTC), level, logger, message, and what it is about.

    That is the job, task, queue and attempt, the operation and the lock, as far as there are any:
    those that the line names, else those of the code that logged it.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON on one line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
            **_of_the_context(),
        }
        line.update({name: getattr(record, name) for name in _OF_A_LINE if hasattr(record, name)})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def begin_logging(style: LogStyle) -> None:
    """Log in this style, where the app has not set up logging of its own."""
    level, form = style
    logging.basicConfig(level=level, format=_TEXT)
    if form == "json":
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonFormatter())


def current_style() -> LogStyle | None:
    """How this process logs, for a child to do the same; None where it was not set up."""
    root = logging.getLogger()
    if not root.handlers:
        return None
    is_json = any(isinstance(each.formatter, JsonFormatter) for each in root.handlers)
    return root.level, "json" if is_json else "text"


def _of_the_context() -> dict[str, Any]:
    fields: dict[str, Any] = dict(current_fields())
    context = current_job()
    if context is not None:
        job = context.job
        fields |= {"job": job.id, "task": job.task, "queue": job.queue, "attempt": job.attempt}
    return fields
