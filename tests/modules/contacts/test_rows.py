"""Headers, phone numbers, cells: what a row becomes, or why it is refused."""

from __future__ import annotations

import random
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phonenumbers import PhoneNumberFormat

from pgsync import InvalidArgument
from pgsync.modules.contacts import (
    ContactFileError,
    ContactRow,
    Reject,
    find_columns,
    open_table,
    read_contacts,
    to_e164,
    write_sample,
)
from pgsync.modules.contacts.cells import (
    clean,
    guard_formula,
    join_tags,
    read_cells,
    split_tags,
    unguard_formula,
)
from pgsync.modules.contacts.numbering import INVALID, read_international, read_national
from pgsync.modules.contacts.previewing import preview
from pgsync.modules.contacts.rows import label_columns
from pgsync.modules.contacts.sample import REGION
from pgsync.modules.contacts.sheets import FORMATS, Format, write_rows

PHONE = "+12015550123"


def _rows(folder: Path, text: str, region: str = "US", **given: Any) -> list[ContactRow | Reject]:
    path = folder / "people.csv"
    path.write_text(text, encoding="utf-8")
    with open_table(path) as table:
        return list(read_contacts(table, region, **given))


@pytest.mark.parametrize(("rows", "delimiter"), [(1, ","), (5_000, ","), (2_000, ";")])
def test_the_sample_is_read_as_it_was_built(tmp_path: Path, rows: int, delimiter: str) -> None:
    truth = write_sample(tmp_path / "sample.csv", rows=rows, seed=3, delimiter=delimiter)
    again = write_sample(tmp_path / "again.csv", rows=rows, seed=3, delimiter=delimiter)
    assert truth == again
    assert (tmp_path / "sample.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()
    with open_table(tmp_path / "sample.csv") as table:
        found = list(read_contacts(table, REGION))
    assert len(found) == truth.rows == rows
    assert [(one.row, one.reason) for one in found if isinstance(one, Reject)] == truth.rejects
    phones = [one.phone for one in found if isinstance(one, ContactRow)]
    assert set(phones) == truth.contacts.keys()
    assert len(phones) - len(set(phones)) == truth.duplicates
    for phone in truth.contacts:
        assert phonenumbers.is_valid_number(phonenumbers.parse(phone))


@pytest.mark.parametrize(
    "header",
    [
        "wa_id",
        "WhatsApp ID",
        "PHONE",
        "Phone Number",
        " mobile ",
        "Phone 1 - Value",
        "Mobile Phone",
        "Phóne_Number",
    ],
)
def test_headers_of_phones(tmp_path: Path, header: str) -> None:
    (row,) = _rows(tmp_path, f"x,{header}\n1,{PHONE}")
    assert isinstance(row, ContactRow)
    assert row.phone == PHONE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            """First Name,Middle Name,Last Name,Organization Name,Labels,Notes,E-mail 1 - Value,\
Phone 1 - Value,Phone 2 - Value
Zoë,,Müller,Acme,* myContacts ::: Family,Hi,a@x.org ::: b@x.org,\
none ::: +1 201-555-0123 ::: +1 201-555-0124,""",
            ContactRow(2, PHONE, "Zoë Müller", "a@x.org", "Acme", "Hi", ("myContacts", "Family")),
        ),
        (
            (
                "Given Name,Family Name,Organization 1 - Name,Phone 1 - Value,Phone 2 - Value\n"
                "Zoë,Müller,Acme,n/a,(201) 555-0123"
            ),
            ContactRow(2, PHONE, "Zoë Müller", None, "Acme"),
        ),
        (
            (
                "First Name;Last Name;Company;E-mail Address;Home Phone;Mobile Phone\n"
                "Zoë;;;z@x.org;12;2015550123"
            ),
            ContactRow(2, PHONE, "Zoë", "z@x.org"),
        ),
        (
            (
                "Anrede;Vorname;Nachname;Firma;Telefon geschäftlich;Mobiltelefon;E-Mail-Adresse;"
                "Notizen;Kategorien\n;Zoë;Müller;Acme;12;001 201 555 0123;z@x.org;Hi;A;"
            ),
            ContactRow(2, PHONE, "Zoë Müller", "z@x.org", "Acme", "Hi", ("A",)),
        ),
        (
            (
                "Prénom,Nom,Société,Tél. mobile,Adresse de messagerie,E-mail 2 Address\n"
                "Zoë,Müller,Acme,(201) 555-0123,,z@x.org"
            ),
            ContactRow(2, PHONE, "Zoë Müller", "z@x.org", "Acme"),
        ),
        (
            (
                "contact_name,org,description,tag,wa_id,status\n"
                ' Zoë\u0000 ,,\'=1+1,"a, b;a",12015550123,Inactive'
            ),
            ContactRow(2, PHONE, "Zoë", None, None, "=1+1", ("a", "b"), "inactive"),
        ),
    ],
)
def test_exports_of_others(tmp_path: Path, text: str, expected: ContactRow) -> None:
    assert _rows(tmp_path, text) == [expected]


def test_headers_that_are_numbered_already_are_told_apart(tmp_path: Path) -> None:
    text = f"phone,x,x (4),x,'=x\n{PHONE},a,b,c,d\n{PHONE}"
    first, second = _rows(tmp_path, text, keep_others=True)
    assert isinstance(first, ContactRow)
    assert first.custom == {"x": "a", "x (4)": "b", "x (4) (4)": "c", "=x": "d"}
    assert isinstance(second, ContactRow)
    (row,) = _rows(tmp_path, f"phone,name,name (4),name\n{PHONE},,,Ana")
    assert row == ContactRow(2, PHONE, "Ana")


@given(st.lists(st.sampled_from(("x", "x (2)", "x (3)", "", "column 2", "phone", "phone (2)"))))
def test_every_column_has_a_name_of_its_own(headers: list[str]) -> None:
    labels = label_columns(headers)
    assert len(set(labels)) == len(headers)
    assert label_columns(labels) == labels


def test_refused_rows_say_why(tmp_path: Path) -> None:
    rows = _rows(tmp_path, f"phone,name\n,Ana\n12,Bob\n{PHONE}\nsome long cell,,,extra")
    assert [row.message for row in rows if isinstance(row, Reject)] == [
        "Row 2: Missing phone number or WhatsApp ID",
        "Row 3: Invalid phone number/WhatsApp ID format",
        "Row 5: Invalid phone number/WhatsApp ID format",
    ]
    last = rows[-1]
    assert isinstance(last, Reject)
    assert last.raw == {"phone": "some long cell", "name": "", "column 3": "", "column 4": "extra"}


def test_a_mapping_overrides_the_guess(tmp_path: Path) -> None:
    text = f"phone,name,other\n{PHONE},Ana,(201) 555-0124"
    (row,) = _rows(tmp_path, text, mapping={"phone": "Other", "name": None, "notes": "name"})
    assert row == ContactRow(2, "+12015550124", None, None, None, "Ana")
    with pytest.raises(ContactFileError, match=r"'gone' is not in the file.*'phone', 'name'"):
        _rows(tmp_path, text, mapping={"phone": "gone"})
    with pytest.raises(ContactFileError, match="'fone' is unknown"):
        _rows(tmp_path, text, mapping={"fone": "phone"})
    with pytest.raises(ContactFileError, match=r"no column holds phone.*'nom', 'prénom'"):
        find_columns(["nom", "prénom"])
    with pytest.raises(InvalidArgument, match="region"):
        _rows(tmp_path, text, region="XX")


@pytest.mark.parametrize(
    ("text", "region", "expected"),
    [
        ("+49 1512 3456789", None, "+4915123456789"),
        ("0049 (0)1512 3456789", "US", "+4915123456789"),
        ("01512/3456789", "DE", "+4915123456789"),
        ("4915123456789", "DE", "+4915123456789"),
        ("4915123456789", "US", "+4915123456789"),
        ("4915123456789.0", "US", "+4915123456789"),
        ("\uff0b\uff14\uff1915123456789", None, "+4915123456789"),
        ("٠٠٤٩١٥١٢٣٤٥٦٧٨٩", "US", "+4915123456789"),
        ("\u202a+49 1512 3456789\u202c", None, "+4915123456789"),
        ("whatsapp:+4915123456789", None, "+4915123456789"),
        ("4915123456789@s.whatsapp.net", None, "+4915123456789"),
        ("(201) 555-0123", "US", PHONE),
        ("(201) 555-0123 ext. 7", "US", PHONE),
        ("4.915123456789E+12", None, "+4915123456789"),
        ("1 201.555.0123", "US", PHONE),
        ("+39 06 1234 5678", None, "+390612345678"),
        *(
            (bad, "DE", None)
            for bad in (
                "",
                "+",
                "0",
                "abc",
                "4.9E+11",
                "4,9e11",
                "4.91512345678E-11",
                "12",
                "+999 1",
            )
        ),
        *((bad, "US", None) for bad in ("555-0123", "1" * 300, "\ud800", "\0", "+1 201 555 01234")),
    ],
)
def test_phone_numbers(text: str, region: str | None, expected: str | None) -> None:
    assert to_e164(text, region) == expected
    if expected is not None:
        assert to_e164(expected, "FR") == expected
        assert to_e164(expected[1:], "FR", international=True) == expected


def _of_library(text: str, region: str) -> str:
    try:
        parsed = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return INVALID
    valid = phonenumbers.is_valid_number(parsed)
    return phonenumbers.format_number(parsed, PhoneNumberFormat.E164) if valid else INVALID


def _writings(chance: random.Random, region: str) -> Iterator[str]:
    """Numbers of a region, many a little wrong, with what is written before them."""
    kinds = range(phonenumbers.PhoneNumberType.VOICEMAIL + 1)
    examples = [phonenumbers.example_number_for_type(region, kind) for kind in kinds]
    code = str(phonenumbers.country_code_for_region(region))
    trunk = phonenumbers.PhoneMetadata.metadata_for_region(region).national_prefix or ""
    for _ in range(6):
        number = phonenumbers.national_significant_number(chance.choice([*filter(None, examples)]))
        kept = chance.randint(0, len(number))
        length = len(number) - kept + chance.choice((0, 0, 0, 0, -1, 1, 2))
        digits = number[:kept] + "".join(chance.choices("0123456789", k=max(0, length)))
        for before in ("", trunk, code, f"+{code}", "0", "+", f"00{code}", f"011{code}"):
            yield before + digits


@pytest.mark.parametrize("part", range(4))
def test_the_quick_way_says_what_the_library_says_or_nothing(part: int) -> None:
    chance = random.Random(part)
    answers = numbers = 0
    for region in sorted(phonenumbers.SUPPORTED_REGIONS)[part::4]:
        for text in _writings(chance, region):
            plus = text.startswith("+")
            quick = read_international(text) if plus else read_national(text, region)
            numbers += 1
            if quick is not None:
                answers += 1
                assert quick == _of_library(text, region), (text, region)
    assert answers > numbers // 3


@given(st.text("0123456789", min_size=6, max_size=15), st.sampled_from(["US", "DE", "IT", "VG"]))
def test_the_quick_way_of_any_digits(digits: str, region: str) -> None:
    for quick, text in (
        (read_national(digits, region), digits),
        (read_international(f"+{digits}"), f"+{digits}"),
    ):
        assert quick is None or quick == _of_library(text, region)


def test_a_number_that_the_region_completes_is_left_to_the_library() -> None:
    # Canada's 310 numbers have the length of an island's local ones, and no area code.
    assert to_e164("3101234", "VG") is None
    assert to_e164("3101234", "CA") == "+13101234"


@given(st.text(st.sampled_from("+0123456789 ()-./E٣"), max_size=18), st.sampled_from(["US", "DE"]))
def test_phones_are_idempotent(text: str, region: str) -> None:
    found = to_e164(text, region)
    if found is not None:
        assert to_e164(found, region) == found
        assert to_e164(found, None) == found


@given(st.text(st.sampled_from("=+-@';\t\r\n ,ax\uff1d")) | st.text())
def test_the_guard_is_undone(text: str) -> None:
    guarded = guard_formula(text)
    assert guarded[:1] not in ("=", "+", "-", "@", "\t", "\r") or not guarded
    # Whatever a spreadsheet splits by, no piece of the cell is a formula.
    for piece in re.split(r"[;\t\r\n]", guarded):
        assert piece[:1] not in ("=", "+", "-", "@") or not piece
    assert unguard_formula(guarded) == text


@given(st.lists(st.text(st.sampled_from('ab ,;|:"*=\n'), min_size=1), unique=True))
def test_tags_are_told_apart_whatever_is_in_them(tags: list[str]) -> None:
    tags = list(dict.fromkeys(tag for tag in (" ".join(tag.split()) for tag in tags) if tag))
    assert split_tags([join_tags(tags)]) == tuple(tags)


@given(st.text(st.characters(codec=None)))
def test_clean_text_is_clean(text: str) -> None:
    found = clean(text)
    if found is not None:
        assert found.encode()
        assert "\0" not in found
        assert clean(found) == found


@given(
    st.lists(
        st.text(
            st.sampled_from("=+-@'; \t\r\n\0axe\u0301\u00a0\u200f王") | st.characters(codec=None)
        )
    )
)
def test_a_column_is_read_as_its_cells_are(cells: list[str]) -> None:
    assert read_cells(cells) == [clean(unguard_formula(cell)) for cell in cells]


def test_columns_that_are_not_understood_are_kept_on_request(tmp_path: Path) -> None:
    text = f"phone,name,VIP?,,City\n{PHONE},Ana,yes, ,Šibenik\n{PHONE},,,5,\n{PHONE},Bo,,,"
    kept = _rows(tmp_path, text, keep_others=True)
    assert [row.custom for row in kept if isinstance(row, ContactRow)] == [
        {"VIP?": "yes", "City": "Šibenik"},
        {"column 4": "5"},
        None,
    ]
    assert {getattr(row, "custom", 1) for row in _rows(tmp_path, text)} == {None}


def test_a_preview(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text(f"Kunde;First Name;Last Name;Handy;Phone\nx;Zoë;M;{PHONE};12\n;;;1;\n;;;2;")
    seen = preview(path, 2, region="US")
    assert seen.format == "CSV in utf-8, delimiter ';'"
    assert seen.fields == {"phone": ["Phone"], "name": ["First Name", "Last Name"]}
    assert seen.others == ["Kunde", "Handy"]
    assert [number for number, _ in seen.cells] == [2, 3]
    assert [type(row) for row in seen.rows] == [Reject, Reject]
    (row,) = preview(path, 1, mapping={"phone": "Handy"}).rows
    assert row == ContactRow(2, PHONE, "Zoë M", custom={"Kunde": "x"})


def test_a_preview_of_columns_not_found_says_so(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text("Vorname;Handy\nZoë;1")
    seen = preview(path)
    assert (seen.headers, seen.cells) == (["Vorname", "Handy"], [(2, ["Zoë", "1"])])
    assert seen.problem is not None
    assert "no column holds phone numbers" in seen.problem
    assert not seen.rows
    assert preview(path, mapping={"phone": "Handi"}).problem is not None


_WORDS = st.text(st.characters(codec="utf-8") | st.sampled_from("=+-@';,\t\n "), max_size=12).map(
    lambda text: clean(text.replace(":::", ""))
)


@given(
    st.lists(st.tuples(st.integers(100, 199), _WORDS, _WORDS, _WORDS), max_size=5),
    st.sampled_from(FORMATS),
)
def test_what_goes_out_comes_back(rows: list[Any], form: Format) -> None:
    contacts = [
        ContactRow(number, f"+12015550{line}", name, None, company, notes)
        for number, (line, name, company, notes) in enumerate(rows, 2)
    ]
    table = [(one.phone, one.name, one.company, one.notes) for one in contacts]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out"
        lines = [[cell or "" for cell in row] for row in table]
        write_rows(path, form, [["phone", "name", "company", "notes"], *lines])
        with open_table(path) as found:
            assert list(read_contacts(found)) == contacts
