"""The models say of the tables what the migrations made of them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, Table, inspect
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session, sessionmaker

import pgsync.modules.platform
from pgsync.modules.database import Base

__all__ = ["pgsync"]

_TABLES = Base.metadata.sorted_tables


def _told(columns: Any) -> dict[str, tuple[str, bool]]:
    dialect = postgresql.dialect()

    def kind(column: Any) -> str:
        # How wide an integer is, and how texts are sorted, is the database's affair alone.
        compiled: str = column["type"].compile(dialect)
        return compiled.replace("BIGINT", "INTEGER").removesuffix(' COLLATE "C"')

    return {column["name"]: (kind(column), column["nullable"]) for column in columns}


@pytest.mark.parametrize("table", _TABLES, ids=[table.name for table in _TABLES])
def test_a_model_has_the_columns_of_its_table(
    sessions: sessionmaker[Session], table: Table
) -> None:
    engine: Engine = sessions.kw["bind"]
    found = inspect(engine)
    modelled = [
        {"name": each.name, "type": each.type, "nullable": bool(each.nullable)}
        for each in table.columns
    ]
    assert _told(modelled) == _told(found.get_columns(table.name, table.schema))
    keys = found.get_pk_constraint(table.name, table.schema)["constrained_columns"]
    assert [column.name for column in table.primary_key] == keys
    theirs = {
        (key["constrained_columns"][0], key["referred_table"])
        for key in found.get_foreign_keys(table.name, table.schema)
    }
    ours = {(key.parent.name, key.column.table.name) for key in table.foreign_keys}
    assert ours == theirs
