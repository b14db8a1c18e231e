"""A client of the recorded release can call all that it could: rolling deploys rest on that."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.sql.signatures import RECORD, broken_promises, signatures

pytestmark = pytest.mark.core

RECORDED = [json.loads(line) for line in RECORD.read_text().splitlines()]


def broken(database: Any) -> list[str]:
    return [
        each.get("function") or each["view"]
        for each in broken_promises(RECORDED, signatures(database))
    ]


def test_functions_grow_only_by_arguments_with_defaults_and_views_by_columns(
    database: Any,
) -> None:
    assert len(RECORDED) > 100
    # Where this release may break what the last one promised: python -m tests.sql.signatures DSN
    assert broken(database) == []


CHANGED = """
DROP FUNCTION pgsync.change_worker;
CREATE FUNCTION pgsync.change_worker({}) RETURNS {} LANGUAGE sql AS 'SELECT true';
COMMENT ON FUNCTION pgsync.change_worker IS 'A test.'
"""


@pytest.mark.parametrize(
    ("change", "breaks"),
    [
        ("DROP FUNCTION pgsync.lock_key(text) CASCADE", "lock_key"),
        (
            CHANGED.format("worker bigint, queues text[], concurrency int, why text", "boolean"),
            "change_worker",
        ),
        (
            CHANGED.format("worker bigint, names text[], concurrency int", "boolean"),
            "change_worker",
        ),
        (
            CHANGED.format("worker bigint, queues text[], concurrency int", "SETOF boolean"),
            "change_worker",
        ),
        (
            "DROP VIEW pgsync.workers; CREATE VIEW pgsync.workers AS SELECT 1::bigint AS id",
            "workers",
        ),
    ],
)
def test_a_broken_promise_is_seen(database: Any, change: str, breaks: str) -> None:
    database.execute(change)
    assert breaks in broken(database)


def test_a_further_argument_with_a_default_breaks_nothing(database: Any) -> None:
    arguments = "worker bigint, queues text[], concurrency int, why text DEFAULT ''"
    database.execute(CHANGED.format(arguments, "boolean"))
    assert broken(database) == []
