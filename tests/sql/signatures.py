"""The public functions and views of the schema, as text: what clients of a release may call.

``python -m tests.sql.signatures DSN`` records those of a freshly migrated database, at each release
that may break what the former one promised: a new minor version.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

__all__ = ["RECORD", "broken_promises", "signatures"]

RECORD = Path(__file__).with_suffix(".jsonl")

_FUNCTIONS = """
SELECT p.proname,
       ARRAY(SELECT concat_ws(' ', p.proargnames[a.n], format_type(a.type, NULL))
             FROM unnest(p.proargtypes) WITH ORDINALITY AS a (type, n) ORDER BY a.n),
       p.pronargs - p.pronargdefaults,
       CASE WHEN p.proallargtypes IS NULL THEN pg_get_function_result(p.oid)
            ELSE (SELECT string_agg(concat_ws(' ', p.proargnames[a.n], format_type(a.type, NULL)),
                                    ', ' ORDER BY a.n)
                  FROM unnest(p.proallargtypes) WITH ORDINALITY AS a (type, n)
                  WHERE p.proargmodes[a.n] IN ('o', 'b', 't')) END
FROM pg_proc AS p
WHERE p.pronamespace = 'pgsync'::regnamespace
  AND obj_description(p.oid, 'pg_proc') NOT LIKE 'Internal:%'
ORDER BY p.proname, 2
"""

_VIEWS = """
SELECT c.relname, array_agg(a.attname || ' ' || format_type(a.atttypid, NULL) ORDER BY a.attnum)
FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'pgsync'::regnamespace AND c.relkind = 'v'
GROUP BY c.relname ORDER BY c.relname
"""


def signatures(connection: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    """All public functions and views of the database."""
    functions = [
        {"function": name, "arguments": arguments, "required": required, "answer": answer}
        for name, arguments, required, answer in connection.execute(_FUNCTIONS.encode())
    ]
    views = [
        {"view": name, "columns": columns} for name, columns in connection.execute(_VIEWS.encode())
    ]
    return functions + views


def broken_promises(
    recorded: list[dict[str, Any]], present: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """What was recorded and cannot be called, or read, as it was."""
    for promise in recorded:
        if not any(_keeps(promise, each) for each in present):
            yield promise


def _keeps(promise: dict[str, Any], present: dict[str, Any]) -> bool:
    if "view" in promise:
        columns = promise["columns"]
        return (
            present.get("view") == promise["view"] and present["columns"][: len(columns)] == columns
        )
    arguments = promise["arguments"]
    return (
        present.get("function") == promise["function"]
        and present["arguments"][: len(arguments)] == arguments
        and present["required"] <= promise["required"]
        and present["answer"] == promise["answer"]
    )


if __name__ == "__main__":
    with psycopg.connect(sys.argv[1]) as database:
        RECORD.write_text("".join(f"{json.dumps(each)}\n" for each in signatures(database)))
