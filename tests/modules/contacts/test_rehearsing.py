"""A dry run: it counts as the import does afterwards, and writes nothing."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pgsync import InvalidArgument
from pgsync.modules.contacts import ContactFileError, Contacts, write_sample

PHONE = "+12015550123"
COUNTS = ("rows", "imported", "updated", "duplicates", "rejected", "opt_outs_kept")


def _dirty_lines(seed: int) -> list[str]:
    """Rows of few numbers, so that most of them meet another or a contact that is known."""
    chance = random.Random(seed)
    cells = {
        "name": ("", "Ana", "Bo"),
        "tags": ("", "vip", "vip;fair"),
        "status": ("", "active", "opted_out"),
        "consent": ("", "yes", "no"),
    }
    lines = [",".join(("phone", *cells))]
    for _ in range(60):
        phone = chance.choice(("12", *(f"+120155501{n:02}" for n in range(12))))
        lines.append(",".join((phone, *(chance.choice(choices) for choices in cells.values()))))
    return lines


@pytest.mark.parametrize("on_duplicate", ["skip", "fill", "overwrite"])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_dry_run_counts_as_the_import_does(
    contacts: Contacts, book: Any, database: Any, on_duplicate: str, seed: int
) -> None:
    book.add("+12015550100", name="Ana", tags=["vip"])
    book.add("+12015550101", name="Old", status="opted_out")
    book.add("+12015550102", status="blocked")
    path = book.file(*_dirty_lines(seed))
    before = {phone: contact.updated_at for phone, contact in book.all().items()}
    told = contacts.dry_run(book.workspace, path, on_duplicate=on_duplicate)
    assert {phone: contact.updated_at for phone, contact in book.all().items()} == before
    nothing = database.execute("SELECT FROM pgsync_modules.contact_import").fetchone()
    assert nothing is None
    done = contacts.contact_import(
        workspace_id=book.workspace, path=path, on_duplicate=on_duplicate
    )
    outs = told["opt_outs_kept"], done["opt_outs_kept"]
    # Of numbers that the file itself opts out only the import knows.
    assert outs[0] <= outs[1]
    assert [told[name] for name in COUNTS[:-1]] == [done[name] for name in COUNTS[:-1]]
    assert told["errors"] == done["errors"]


def test_a_dry_run_of_the_sample_knows_its_truth(
    contacts: Contacts, book: Any, tmp_path: Path
) -> None:
    truth = write_sample(tmp_path / "sample.csv", rows=3_000, seed=4)
    told = contacts.dry_run(book.workspace, tmp_path / "sample.csv")
    assert (told["rows"], told["imported"]) == (truth.rows, len(truth.contacts))
    assert (told["duplicates"], told["rejected"]) == (truth.duplicates, len(truth.rejects))
    assert told["errors"] == truth.errors[:20]
    assert not book.all()


def test_a_dry_run_shows_columns_and_first_rows(contacts: Contacts, book: Any) -> None:
    path = book.file(
        "Handy;First Name;Last Name;Size;consent;consent_at", f"{PHONE};Ana;Lima;M;yes;2026-01-01"
    )
    told = contacts.dry_run(
        book.workspace, path, first=1, mapping={"phone": "Handy"}, keep_others=True
    )
    assert told["format"] == "CSV in utf-8, delimiter ';'"
    assert told["fields"] == {
        "phone": ["Handy"],
        "name": ["First Name", "Last Name"],
        "consent": ["consent"],
        "consent_at": ["consent_at"],
    }
    assert told["others"] == ["Size"]
    assert told["first"] == [
        {
            "row": 2,
            "phone": PHONE,
            "name": "Ana Lima",
            "custom": {"Size": "M"},
            "consent": {
                "opted_in": True,
                "at": "2026-01-01T00:00:00+00:00",
                "source": None,
                "evidence": None,
            },
        }
    ]


def test_a_dry_run_refuses_what_an_import_refuses(contacts: Contacts, book: Any) -> None:
    path = book.file("phone", PHONE)
    with pytest.raises(InvalidArgument, match="no workspace"):
        contacts.dry_run(book.workspace + 1, path)
    with pytest.raises(InvalidArgument, match="no region"):
        contacts.dry_run(book.workspace, path, region="Atlantis")
    with pytest.raises(ContactFileError, match="no column holds phone numbers"):
        contacts.dry_run(book.workspace, book.file("nom", "Ana"))
