"""The door to the database: what cannot work is said in one line, and never with the password."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgsync import (
    ConnectionFailed,
    Coordinator,
    InvalidArgument,
    PgsyncError,
    ServerUnsupported,
)

pytestmark = pytest.mark.core

SECRET = "s3cret-w0rd"


def refusal(dsn: str) -> PgsyncError:
    """The error of a coordinator's first use."""
    with Coordinator(dsn) as sync, pytest.raises(PgsyncError) as caught:
        sync.job(1)
    text = f"{caught.value} {sync!r} {sync.database!r}"
    assert SECRET not in text
    assert "\n" not in text
    return caught.value


def test_a_server_that_is_not_there_is_named(dsn: str) -> None:
    with_secret = {"password": SECRET, "connect_timeout": 2}
    for changes in (
        {"host": "no-such-host.invalid"},
        {"host": "127.0.0.1", "port": 1},
        {"dbname": "no_such_database"},
        {"user": "no_such_role"},
    ):
        error = refusal(make_conninfo(dsn, **with_secret, **changes))
        assert isinstance(error, ConnectionFailed)
        assert "cannot connect to" in str(error)


def test_an_unreadable_dsn_is_refused(dsn: str) -> None:
    for bad in ("nonsense", "postgresql://[", "host=a b=c", "a\0b", "   ", "host=\ud800"):
        with pytest.raises(InvalidArgument, match="DSN"):
            Coordinator(bad)


def test_a_timeout_that_is_no_number_is_refused(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = make_conninfo(**{**conninfo_to_dict(dsn), "connect_timeout": None})
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "soon")  # pgsync's own does not go above it
    for bad in (bare, f"{dsn} connect_timeout=later"):
        error = refusal(bad)
        assert isinstance(error, InvalidArgument)
        assert "bad value for connect_timeout" in str(error)


def test_a_wrong_password_is_refused_without_repeating_it(server_dsn: str, dsn: str) -> None:
    given = conninfo_to_dict(dsn)
    url = f"postgresql://nobody_knows:{SECRET}@/{given['dbname']}?host={given['host']}"
    assert isinstance(refusal(url), ConnectionFailed)


def test_a_server_that_only_reads_is_refused(dsn: str) -> None:
    error = refusal(f"{dsn} options='-c default_transaction_read_only=on'")
    assert isinstance(error, ServerUnsupported)
    assert "read only" in str(error)


def test_another_encoding_is_refused(server_dsn: str) -> None:
    with psycopg.connect(server_dsn, autocommit=True) as admin:
        name = "pgsync_test_sql_ascii"
        admin.execute(f"DROP DATABASE IF EXISTS {name}")
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
        try:
            error = refusal(make_conninfo(server_dsn, dbname=name))
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    assert isinstance(error, ServerUnsupported)
    assert "SQL_ASCII" in str(error)


def test_what_is_closed_stays_closed(face: Any) -> None:
    face.lock("report", ttl=60).acquire()
    face.close()
    face.close()
    for use in (lambda: face.job(1), lambda: face.lock("report", ttl=60).acquire()):
        with pytest.raises(PgsyncError, match="closed"):
            use()
