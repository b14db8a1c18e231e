"""Files that are broken, or no such files at all: told in words, and no contact is touched."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import openpyxl
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgsync import InvalidArgument
from pgsync.cli.settings import find_settings
from pgsync.modules.contacts import ContactFileError, Contacts

_CELLS = st.sampled_from(
    (
        *(
            "phone",
            "Phone 1 - Value",
            "name",
            "tags",
            "email",
            "",
            " ",
            "+12015550123",
            "2015550124",
        ),
        *('"', '""', "=HYPERLINK(1)", "\x00", "é" * 300, "1e10", "NULL", "a;b", "\u202e", "😀"),
    )
)
_LINES = st.lists(st.lists(_CELLS, min_size=1, max_size=5), max_size=6)
_COMMA = st.sampled_from((",", ";", "\t", "|"))
_BREAK = st.sampled_from(("\n", "\r\n", "\r"))
_CODEC = st.sampled_from(("utf-8", "utf-8-sig", "utf-16", "cp1252"))
_KEEP_ALL = """
SELECT count(*), max(c.updated_at) FROM pgsync_modules.contact AS c
"""


@st.composite
def _tables(draw: st.DrawFn) -> bytes:
    """Something like a CSV file, of any dialect, perhaps cut off or with a byte gone wrong."""
    comma, ending, codec = draw(_COMMA), draw(_BREAK), draw(_CODEC)
    text = ending.join(comma.join(line) for line in draw(_LINES))
    content = bytearray(text.encode(codec, errors="replace"))
    if content and draw(st.booleans()):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)


def _sheet() -> bytes:
    book = openpyxl.Workbook()
    assert book.active is not None
    book.active.append(["phone", "name"])
    book.active.append(["+12015550199", "Ada"])
    book.save(file := io.BytesIO())
    return file.getvalue()


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    content=_tables() | st.binary(max_size=200), name=st.sampled_from(("people.csv", "people.xlsx"))
)
def test_a_file_is_imported_or_refused_whole(
    content: bytes,
    name: str,
    contacts: Contacts,
    workspace: int,
    database: psycopg.Connection[object],
    tmp_path: Path,
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    before = database.execute(_KEEP_ALL.encode()).fetchone()
    try:
        result = contacts.contact_import(workspace_id=workspace, path=str(path))
    except ContactFileError:
        assert database.execute(_KEEP_ALL.encode()).fetchone() == before
    else:
        counted = ("imported", "updated", "duplicates", "rejected")
        assert result["rows"] == sum(result[each] for each in counted)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, len(_sheet()) - 1), spoilt=st.integers(0, 255))
def test_a_damaged_workbook_is_refused(
    cut: int, spoilt: int, contacts: Contacts, workspace: int, tmp_path: Path
) -> None:
    content = bytearray(_sheet())
    content[cut] ^= spoilt or 1
    for damaged in (bytes(content[:cut]), bytes(content)):
        path = tmp_path / "people.xlsx"
        path.write_bytes(damaged)
        try:
            result = contacts.contact_import(workspace_id=workspace, path=str(path))
        except ContactFileError:
            continue
        assert result["rows"] <= 1  # the byte was of no account


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(max_size=60)
    | st.lists(
        st.sampled_from(
            (
                *(
                    "concurrency = -1",
                    "queues = {}",
                    "queues = [[]]",
                    "grace = nan",
                    "dsn = 1",
                    "[a]",
                ),
                *("health_port = 1e9", "only = 3", "log_format = 'xml'", "processes = '2'", "\x00"),
                *(
                    "queues = {'' = 1}",
                    "grace = -1",
                    "concurrency = 99999999999999999999",
                    "x.y.z = 1",
                ),
            )
        ),
        max_size=3,
    ).map("\n".join)
)
def test_a_file_of_settings_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    folder = tmp_path_factory.mktemp("settings")
    (folder / "pgsync.toml").write_text(text, encoding="utf-8", errors="replace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with suppress(InvalidArgument):
            find_settings()
