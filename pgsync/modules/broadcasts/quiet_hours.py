"""When of a day a campaign sends nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import time
from zoneinfo import ZoneInfo

from pgsync.errors import InvalidArgument

__all__ = ["QuietHours"]


@dataclass(frozen=True, slots=True)
class QuietHours:
    """The time of day in which a campaign sends nothing, in a time zone; it may pass midnight."""

    start: time
    end: time
    zone: str = "UTC"

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.zone)
        except (KeyError, ValueError, OSError):
            raise InvalidArgument(f"there is no time zone {self.zone[:50]!r}") from None
        if self.start == self.end:
            raise InvalidArgument("quiet hours must end at another time than they begin")
