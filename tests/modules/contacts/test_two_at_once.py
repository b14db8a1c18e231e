"""Imports, edits, consent and merges at once: who meets a row waits, and loses nothing.

Where two meet, one has changed something in a transaction that has not ended. Without the lock the
other would go by what was there before.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from pgsync import Coordinator, OperationBlocked
from pgsync.modules.contacts import Contacts
from tests.eventually import eventually
from tests.modules.two_transactions import changed, waiting
from tests.threads import at_once

KEPT, MERGED, OTHER = "+12015550101", "+12015550102", "+12015550103"


def test_an_import_waits_for_an_opt_out_and_says_that_it_left_it(
    sync: Coordinator, sessions: sessionmaker[Session], book: Any, database: Any, dsn: str
) -> None:
    # The second chunk is known to meet contacts, so that it locks them before anything else.
    contacts = Contacts(sync, sessions, batch=1)
    book.add(KEPT)
    book.add(OTHER)
    path = book.file("phone,status", OTHER, f"{KEPT},active")
    opt_out = f"SELECT pgsync_modules.opt_out({book.workspace}, '{KEPT}', 'letter')"
    run = partial(contacts.contact_import, workspace_id=book.workspace, path=path)
    with changed(dsn, opt_out) as leaving, waiting(database, leaving, run) as importing:
        assert not importing.done()
        leaving.commit()
        assert importing.result(60)["opt_outs_kept"] == 1
    assert book.all()[KEPT].status == "opted_out"


def _edit(contacts: Contacts, book: Any) -> None:
    with contacts.editing(book.workspace, MERGED) as contact:
        contact.company = "Acme"


def _opt_out(contacts: Contacts, book: Any) -> None:
    contacts.opt_out(book.workspace, MERGED, source="letter")


def _import(contacts: Contacts, book: Any) -> None:
    path = book.file("phone,company", f"{MERGED},Acme")
    contacts.contact_import(workspace_id=book.workspace, path=path)


@pytest.mark.parametrize("work", [_edit, _opt_out, _import])
def test_who_meets_a_contact_that_is_just_merged_changes_the_one_that_is_kept(
    contacts: Contacts,
    book: Any,
    database: Any,
    dsn: str,
    work: Callable[[Contacts, Any], None],
) -> None:
    book.add(KEPT, name="Ana")
    book.add(MERGED, name="A. Lima")
    ids = {phone: contact.id for phone, contact in book.all().items()}
    merge = (
        f"SELECT pgsync_modules.merge_contacts({book.workspace},"
        f" ARRAY[{ids[KEPT]}], ARRAY[{ids[MERGED]}])"
    )
    run = partial(work, contacts, book)
    with changed(dsn, merge) as merging, waiting(database, merging, run) as working:
        assert not working.done()
        merging.commit()
        working.result(60)
    found = book.all()
    assert (found[KEPT].company, found[KEPT].status) in [(None, "opted_out"), ("Acme", "active")]
    assert (found[MERGED].company, found[MERGED].status) == (None, "merged")


def test_imports_edits_consent_merges_and_exports_at_once_lose_nothing(
    sync: Coordinator,
    sessions: sessionmaker[Session],
    book: Any,
    tmp_path: Path,
) -> None:
    contacts = Contacts(sync, sessions, batch=7)
    phones = [f"+120155501{number}" for number in range(10, 50)]
    for phone in phones:
        book.add(phone)
    edits: dict[str, str] = {}

    def again_until_it_runs(operation: Any, **given: Any) -> None:
        def run() -> bool:
            try:
                operation(**given)
            except OperationBlocked:
                return False
            return True

        eventually(run)

    def bring_in(who: int) -> None:
        chance = random.Random(who)
        for number in range(4):
            path = tmp_path / f"in-{who}-{number}.csv"
            rows = (f"{chance.choice(phones)},{chance.choice(('', 'no'))}\n" for _ in range(30))
            path.write_text("phone,consent\n" + "".join(rows))
            again_until_it_runs(
                contacts.contact_import, workspace_id=book.workspace, path=str(path)
            )

    def edit(who: int) -> None:
        chance = random.Random(who)
        for number in range(40):
            tag, phone = f"edit {who} {number}", chance.choice(phones)
            with contacts.editing(book.workspace, phone) as contact:
                contact.tags.append(tag)
            edits[tag] = phone

    def consent() -> None:
        for number, phone in enumerate(phones):
            contacts.opt_in(book.workspace, phone, source="form", evidence=f"/{number}")

    def merge() -> None:
        # The one that is kept is merged into the next in its turn.
        for one, other in pairwise(phones[:9]):
            ids = {phone: contact.id for phone, contact in book.all().items()}
            here = {"workspace_id": book.workspace, "keep": ids[other], "others": [ids[one]]}
            again_until_it_runs(contacts.contact_merge, **here)

    def take_out() -> None:
        for _ in range(4):
            again_until_it_runs(
                contacts.contact_export, workspace_id=book.workspace, path=str(tmp_path / "out.csv")
            )

    works = [*(partial(job, who) for job in (bring_in, edit) for who in (1, 2)), consent, merge]
    at_once([*works, take_out])
    found = {contact.id: contact for contact in book.all().values()}
    by_phone = {contact.phone: contact for contact in found.values()}
    assert len(edits) == 80
    assert by_phone[phones[0]].merged_into == by_phone[phones[8]].id
    for tag, phone in edits.items():
        contact = by_phone[phone]
        assert tag in found[contact.merged_into or contact.id].tags
