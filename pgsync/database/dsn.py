"""Connecting: parameters that notice a dead peer, and checks at the door."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
from psycopg import conninfo, pq

from pgsync.errors import ConnectionFailed, InvalidArgument, ServerUnsupported

__all__ = [
    "MINIMUM_VERSION",
    "check_same_database",
    "check_server",
    "connect",
    "connect_async",
    "connection_parameters",
    "has_ended",
    "masked",
]

MINIMUM_VERSION = 15
"""The oldest major version of PostgreSQL that pgsync works on."""

_DEFAULTS: dict[str, str] = {
    "connect_timeout": "10",
    # A peer that vanished without a word: an idle session notices by keepalives, one whose last
    # message was never acknowledged only by tcp_user_timeout (milliseconds).
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}


def connection_parameters(dsn: str, application_name: str = "pgsync") -> dict[str, Any]:
    """The parameters of ``dsn``, with pgsync's own where it and libpq's variables are silent.

    Raises:
        InvalidArgument: if the DSN cannot be read.
    """
    if "\0" in dsn or not dsn.strip():
        raise InvalidArgument("the database's DSN is empty; give one like postgresql://host/name")
    try:
        given = conninfo.conninfo_to_dict(dsn)
    except UnicodeEncodeError:
        raise InvalidArgument("the database's DSN is not Unicode text") from None
    except psycopg.ProgrammingError as error:
        raise InvalidArgument(
            f"the database's DSN cannot be read ({_without_quotations(str(error).strip())}); "
            "give one like postgresql://user@host:5432/name"
        ) from None
    own = dict(_DEFAULTS)
    if "PGCONNECT_TIMEOUT" in os.environ:  # Heeded by psycopg, as libpq's other variables are.
        del own["connect_timeout"]
    return {**own, "application_name": application_name, **given}


def masked(dsn: str) -> str:
    """The DSN as it may be shown: without its password."""
    try:
        given = conninfo.conninfo_to_dict(dsn)
    except (psycopg.ProgrammingError, UnicodeEncodeError):
        return "<unreadable DSN>"
    shown = {name: value for name, value in given.items() if name not in _SECRETS}
    return conninfo.make_conninfo("", **shown)


def connect(dsn: str, application_name: str = "pgsync") -> psycopg.Connection[tuple[Any, ...]]:
    """Open an autocommit connection of one's own.

    Raises:
        InvalidArgument: if the DSN cannot be read, or has a timeout that is no number.
        ConnectionFailed: if no server answers, or it refuses this user.
    """
    parameters = connection_parameters(dsn, application_name)
    with _in_own_words(dsn, parameters):
        return psycopg.connect(**parameters, autocommit=True)


async def connect_async(
    dsn: str, application_name: str = "pgsync"
) -> psycopg.AsyncConnection[tuple[Any, ...]]:
    """As :func:`connect`."""
    parameters = connection_parameters(dsn, application_name)
    with _in_own_words(dsn, parameters):
        return await psycopg.AsyncConnection.connect(**parameters, autocommit=True)


@contextmanager
def _in_own_words(dsn: str, parameters: dict[str, Any]) -> Iterator[None]:
    try:
        yield
    except UnicodeEncodeError as error:
        raise InvalidArgument("the database's DSN is not Unicode text") from error
    except psycopg.ProgrammingError as error:  # a timeout that is no number
        raise InvalidArgument(
            f"cannot connect to {masked(dsn)!r}: {_without_secrets(str(error), parameters)}"
        ) from None
    except psycopg.OperationalError as error:
        reason = "; ".join(line.strip() for line in str(error).strip().splitlines() if line.strip())
        raise ConnectionFailed(
            f"cannot connect to {masked(dsn)!r}: {_without_secrets(reason, parameters)}"
        ) from None


def has_ended(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Whether the server has ended an idle connection, as far as this end has heard. No trip."""
    try:
        # The first read takes the server's farewell, the second meets the end.
        connection.pgconn.consume_input()
        connection.pgconn.consume_input()
    except psycopg.Error:
        return True
    return connection.broken or connection.closed


def check_server(connection: psycopg.Connection[Any]) -> None:
    """Refuse a server that pgsync cannot work on.

    Raises:
        ServerUnsupported: if it is older than :data:`MINIMUM_VERSION`, a standby, or read only.
    """
    version = connection.info.server_version
    if version < MINIMUM_VERSION * 10000:
        raise ServerUnsupported(
            f"the server is PostgreSQL {version // 10000}; pgsync needs {MINIMUM_VERSION} or newer"
        )
    row = connection.execute(
        "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on',"
        " current_setting('server_encoding')"
    ).fetchone()
    standby, read_only, encoding = row or (True, True, "")
    if standby:
        raise ServerUnsupported(
            "the server is a standby and read only; connect to the primary "
            "(target_session_attrs=read-write in the DSN finds it)"
        )
    if read_only:
        raise ServerUnsupported(
            "transactions on this server are read only (default_transaction_read_only); "
            "pgsync needs to write"
        )
    if encoding != "UTF8":
        raise ServerUnsupported(
            f"the database's encoding is {encoding}; pgsync needs UTF8 (initdb -E UTF8)"
        )


def check_same_database(connection: psycopg.Connection[Any], dsn: str) -> None:
    """Refuse a ``dsn`` that leads elsewhere than ``connection``: locks would protect nothing there.

    Raises:
        InvalidArgument: if it is another database, or another server.
        ConnectionFailed: if it cannot be reached.
    """
    here = connection.execute(_PLACE).fetchone()
    with connect(dsn) as other:
        there = other.execute(_PLACE).fetchone()
    if here != there:
        raise InvalidArgument(
            f"direct_dsn leads to another database than dsn ({masked(dsn)!r}): both must name the "
            "same database on the same server; correct direct_dsn= or PGSYNC_DIRECT_DSN"
        )


# Whoever may connect may ask this; the name alone would be the same on another server.
_PLACE: LiteralString = (
    "SELECT d.oid, d.datname, pg_postmaster_start_time()"
    " FROM pg_database AS d WHERE d.datname = current_database()"
)

# libpq marks secret options itself ("*"); channel and service files keep theirs.
_SECRETS = {
    option.keyword.decode() for option in pq.Conninfo.get_defaults() if option.dispchar == b"*"
} | {"password", "sslpassword"}


def _without_quotations(reason: str) -> str:
    """What libpq says of a DSN without what it quotes: all of it, or a word of a password."""
    if reason.startswith("invalid connection option"):  # That is a name.
        return reason
    return re.sub(r'".{2,}"', '"..."', reason, flags=re.DOTALL)


def _without_secrets(text: str, parameters: dict[str, Any]) -> str:
    for name in _SECRETS:
        value = parameters.get(name)
        if value:
            text = text.replace(str(value), "***")
    return text
