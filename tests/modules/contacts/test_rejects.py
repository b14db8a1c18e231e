"""Refused rows as a file: all of them, no formula, and ready to be imported again."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import requests

from pgsync import InvalidArgument
from pgsync.modules.contacts import Contacts
from pgsync.modules.contacts.serving import contacts_app
from tests.serving import serving

PHONE = "+12015550123"


def _import(contacts: Contacts, book: Any, *lines: str, **settings: Any) -> dict[str, Any]:
    done: dict[str, Any] = contacts.contact_import(
        workspace_id=book.workspace, path=book.file(*lines), **settings
    )
    return done


def test_a_refused_row_can_be_put_right_and_imported(
    contacts: Contacts, book: Any, tmp_path: Path
) -> None:
    lines = ("zip,phone,Size,name", "1,12,M,=1+1", f"2,{PHONE},,", "3,,L,Bo,more")
    done = _import(contacts, book, *lines)
    path = tmp_path / "rejects.csv"
    assert contacts.write_rejects(done["import_id"], path) == {"rows": 2, "path": str(path)}
    rows = list(csv.reader(path.read_text("utf-8-sig").splitlines()))
    assert rows == [
        ["rejected row", "rejected because", "zip", "phone", "Size", "name", "column 5"],
        ["2", "Invalid phone number/WhatsApp ID format", "1", "12", "M", "'=1+1", ""],
        ["4", "Missing phone number or WhatsApp ID", "3", "", "L", "Bo", "more"],
    ]
    rows[1][3] = "+12015550124"
    again = _import(contacts, book, *(",".join(row) for row in rows), keep_others=True)
    assert (again["imported"], again["rejected"]) == (1, 1)
    contact = book.all()["+12015550124"]
    assert (contact.name, contact.custom) == ("=1+1", {"zip": "1", "Size": "M"})
    header = next(contacts.rejects(again["import_id"]))
    assert header == (
        "rejected row",
        "rejected because",
        "zip",
        "phone",
        "Size",
        "name",
        "column 5",
    )


def test_a_refused_row_loses_nothing_on_its_way_out_and_back(
    contacts: Contacts, book: Any, tmp_path: Path
) -> None:
    long = "x" * 5_000
    lines = ("phone,phone,column 4,'=Q", f"1,12,'=1+1,{long},{','.join('abcdefgh')}")
    done = _import(contacts, book, *lines, keep_others=True)
    header, cells = contacts.rejects(done["import_id"])
    beyond = tuple(f"column {number}" for number in range(5, 13))
    assert header[2:] == ("phone", "phone (2)", "column 4", "=Q", *beyond)
    assert cells[2:] == ("1", "12", "=1+1", long, *"abcdefgh")
    path = tmp_path / "rejects.csv"
    contacts.write_rejects(done["import_id"], path)
    path.write_text(path.read_text("utf-8-sig").replace(",12,", f",{PHONE},"), "utf-8")
    again = contacts.contact_import(workspace_id=book.workspace, path=str(path), keep_others=True)
    assert (again["imported"], again["rejected"]) == (1, 0)
    custom = book.all()[PHONE].custom
    assert (custom["column 4"], custom["=Q"], custom["column 12"]) == ("=1+1", long, "h")


def test_all_refused_rows_are_in_it_whatever_their_number(contacts: Contacts, book: Any) -> None:
    done = _import(contacts, book, "phone,name", *(f"{number},x" for number in range(2_500)))
    rows = [row[0] for row in contacts.rejects(done["import_id"])]
    assert rows[1:] == [str(number) for number in range(2, 2_502)]


def test_an_import_that_is_not_there(contacts: Contacts, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no import 7"):
        contacts.rejects(7)
    with pytest.raises(InvalidArgument, match="no import 7"):
        contacts.write_rejects(7, tmp_path / "out.csv")
    assert not list(tmp_path.iterdir())


def test_refused_rows_are_downloaded_by_who_may_see_them(contacts: Contacts, book: Any) -> None:
    done = _import(contacts, book, "phone,name", "=1,x", *(f"{n},y" for n in range(1_500)))
    asked = []

    def allowed(request: Any, workspace: int) -> bool:
        asked.append(workspace)
        return bool(request.headers.get("x-user") == "ana")

    with serving(contacts_app(contacts, allowed=allowed)) as url:
        path = f"{url}/imports/{done['import_id']}/rejects.csv"
        got = requests.get(path, headers={"x-user": "ana"}, timeout=60)
        assert requests.get(path, timeout=60).status_code == 404
        for number in (999_999, 10**30, "9" * 5_000, "-1", "x"):
            gone = requests.get(f"{url}/imports/{number}/rejects.csv", timeout=60)
            assert gone.status_code == 404
    assert got.status_code == 200
    assert got.headers["content-disposition"].startswith("attachment;")
    rows = list(csv.reader(got.content.decode("utf-8-sig").splitlines()))
    assert len(rows) == 1_502
    assert rows[1] == ["2", "Invalid phone number/WhatsApp ID format", "'=1", "x"]
    assert asked == [book.workspace] * 2
