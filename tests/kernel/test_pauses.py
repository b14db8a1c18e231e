"""Pauses between tries double up to their longest, and chance keeps those who pause apart."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from pgsync.pauses import Pauses, spread

seconds = st.floats(0.001, 1e6)


@given(seconds, seconds, st.integers(0, 50))
def test_each_pause_is_half_or_more_of_a_length_that_doubles_up_to_the_longest(
    first: float, longest: float, count: int
) -> None:
    pauses = Pauses(first, longest)
    for tries in (count, 60):
        for number, pause in enumerate(islice(pauses, tries)):
            length = min(first * 2.0**number, longest)
            assert length / 2 <= pause <= length
        pauses.reset()


def test_they_go_on_without_an_end() -> None:
    assert 1.5 <= list(islice(Pauses(0.1, 3.0), 5_000))[-1] <= 3.0


@given(seconds, st.floats(0, 1))
def test_chance_takes_away_the_given_share_at_most(length: float, share: float) -> None:
    assert length * (1 - share) <= spread(length, share) <= length


def test_those_who_failed_together_do_not_come_back_together() -> None:
    assert len({next(Pauses(1.0, 1.0)) for _ in range(100)}) > 90
