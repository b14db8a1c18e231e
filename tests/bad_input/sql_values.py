"""Values of each SQL type as a client may send them by accident or in malice, as SQL text."""

from __future__ import annotations

import json

from hypothesis import strategies as st

__all__ = ["HOSTILE_TEXT", "value_of"]

HOSTILE_TEXT = (
    "",
    " ",
    "report",
    "default",
    "completed",
    "'; DROP SCHEMA pgsync CASCADE; --",
    "$$; SELECT pg_sleep(60); $$",
    '<script>alert("x")</script>',
    "%s %(name)s {} {0} %",
    "back\\slash \\u0000 \\x00",
    "line\nbreak\ttab\r\x01\x7f",
    "\u202eright to left\u2066",
    "\ufeff\ufffe\U0010ffff",
    "e\u0301 \U0001f469\u200d\U0001f469\u200d\U0001f467",
    "n" * 513,
    "é" * 600,
    "x" * 1_000_001,
)
_NUMBERS = (0, 1, 2, 3, 5, 10, 100, 1_000, -1, -7)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
).map(json.dumps)
_JSON_WORDS = ("{}", "[]", "null", '"text"', "1e400", "-0", '{"a": {"a": {"a": 1}}}', "[[[[]]]]")
_INTERVALS = (
    *("0", "1 s", "30 s", "5 min", "1 us", "-1 s", "1 day", "1 month", "-1 month 1 day"),
    *("100 years", "178000000 years", "-178000000 years", "1 month -30 days"),
)
_TIMES = (
    *("now", "infinity", "-infinity", "4714-11-24 00:00:00+00 BC", "294276-12-31 23:59:59+00"),
    *("2000-02-29 12:00:00+00", "2999-01-01 00:00:00+00", "epoch"),
)


def _whole(bits: int) -> st.SearchStrategy[str]:
    most = 2 ** (bits - 1)
    return (st.sampled_from((*_NUMBERS, most - 1, -most)) | st.integers(-most, most - 1)).map(str)


_OF_TYPE: dict[str, st.SearchStrategy[str]] = {
    "bigint": _whole(64),
    "boolean": st.sampled_from(("true", "false")),
    "bytea": st.binary(max_size=64).map(lambda value: "\\x" + value.hex()),
    "double precision": st.sampled_from(
        ("0", "1", "0.5", "-1", "1e308", "-1e308", "5e-324", "NaN", "Infinity", "-Infinity")
    ),
    "integer": _whole(32),
    "interval": st.sampled_from(_INTERVALS),
    "json": st.sampled_from(_JSON_WORDS) | _JSON,
    "jsonb": (st.sampled_from(_JSON_WORDS) | _JSON).filter(lambda text: "\\u0000" not in text),
    "numeric": st.sampled_from(("0", "1", "-1", "0.001", "1e100", "NaN", "Infinity", "-Infinity")),
    "smallint": _whole(16),
    "time without time zone": st.sampled_from(("00:00", "24:00", "23:59:59.999999")),
    "text": st.sampled_from(HOSTILE_TEXT)
    | st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20),
    "timestamp with time zone": st.sampled_from(_TIMES),
    "uuid": st.uuids().map(str),
    "xid8": st.integers(0, 2**64 - 1).map(str),
}


def value_of(sql_type: str) -> st.SearchStrategy[str | list[str | None] | None]:
    """A value of the type, now and then NULL; of an array, now and then empty or with NULLs."""
    if sql_type.endswith("[]"):
        element = st.none() | _OF_TYPE[sql_type.removesuffix("[]")]
        return st.none() | st.lists(element, max_size=4)
    return st.none() | _OF_TYPE[sql_type]
