"""What is hidden, and what is not."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgsync.dashboard.formats import json_value
from pgsync.masking import HIDDEN, is_secret, masked_text, masked_value

SECRET_KEYS = st.sampled_from(
    [
        "password",
        "dbPassword",
        "API_KEY",
        "apikey",
        "access-token",
        "client_secret",
        "Authorization",
    ]
)
VALUES = st.recursive(
    st.none() | st.integers() | st.text(alphabet="abc "),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner),
    max_leaves=8,
)


@given(VALUES, SECRET_KEYS)
def test_a_secret_is_hidden_at_any_depth(around: Any, key: str) -> None:
    value = {"a": [around, {"b": {key: "hunter2", "c": around}}]}
    for shown in (masked_value(value), json_value(value)):
        assert "hunter2" not in json.dumps(shown)
        assert shown["a"][1]["b"]["c"] == around


@given(VALUES)
def test_what_is_no_secret_stays_as_it_is(value: Any) -> None:
    assert masked_value(value) == value


@pytest.mark.parametrize(
    "text",
    [
        "password=hunter2",
        "{'password': 'hunter2'}",
        '{"api_key": "hunter2", "n": 1}',
        "Authorization: Bearer hunter2",
        "postgresql://ada:hunter2@db.example.org/app",
        "GET https://example.org/?access_token=hunter2&page=2",
    ],
)
def test_free_text_tells_no_secret(text: str) -> None:
    masked = masked_text(f"ConnectionError: {text} failed")
    assert "hunter2" not in masked
    assert HIDDEN in masked
    assert masked.endswith("failed")


def test_harmless_words_are_left_alone() -> None:
    assert masked_text("row 17 has no phone number: see https://example.org/a:b@c") == (
        "row 17 has no phone number: see https://example.org/a:b@c"
    )
    assert not is_secret("customer")


_LONG = """
from pgsync.masking import masked_text

for text in ("x", "token", "a://b:", "token = ", "-secret", "postgresql://u:p", "token=\\""):
    masked_text(text * (1_000_000 // len(text)))
"""


def test_a_megabyte_that_repeats_itself_is_read_through_once() -> None:
    # Where each place is read again from all places before it, this takes hours.
    subprocess.run([sys.executable, "-c", _LONG], timeout=120, check=True)
