"""A large file of contacts, and what of it an import into an empty workspace must leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg

__all__ = ["misplaced", "write_people"]


def write_people(path: Path, rows: int) -> dict[str, int]:
    """Write a CSV file, and return what its import must count.

    Of 33 rows one is refused, and of 12 one has the number of the row before, written otherwise.
    """
    rejected = duplicates = 0
    with path.open("w", encoding="utf-8") as file:
        file.write("phone,name,email,company,tags\n")
        for row in range(rows):
            number = row
            if row % 33 == 32:
                phone, rejected = "12", rejected + 1
            else:
                if row % 12 == 1:
                    number, duplicates = row - 1, duplicates + 1
                phone = f"+3933{number:08}"
                if row % 3 == 1:
                    phone = f"00{phone[1:3]} {phone[3:6]} {phone[6:]}"
            file.write(f"{phone},Ana {number},ana{number}@example.org,Acme {number % 97},fair\n")
    imported = rows - rejected - duplicates
    return {"rows": rows, "imported": imported, "duplicates": duplicates, "rejected": rejected}


# The same rules once more, for the server: a million contacts are compared where they are.
_MISPLACED = """
WITH row AS (
    SELECT n, n %% 33 = 32 AS refused, n %% 12 = 1 AS again
    FROM generate_series(0, %(rows)s::integer - 1) AS n
), held AS (
    SELECT '+3933' || lpad(n::text, 8, '0') AS phone, 'Ana ' || n AS name,
           'ana' || n || '@example.org' AS email, 'Acme ' || n %% 97 AS company, '{fair}'::text[]
    FROM row WHERE NOT refused AND NOT again
), contact AS (
    SELECT phone, name, email, company, tags
    FROM pgsync_modules.contact WHERE workspace_id = %(workspace)s
), refused AS (
    SELECT n + 2 FROM row WHERE refused
), reject AS (
    SELECT r.row FROM pgsync_modules.contact_import_rejects AS r
    JOIN pgsync_modules.contact_import AS i ON i.id = r.import_id
    WHERE i.workspace_id = %(workspace)s
)
SELECT 'contacts are missing', count(*)
FROM (TABLE held EXCEPT ALL TABLE contact) AS d
UNION ALL
SELECT 'contacts are doubled, or other than in the file', count(*)
FROM (TABLE contact EXCEPT ALL TABLE held) AS d
UNION ALL
SELECT 'refused rows are not reported', count(*)
FROM (TABLE refused EXCEPT ALL TABLE reject) AS d
UNION ALL
SELECT 'rows are reported twice, or were not to be refused', count(*)
FROM (TABLE reject EXCEPT ALL TABLE refused) AS d
"""


def misplaced(database: psycopg.Connection[Any], workspace: int, rows: int) -> list[str]:
    """What a workspace has otherwise than the file's first so many rows hold, in sentences."""
    found = database.execute(_MISPLACED, {"workspace": workspace, "rows": rows}).fetchall()
    return [f"workspace {workspace}: {number} {what}" for what, number in found if number]
