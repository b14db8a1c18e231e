"""The errors of pgsync: one small hierarchy, whose messages say what to do next.

Every error carries its facts as attributes too, so that a caller never parses a message.
"""

from __future__ import annotations

from datetime import datetime

__all__ = [
    "ConnectionFailed",
    "InvalidArgument",
    "LimitUndecided",
    "LockCapacityError",
    "LockHeld",
    "LockLost",
    "OperationBlocked",
    "OutcomeUnknown",
    "PgsyncError",
    "PoolerDetected",
    "RateLimited",
    "SchemaMissing",
    "SchemaTooNew",
    "ServerUnsupported",
    "StaleToken",
    "UnknownTask",
    "WorkersFailed",
]


class PgsyncError(Exception):
    """Base of all errors that pgsync raises on purpose."""


def coordinator_closed() -> PgsyncError:
    """What whoever goes on with a coordinator after its end is told."""
    return PgsyncError("the coordinator has been closed; make another one")


class InvalidArgument(PgsyncError, ValueError):
    """An argument that can never work; nothing was sent or changed.

    Of a long value the message repeats the beginning and the end.
    """

    def __init__(self, message: str = "") -> None:
        if len(message) > _LONGEST_MESSAGE:
            message = f"{message[: _LONGEST_MESSAGE // 2]} ... {message[-_LONGEST_MESSAGE // 4 :]}"
        super().__init__(message)


_LONGEST_MESSAGE = 2_000


class ConnectionFailed(PgsyncError):
    """The database could not be reached, or refused this user."""


class LimitUndecided(ConnectionFailed):
    """The database could not be asked about a rate limit, so nothing was let pass.

    ``reason`` says why.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"rate limits cannot be decided, and nothing passes ({reason}); a limiter with "
            "on_outage='open' lets pass while the database is away"
        )


class ServerUnsupported(PgsyncError):
    """The server answers, but pgsync cannot work on it (too old, read only, missing rights)."""


class PoolerDetected(ServerUnsupported):
    """A connection pooler stands where a server session of one's own is needed.

    ``dsn`` is the way to it, without a password; ``finding`` is what was seen there.
    """

    def __init__(self, dsn: str, finding: str) -> None:
        self.dsn = dsn
        self.finding = finding
        super().__init__(
            f"{dsn!r} leads through a connection pooler that {finding}; session locks and workers "
            "need a session of their own: give the server's own address as direct_dsn= or "
            "PGSYNC_DIRECT_DSN (the pool may stay on the pooler), or use transaction locks"
        )


class SchemaMissing(PgsyncError):
    """The schema ``pgsync`` is not installed in this database, or is older than this code."""


class SchemaTooNew(PgsyncError):
    """The schema was installed by a newer pgsync than this one."""


class OutcomeUnknown(PgsyncError):
    """The connection broke before the answer came: the statement may have been committed."""


class LockHeld(PgsyncError):
    """Somebody else holds the lock.

    ``holder`` is the owner's name where it is known, ``acquired_at`` and ``expires_at`` are
    server time in UTC. ``obstacle`` says what else than the holder is in the way.
    """

    def __init__(
        self,
        name: str,
        *,
        holder: str | None = None,
        acquired_at: datetime | None = None,
        expires_at: datetime | None = None,
        waited: float = 0.0,
        obstacle: str | None = None,
    ) -> None:
        self.name = name
        self.holder = holder
        self.acquired_at = acquired_at
        self.expires_at = expires_at
        self.waited = waited
        self.obstacle = obstacle
        by = f" by {holder}" if holder else ""
        since = f" since {acquired_at:%Y-%m-%d %H:%M:%S %Z}" if acquired_at else ""
        until = f", at the latest until {expires_at:%H:%M:%S %Z}" if expires_at else ""
        advice = "try later" if waited else "try later or pass wait="
        but = f" ({obstacle})" if obstacle else ""
        super().__init__(f"lock {name!r} is held{by}{since}{until}{but}; {advice}")


class LockLost(PgsyncError):
    """The lock is no longer held: its deadline passed, or its database session ended."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"lock {name!r} was lost: {reason}; stop the work that it protects")


class LockCapacityError(PgsyncError):
    """A quarter of the server's lock table is used by locks, and pgsync takes no more.

    The message names the setting to raise, and to what.
    """


class StaleToken(PgsyncError):
    """A higher fencing token has passed for this resource: a later holder works on it."""


class RateLimited(PgsyncError):
    """The limit is used up. ``retry_after`` is in seconds, ``resets_at`` is server time (UTC)."""

    def __init__(
        self,
        key: str,
        *,
        retry_after: float,
        resets_at: datetime | None = None,
        message: str | None = None,
    ) -> None:
        self.key = key
        self.retry_after = retry_after
        self.resets_at = resets_at
        super().__init__(
            message or f"rate limit {key!r} is used up; retry in {retry_after:.1f} seconds"
        )


class OperationBlocked(PgsyncError):
    """The operation did not run, since another one holds its lock.

    The text is the operation's own message; ``holder`` says who is in the way.
    """

    def __init__(
        self,
        message: str,
        *,
        operation: str,
        key: str,
        holder: str | None = None,
        expires_at: datetime | None = None,
    ) -> None:
        self.operation = operation
        self.key = key
        self.holder = holder
        self.expires_at = expires_at
        super().__init__(message)


class JobLost(PgsyncError):
    """The attempt is no longer the one that runs: another worker has the job, or it has ended.

    Roll back what was done for it, by letting the error out of the transaction.
    """


class UnknownTask(PgsyncError):
    """A job names a task that this process has not declared."""


class WorkersFailed(PgsyncError):
    """Worker processes kept ending before they were ready, or would not end and were killed."""
