"""Files as programs and people leave them: encodings, delimiters, quotes, row numbers."""

from __future__ import annotations

import csv
import io
import random
import tempfile
import tracemalloc
import zipfile
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openpyxl import Workbook
from openpyxl.xml.constants import SHARED_STRINGS

from pgsync.modules.contacts import Bounds, ContactFileError, open_table, read_contacts
from pgsync.modules.contacts.sheets import write_rows
from pgsync.modules.contacts.spooling import as_csv

EMPTY = "^CSV file is empty or invalid$"


def _read(content: bytes, bounds: Bounds | None = None) -> list[tuple[int, list[str]]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table"
        path.write_bytes(content)
        with open_table(path, bounds) as table:
            return [(0, table.headers), *table.rows]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_encoding_and_delimiter_are_found(encoding: str, delimiter: str, end: str) -> None:
    rows = [["phone", "name"], ["1", f"Zoë{delimiter} “€”"], ["2", "two\nlines"], ["3", 'a "b"']]
    file = io.StringIO()
    csv.writer(
        file, "excel", delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL
    ).writerows(rows)
    marks = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}
    content = marks.get(encoding, b"") + file.getvalue().encode(encoding)
    assert _read(content) == [(0, rows[0]), (2, rows[1]), (3, rows[2]), (4, rows[3])]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a,b\n\n1,2\n , \n3,4", [(0, ["a", "b"]), (3, ["1", "2"]), (5, ["3", "4"])]),
        (b"\n\n a ;b\n1;2", [(0, ["a", "b"]), (4, ["1", "2"])]),
        (b"sep=|\r\na,x|b\r\n1|2", [(0, ["a,x", "b"]), (2, ["1", "2"])]),
        (b'a,b\n"x\ny\nz",1\n2,3', [(0, ["a", "b"]), (2, ["x\ny\nz", "1"]), (3, ["2", "3"])]),
        (
            b"a;b;c,d\n1;2;3\n1,5;2;3",
            [(0, ["a", "b", "c,d"]), (2, ["1", "2", "3"]), (3, ["1,5", "2", "3"])],
        ),
        (b"phone\n1\n2", [(0, ["phone"]), (2, ["1"]), (3, ["2"])]),
        (b"a,b\n1\n1,2,3", [(0, ["a", "b"]), (2, ["1"]), (3, ["1", "2", "3"])]),
        (b'a,b\n"x"y,2', [(0, ["a", "b"]), (2, ["xy", "2"])]),
        (b'a,b\n"x\ny" ,2', [(0, ["a", "b"]), (2, ["x\ny ", "2"])]),
        (b"a,b\n\x00,\x01", [(0, ["a", "b"]), (2, ["\x00", "\x01"])]),
        (b"a,b", [(0, ["a", "b"])]),
        (
            b"Name, full;Phone\nM, Z;1;\nM, Y;2;",
            [(0, ["Name, full", "Phone"]), (2, ["M, Z", "1", ""]), (3, ["M, Y", "2", ""])],
        ),
        (b"phone, a;b;c\n1;2;3", [(0, ["phone, a", "b", "c"]), (2, ["1", "2", "3"])]),
        ("phone,name\n1,Zoë".encode("utf-16-le"), [(0, ["phone", "name"]), (2, ["1", "Zoë"])]),
        ("phone,name\n1,王".encode("utf-16-be"), [(0, ["phone", "name"]), (2, ["1", "王"])]),
        (
            ("Phone,Name,Notes\n1,李雷," + "很长的备注" * 500).encode("utf-16-be"),
            [(0, ["Phone", "Name", "Notes"]), (2, ["1", "李雷", "很长的备注" * 500])],
        ),
        (
            "a,b\nZoë,Müller\n".encode() + b"bro,k\xe9",
            [(0, ["a", "b"]), (2, ["Zoë", "Müller"]), (3, ["bro", "k\ufffd"])],
        ),
        (b"a,b\n1,2" + b"," * 2_000, [(0, ["a", "b"]), (2, ["1", "2", *[""] * 998])]),
    ],
)
def test_rows_and_their_numbers(content: bytes, expected: Any) -> None:
    assert _read(content) == expected


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b" , \n", b"\xef\xbb\xbf", b"\xff\xfe", b"PK\x03\x04broken"]
)
def test_empty_and_broken_files(content: bytes) -> None:
    with pytest.raises(ContactFileError, match=EMPTY):
        _read(content)


@pytest.mark.parametrize(
    ("content", "bounds", "message"),
    [
        (b"a,b\n1,2", Bounds(size=3), "larger than 3 bytes"),
        (b"a,b\n1,2\n3,4", Bounds(rows=2), "more than 2 rows"),
        (b"a,b\n1,2,3", Bounds(columns=2), "Row 2: more than 2 columns"),
        (b"a,b\n" + b"x" * 100, Bounds(line=50), "line longer than 50"),
        (b"a,b\n" + b"x" * 140_000, None, "Row 2: a cell is longer than 131,072"),
        (b'a,b\n1,2\n3,"open\n5,6\n', None, "Row 3: a quote is opened and never closed"),
        # What is closed next is another cell, so that the rows between would be lost in this one.
        (b'a,b\n1,2\n3,"open\n5,6\n7,"Cy"\n8,9', None, "Row 3: a quote .* another cell"),
        (b'a;b;c\r1;"open;x\r2;"Bo "B""";\r3;"Cy";y', None, "Row 2: a quote .* another cell"),
    ],
)
def test_bounds_are_told(content: bytes, bounds: Bounds | None, message: str) -> None:
    with pytest.raises(ContactFileError, match=message):
        _read(content, bounds)


def test_an_old_workbook_is_told_from_a_table() -> None:
    with pytest.raises(
        ContactFileError, match=r"^CSV file is empty or invalid: it is an old \.xls"
    ):
        _read(bytes.fromhex("d0cf11e0a1b11ae1") + b"x" * 600)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(ContactFileError, match="check its path"), open_table(path):
            pass


def test_a_workbook_is_read_as_text(tmp_path: Path) -> None:
    workbook = Workbook()
    sheet = workbook.active
    assert sheet is not None
    sheet.append(["Phone", "Name", "Seen"])
    sheet.append([4915123456789, "Zoë", None])
    sheet["A5"] = 491512345678.0
    sheet["B5"] = 1.5
    workbook.save(tmp_path / "book.csv")
    with open_table(tmp_path / "book.csv") as table:
        assert table.headers == ["Phone", "Name", "Seen"]
        rows = [(number, [cell for cell in cells if cell]) for number, cells in table.rows]
    assert rows == [(2, ["4915123456789", "Zoë"]), (5, ["491512345678", "1.5"])]
    with (
        pytest.raises(ContactFileError, match="when unpacked"),
        open_table(tmp_path / "book.csv", Bounds(unpacked=100)),
    ):
        pass


def test_the_first_sheet_that_people_see_is_read(tmp_path: Path) -> None:
    workbook = Workbook()
    hidden, sheet = workbook.active, workbook.create_sheet("People")
    assert hidden is not None
    hidden.append(["Made by", "a program"])
    hidden.sheet_state = "veryHidden"
    workbook.create_sheet("Others").append(["no", "contacts"])
    sheet.append(["Phone", "Born", "Sum", "Notes"])
    sheet.append(["+12015550123", datetime.fromisoformat("1990-05-01"), "=1+1", "one_x000D_\ntwo"])
    sheet.append([1.2015550123e10, datetime.fromisoformat("1990-05-01T12:30"), True, None])
    sheet.merge_cells("A4:B4")
    sheet["A4"] = "1.2015550124E+10"
    sheet.row_dimensions[4].hidden = True
    workbook.save(tmp_path / "book.xlsx")
    with open_table(tmp_path / "book.xlsx") as table:
        rows = dict(table.rows)
    assert rows == {
        2: ["+12015550123", "1990-05-01", "", "one\r\ntwo"],
        3: ["12015550123", "1990-05-01T12:30:00", "True"],
        4: ["1.2015550124E+10"],
    }


def _workbook(changes: dict[str, tuple[bytes, bytes]]) -> bytes:
    """A workbook of one row, in whose parts a text is replaced."""
    made, out = io.BytesIO(), io.BytesIO()
    workbook = Workbook()
    assert workbook.active is not None
    workbook.active.append(["Phone"])
    workbook.save(made)
    with zipfile.ZipFile(made) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(*changes.get(name, (b"", b""))))
    return out.getvalue()


def test_empty_cells_to_the_edge_of_a_sheet_are_no_columns() -> None:
    edge = (b"</row>", b'<c r="XFD1" s="0"/></row>')
    assert _read(_workbook({"xl/worksheets/sheet1.xml": edge})) == [(0, ["Phone"])]


@pytest.mark.parametrize(
    ("part", "old", "new", "message"),
    [
        ("xl/styles.xml", b"<fonts", b" " * 9_000_000 + b"<fonts", "8,388,608 bytes"),
        ("xl/workbook.xml", b"<sheets", b" " * 9_000_000 + b"<sheets", "8,388,608 bytes"),
        (
            # The type decides what a part is, not its name.
            "[Content_Types].xml",
            b"</Types>",
            b'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="%s"/></Types>'
            % SHARED_STRINGS.encode(),
            "67,108,864 bytes",
        ),
    ],
)
def test_bombs_are_refused(part: str, old: bytes, new: bytes, message: str) -> None:
    changes = {part: (old, new)}
    if message.startswith("67"):
        changes["xl/worksheets/sheet1.xml"] = (b"<sheetData", b" " * 68_000_000 + b"<sheetData")
    with pytest.raises(ContactFileError, match=message):
        _read(_workbook(changes))


def test_a_row_far_below_is_no_way_round_the_bounds() -> None:
    far = _workbook({"xl/worksheets/sheet1.xml": (b'r="1"', b'r="99999999"')})
    with pytest.raises(ContactFileError, match="more than 10,000 rows"):
        _read(far, Bounds(rows=10_000))


def test_a_text_that_many_cells_show_is_no_way_round_them_either(tmp_path: Path) -> None:
    path = tmp_path / "people.xlsx"
    write_rows(path, "xlsx", [["phone", "notes"], *([["12", "x" * 10_000]] * 100)])
    bounds = Bounds(size=500_000)
    assert path.stat().st_size < bounds.size
    with (
        pytest.raises(ContactFileError, match="more than 500,000 characters"),
        as_csv(path, bounds),
    ):
        pytest.fail("it was copied")


def test_damaged_workbooks_raise_nothing_else() -> None:
    chance, whole = random.Random(1), _workbook({})
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            damaged[chance.randrange(4, len(whole))] = chance.randrange(256)
        with suppress(ContactFileError):
            _read(bytes(damaged[: chance.choice([len(whole), chance.randrange(10, len(whole))])]))


_CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=12)


@given(
    st.integers(2, 5).flatmap(
        lambda width: st.lists(st.lists(_CELLS, min_size=width, max_size=width), max_size=6)
    ),
    st.sampled_from(",;\t|"),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_what_was_written_is_read(rows: list[list[str]], delimiter: str, encoding: str) -> None:
    header = [f"column {number}" for number in range(len(rows[0]) if rows else 2)]
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    expected = [
        (number, row)
        for number, row in enumerate(rows, 2)
        if any(cell and not cell.isspace() for cell in row)
    ]
    assert _read(file.getvalue().encode(encoding)) == [(0, header), *expected]


@given(st.binary(max_size=300), st.sampled_from([b"", b"phone,name\n", b"\xff\xfe", b"PK\x03\x04"]))
def test_random_bytes_raise_nothing_else(content: bytes, start: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table"
        path.write_bytes(start + content)
        with suppress(ContactFileError), open_table(path) as table:
            for found in read_contacts(table, "US"):
                assert found.row > 1


def test_a_long_file_is_read_in_constant_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    with path.open("w") as file:
        file.write("phone,name\n")
        file.writelines(f"+1201555{number:04},somebody\n" for number in range(100_000))
    tracemalloc.start()
    try:
        with open_table(path) as table:
            assert sum(1 for _ in table.rows) == 100_000
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
