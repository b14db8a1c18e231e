"""The rhythm of a schedule in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache

from cron_descriptor import Options, get_description

from pgsync.dashboard.formats import duration, moment
from pgsync.schedules.crontab import spelled_out

__all__ = ["in_words"]


@lru_cache(maxsize=1024)
def in_words(kind: str, expression: str) -> str:
    """When a schedule is due, as people say it; the expression itself where there are no words."""
    try:
        return _WORDS[kind](expression)
    except Exception:  # noqa: BLE001 - there are more expressions than words, and no page may fail
        return expression


def _cron(expression: str) -> str:
    options = Options()  # type: ignore[no-untyped-call, unused-ignore]
    options.use_24hour_time_format = True
    options.locale_code = "en_US"
    words: str = get_description(spelled_out(expression), options)
    return words


def _interval(expression: str) -> str:
    seconds, _, start = expression.partition(" from ")
    counted = f", counted from {_date(start)}" if start else ""
    return f"Every {duration(timedelta(seconds=float(seconds)))}{counted}"


def _date(expression: str) -> str:
    return f"{moment(datetime.fromisoformat(expression))} UTC"


_WORDS: Mapping[str, Callable[[str], str]] = {
    "cron": _cron,
    "interval": _interval,
    "date": lambda expression: f"Once, at {_date(expression)}",
}
