"""What the webhooks of the Graph API hold: statuses of messages, notices about templates.

Only what is of a kind that we know and looks as documented is taken; the rest is passed over, since
refusing a whole event would lose what the API sent with it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from pgsync.modules.broadcasts.statuses import STATUSES

__all__ = ["notices", "statuses"]

logger = logging.getLogger("pgsync.modules.broadcasts")

_MESSAGE_ID = re.compile(r"[!-~]{1,256}")
_NODE = re.compile(r"[0-9]{1,32}")
_WORD = re.compile(r"[A-Za-z0-9_ ]{1,100}")
_LATEST = 253_402_300_799.0
"""The end of the year 9999, in Unix seconds."""

_TOLD_BY = {
    "message_template_status_update": ("status", "event"),
    "message_template_quality_update": ("quality", "new_quality_score"),
    "template_category_update": ("category", "new_category"),
}


def statuses(event: Any) -> Iterator[dict[str, Any]]:
    """What ``campaign_status_update`` is called with, for each status of a message."""
    for entry in event.get("entry") or ():
        for change in entry.get("changes") or ():
            for status in (change.get("value") or {}).get("statuses") or ():
                yield from _read("a status", partial(_status, status))


def notices(event: Any) -> Iterator[dict[str, Any]]:
    """What ``template_notice`` is called with, for each notice about a template."""
    for entry in event.get("entry") or ():
        for change in entry.get("changes") or ():
            if change.get("field") in _TOLD_BY:
                yield from _read("a notice", partial(_notice, entry, change))


def _read(what: str, read: Callable[[], dict[str, Any] | None]) -> Iterator[dict[str, Any]]:
    try:
        arguments = read()
    except (ValueError, TypeError, AttributeError, LookupError):
        logger.warning("a webhook holds %s that cannot be understood", what)
        return
    if arguments is not None:
        yield arguments


def _status(status: Any) -> dict[str, Any] | None:
    message_id = status["id"]
    if status["status"] not in STATUSES:
        return None
    if not isinstance(message_id, str) or not _MESSAGE_ID.fullmatch(message_id):
        raise ValueError("the message's id")
    code = status["errors"][0].get("code") if status.get("errors") else None
    callback_data = status.get("biz_opaque_callback_data")
    return {
        "message_id": message_id,
        "status": status["status"],
        "at": _moment(status["timestamp"]),
        "callback_data": callback_data if isinstance(callback_data, str) else None,
        "error_code": code if isinstance(code, int) else None,
    }


def _notice(entry: Any, change: Any) -> dict[str, Any]:
    kind, field = _TOLD_BY[change["field"]]
    told = change["value"]
    waba_id, remote_id, value = str(entry["id"]), str(told["message_template_id"]), told[field]
    if not (_NODE.fullmatch(waba_id) and _NODE.fullmatch(remote_id) and _WORD.fullmatch(value)):
        raise ValueError("the template")
    return {
        "waba_id": waba_id,
        "remote_id": remote_id,
        "kind": kind,
        "value": value,
        "at": _moment(entry["time"]),
    }


def _moment(seconds: Any) -> float:
    at = float(seconds)
    if not 0 <= at <= _LATEST:
        raise ValueError("the time")
    return at
