"""JSON that loses no digit on its way to the page and back."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgsync.dashboard.exact import Number, read_exact, write_exact
from pgsync.masking import HIDDEN, masked_value, unmasked

NUMBERS = st.decimals(allow_nan=False, allow_infinity=False, places=40) | st.integers()
VALUES = st.recursive(
    st.none() | st.booleans() | st.text() | NUMBERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def as_json(value: Any) -> str:
    """JSON of a value with decimals, written without help of what is tested."""
    if isinstance(value, dict):
        return f"{{{','.join(f'{json.dumps(k)}:{as_json(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(as_json, value))}]"
    return f"{value:f}" if isinstance(value, Decimal) else json.dumps(value)


def decimal(text: str) -> Any:
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


@given(VALUES, st.sampled_from([0, 2]))
def test_what_is_read_and_written_is_the_same_to_the_last_digit(value: Any, indent: int) -> None:
    text = as_json(value)
    assert decimal(write_exact(read_exact(text), indent)) == decimal(text)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "{", "", '{"a": -Infinity}'])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_exact(text)


def test_numbers_and_nesting_beyond_python_are_no_obstacle() -> None:
    digits = "9" * 6000
    assert write_exact(read_exact(f'{{"n": {digits}}}')) == f'{{"n": {digits}}}'
    assert isinstance(read_exact("0.12345678901234567890"), Number)
    assert read_exact("1.10") == 1.1
    for depth in (61, 100_000):
        assert "too deeply" in read_exact("[" * depth + "]" * depth)


@given(VALUES, VALUES)
def test_what_was_hidden_comes_back_where_it_was_and_the_rest_is_as_edited(
    secret: Any, other: Any
) -> None:
    original = {"to": other, "list": [{"api_key": secret}, "password=hunter2"], "token": secret}
    shown = masked_value(original)
    assert unmasked(shown, original) == original
    edited = unmasked({**shown, "to": "ada", "more": 1}, original)
    assert edited == {**original, "to": "ada", "more": 1}
    assert unmasked({**shown, "token": "new"}, original)["token"] == "new"
    assert unmasked({"elsewhere": HIDDEN}, original) == {"elsewhere": HIDDEN}
