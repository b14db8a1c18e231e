"""How the modules reach their own tables (schema ``pgsync_modules``): SQLAlchemy over psycopg."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import psycopg
from sqlalchemy import BigInteger, DateTime, Engine, ExceptionContext, Text, create_engine, event
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from pgsync.database.dsn import connection_parameters
from pgsync.database.faults import translate
from pgsync.database.pool import spare_prepared_statements

__all__ = ["Base", "engine_for", "sessions_for"]


class Base(DeclarativeBase):
    """The base of the modules' models."""

    __table_args__: Any = {"schema": "pgsync_modules"}
    type_annotation_map = {
        int: BigInteger,
        str: Text,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[str]: ARRAY(Text),
    }


def engine_for(dsn: str, *, pool_size: int = 10) -> Engine:
    """An engine on the coordinator's database, with the same connection parameters."""
    parameters = connection_parameters(dsn, "pgsync modules")

    def connect() -> psycopg.Connection[Any]:
        connection = psycopg.connect(**parameters, autocommit=True)
        spare_prepared_statements(connection)
        connection.autocommit = False
        return connection

    engine = create_engine(
        "postgresql+psycopg://",
        creator=connect,
        pool_size=pool_size,
        pool_pre_ping=True,
    )
    event.listen(engine, "handle_error", _say_what_is_wrong)
    return engine


def _say_what_is_wrong(context: ExceptionContext) -> None:
    """A value that no column takes is the caller's fault, and raised in the words for that."""
    error = context.original_exception
    if isinstance(error, psycopg.DataError) and (meaning := translate(error)) is not None:
        raise meaning from error


def sessions_for(dsn: str, *, pool_size: int = 10) -> sessionmaker[Session]:
    """A maker of sessions on the coordinator's database."""
    return sessionmaker(engine_for(dsn, pool_size=pool_size), expire_on_commit=False)
