"""The messaging limit of a portfolio: so many different users in a moving 24 hours.

Exact, and shared by all campaigns of all its connections: who may be claimed is counted under row
locks of those connections, in the claim's own transaction. A user counts from the claim on, also
where the message is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from pgsync.modules.models import Connection

__all__ = ["Quota", "forget_users"]

_LIMITED = text(
    """
    SELECT EXISTS (
        SELECT FROM pgsync_modules.connection AS n
        WHERE coalesce(n.portfolio, n.waba_id) = :portfolio AND n.daily_limit IS NOT NULL)
    """
)

_LOCK = text(
    """
    SELECT n.daily_limit FROM pgsync_modules.connection AS n
    WHERE coalesce(n.portfolio, n.waba_id) = :portfolio ORDER BY n.id FOR NO KEY UPDATE
    """
)

_COUNT = text(
    """
    SELECT count(*), extract(epoch FROM min(u.at) + interval '24 hours' - clock_timestamp())
    FROM pgsync_modules.messaged_user AS u
    WHERE u.portfolio = :portfolio AND u.at > clock_timestamp() - interval '24 hours'
    """
)

_ADD = text(
    """
    INSERT INTO pgsync_modules.messaged_user (portfolio, phone, at)
    SELECT :portfolio, p.phone, clock_timestamp() FROM unnest(CAST(:phones AS text[])) AS p (phone)
    ON CONFLICT (portfolio, phone) DO UPDATE SET at = excluded.at
    """
)

_FORGET = text(
    "DELETE FROM pgsync_modules.messaged_user WHERE at < clock_timestamp() - interval '25 hours'"
)


class Quota:
    """The users that a connection's portfolio may still write to today.

    The limit is the portfolio's, whichever of its connections has been told of it. Whether there is
    one is looked for once.
    """

    def __init__(self, connection: Connection) -> None:
        self._portfolio = {"portfolio": connection.portfolio or connection.waba_id}
        self._limited: bool | None = None

    def left(self, session: Session) -> int | None:
        """How many more users; None where there is no limit. Others wait until the commit."""
        if self._limited is None:
            self._limited = bool(session.scalar(_LIMITED, self._portfolio))
        if not self._limited:
            return None
        limits = [each for each in session.scalars(_LOCK, self._portfolio) if each is not None]
        if not limits:
            return None
        used, _ = session.execute(_COUNT, self._portfolio).one()
        return max(0, int(min(limits)) - int(used))

    def add(self, session: Session, phones: Sequence[str]) -> None:
        """Count those who were claimed."""
        if self._limited and phones:
            session.execute(_ADD, {**self._portfolio, "phones": list(phones)})

    def opens_in(self, session: Session) -> float:
        """Seconds until the first user of the last 24 hours counts no more; 10 at the least."""
        _, seconds = session.execute(_COUNT, self._portfolio).one()
        return max(float(seconds or 0.0), 10.0)


def forget_users(sessions: sessionmaker[Session]) -> None:
    """Remove who counts no more."""
    with sessions.begin() as session:
        session.execute(_FORGET)
