"""JSON on its way to the database: many values at once as each by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgsync import InvalidArgument
from pgsync.database.json import from_json, to_json, to_json_each

_TEXT = st.text() | st.sampled_from(["pgsync:next", '","pgsync:next","', "\\u0000", "\0", "\\\0"])
_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(_TEXT, inner),
    max_leaves=10,
)


@given(st.lists(_VALUE, max_size=8))
def test_many_values_are_said_as_each_by_itself(values: list[Any]) -> None:
    assert _said(lambda: to_json_each(values, "it")) == _said(
        lambda: [to_json(value, "it") for value in values]
    )


def _said(say: Callable[[], list[str]]) -> list[str] | str:
    try:
        return say()
    except InvalidArgument as refused:
        return str(refused)


@given(st.text())
def test_only_the_character_nul_is_taken_for_it(text: str) -> None:
    for written in (text, text + "\\u0000", text + "\\\\u0000"):
        if "\0" in written:
            with pytest.raises(InvalidArgument, match=r"NUL|surrogate"):
                to_json(written, "it")
        elif not any("\ud800" <= character <= "\udfff" for character in written):
            assert from_json(to_json(written, "it")) == written
