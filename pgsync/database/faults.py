"""What psycopg and the server raise, in pgsync's own words.

Lost connections and "too many clients" may come without an SQLSTATE, so errors are told apart by
class as well as by code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors as pg
from psycopg_pool import PoolTimeout, TooManyRequests

from pgsync.errors import (
    ConnectionFailed,
    InvalidArgument,
    LockCapacityError,
    OutcomeUnknown,
    PgsyncError,
    SchemaMissing,
    ServerUnsupported,
    StaleToken,
)

__all__ = ["is_connection_lost", "looking", "translate", "translated"]


def is_connection_lost(error: BaseException) -> bool:
    """Whether the error means that the session has gone, with all that it held."""
    if isinstance(error, (pg.AdminShutdown, pg.CrashShutdown, pg.IdleSessionTimeout)):
        return True
    return isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)) and (
        error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))
    )


def translate(error: Exception) -> PgsyncError | None:
    """The PgsyncError that says what the error means, or None where it has no such meaning."""
    if isinstance(error, PgsyncError):
        return error
    if isinstance(error, UnicodeEncodeError):
        return InvalidArgument(
            "text holds a lone surrogate, which is not Unicode text: clean it before it is sent"
        )
    if isinstance(error, (PoolTimeout, TooManyRequests)):
        return ConnectionFailed(
            "no connection to the database became free in time: is it reachable, and is the pool "
            "large enough?"
        )
    if not isinstance(error, psycopg.Error):
        return None
    message = _words(error)
    match error:
        case pg.InvalidParameterValue() | pg.NumericValueOutOfRange() | pg.DatetimeFieldOverflow():
            return InvalidArgument(message)
        case pg.CannotCoerce() | pg.DatatypeMismatch():
            return InvalidArgument(f"{message}: give a value of that type")
        case psycopg.ProgrammingError() if message.startswith("cannot adapt"):
            return InvalidArgument(f"{message}: no such value can be sent to PostgreSQL")
        case pg.InvalidSchemaName() | pg.UndefinedFunction() | pg.UndefinedTable():
            return SchemaMissing(f"{message}; run pgsync migrate on this database")
        case pg.OutOfMemory() if "max_locks_per_transaction" in message:
            return LockCapacityError(
                f"the server's lock table is full ({message}); it needs a restart for that"
            )
        case _ if error.sqlstate == "PS002":
            return LockCapacityError(message)
        case _ if error.sqlstate == "PS004":
            return StaleToken(message)
        case pg.InsufficientPrivilege():
            return ServerUnsupported(f"{message}; grant the role this right, or use another role")
        case pg.InternalError_() if "cache lookup failed for function" in message:
            return ConnectionFailed(
                "the schema was migrated in the middle of this call, of which nothing has "
                "happened: call again"
            )
        case pg.ReadOnlySqlTransaction():
            return ServerUnsupported(f"{message}: the server is read only; connect to the primary")
        case psycopg.DataError() if error.sqlstate is None or error.sqlstate.startswith("22"):
            return InvalidArgument(message)
        case _ if is_connection_lost(error):
            return OutcomeUnknown(
                f"the connection broke before the answer came ({message}): the statement may have "
                "been committed; look before you repeat it"
            )
    return None


@contextmanager
def translated() -> Iterator[None]:
    """Raise pgsync's error in place of psycopg's, which stays its cause."""
    try:
        yield
    except Exception as error:
        meaning = translate(error)
        if meaning is None or meaning is error:
            raise
        raise meaning from error


@contextmanager
def looking() -> Iterator[None]:
    """Raise ConnectionFailed where the connection breaks, for statements that change nothing."""
    try:
        yield
    except OutcomeUnknown as error:
        # Nothing is unknown: it may simply be asked again.
        why = error.__cause__
        words = _words(why) if isinstance(why, psycopg.Error) else str(error)
        raise ConnectionFailed(f"the connection broke: {words}") from error
    except psycopg.Error as error:
        if not is_connection_lost(error):
            raise
        raise ConnectionFailed(f"the connection broke: {_words(error)}") from error


def _words(error: psycopg.Error) -> str:
    message = error.diag.message_primary or str(error).strip().splitlines()[0]
    hint = error.diag.message_hint
    return f"{message}. {hint}" if hint else message
