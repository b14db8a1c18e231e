"""Each algorithm against its model, alone and together, with the time that the server gives."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.kernel.conftest import Clock
from tests.kernel.limit_models import (
    FixedWindow,
    Model,
    SlidingWindow,
    TokenBucket,
    bucket_holds,
    most_in_any_interval,
)

pytestmark = pytest.mark.core

_SECOND = 1_000_000
_QUICK = settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))

_model = st.one_of(
    st.builds(FixedWindow, st.integers(1, 9), st.integers(1, 20_000_000)),
    st.builds(SlidingWindow, st.integers(1, 9), st.integers(1, 20_000_000)),
    st.builds(TokenBucket, st.integers(1, 9), st.integers(1, 20_000_000), st.integers(1, 12)),
)
_pause = st.one_of(st.sampled_from([0, 0, 1, _SECOND]), st.integers(0, 30_000_000))
_word = {FixedWindow: "fixed", SlidingWindow: "sliding", TokenBucket: "bucket"}


def _limits(models: list[Model]) -> dict[str, Any]:
    """The arguments of the SQL functions that declare these limits."""
    return {
        "max": [model.max for model in models],
        "per": [timedelta(microseconds=model.per) for model in models],
        "algorithm": [_word[type(model)] for model in models],
        "burst": [getattr(model, "burst", None) for model in models],
    }


_TAKE = (
    "SELECT granted, remaining, retry_after, binding FROM pgsync.rate_limit_take('k', %(max)s,"
    " %(per)s::interval[], %(cost)s, %(times)s, %(algorithm)s, %(burst)s::integer[])"
)


def _now(clock: Clock) -> int:
    return round(clock.now.timestamp() * _SECOND)


def _forget(database: psycopg.Connection[Any]) -> None:
    database.execute("SELECT pgsync.rate_limit_clear('k')")


@pytest.mark.parametrize("together", [1, 3])
def test_decisions_agree_with_the_models(
    database: psycopg.Connection[Any], clock: Clock, together: int
) -> None:
    step = st.tuples(_pause, st.integers(1, 4), st.integers(1, 3))

    @_QUICK
    @given(st.lists(_model, min_size=together, max_size=together), st.lists(step, max_size=12))
    def agree(models: list[Model], steps: list[tuple[int, int, int]]) -> None:
        assume(len({(type(model), model.per) for model in models}) == together)
        _forget(database)
        limits = _limits(models)
        for pause, cost, times in steps:
            if cost > min(getattr(model, "burst", model.max) for model in models):
                continue
            clock.move(pause / _SECOND)
            now = _now(clock)
            rooms = [model.room(now) for model in models]
            expected = min(times, min(rooms) // cost)
            granted, remaining, retry_after, binding = _row(
                database.execute(_TAKE, {**limits, "cost": cost, "times": times})
            )
            assert granted == expected
            if granted:
                for model in models:
                    model.take(now, granted * cost)
                rooms = [model.room(now) for model in models]
                # The limit that binds: for the next hit of one, or for those that were not granted.
                assert remaining == (min(rooms) if granted == times else rooms[binding - 1])
            else:
                # It opens then, to the microsecond, and no sooner.
                opens = now + round(retry_after / timedelta(microseconds=1))
                assert all(model.room(opens) >= cost for model in models)
                assert models[binding - 1].room(opens - 1) < cost

    agree()


def _row(cursor: psycopg.Cursor[Any]) -> Any:
    row = cursor.fetchone()
    assert row is not None
    return row


def _never_above(model: Model, used: list[tuple[int, int]]) -> bool:
    used = sorted(used)
    if isinstance(model, TokenBucket):
        return bucket_holds(used, model.max, model.per, model.burst)
    return most_in_any_interval(used, model.per) <= 2 * model.max


def test_waiters_are_served_in_turn_and_never_above_the_limit(
    database: psycopg.Connection[Any], clock: Clock
) -> None:
    step = st.tuples(_pause, st.integers(1, 3), st.sampled_from(["wait", "wait", "hit", "cancel"]))

    @_QUICK
    @given(_model, st.lists(step, max_size=16), st.data())
    def hold(model: Model, steps: list[tuple[int, int, str]], data: st.DataObject) -> None:
        _forget(database)
        limits = {**_limits([model]), "times": 1}
        used: dict[int, tuple[int, int]] = {}
        waiting: dict[int, int] = {}
        for place, (pause, cost, act) in enumerate(steps):
            if cost > getattr(model, "burst", model.max):
                continue
            clock.move(pause / _SECOND)
            now = _now(clock)
            waiting = {waiter: n for waiter, n in waiting.items() if used[n][0] > now}
            if act == "cancel" and waiting:
                waiter = data.draw(st.sampled_from(sorted(waiting)))
                cancel = "SELECT pgsync.rate_limit_cancel_wait(%s)"
                assert _row(database.execute(cancel, [waiter])) == (True,)
                del used[waiting.pop(waiter)]
            elif act == "hit":
                granted, *_ = _row(database.execute(_TAKE, {**limits, "cost": cost}))
                assert not (granted and waiting), "it went before those who wait"
                if granted:
                    used[place] = (now, cost)
            elif act == "wait":
                wait, waiter = _row(
                    database.execute(
                        "SELECT retry_after, waiter FROM pgsync.rate_limit_acquire('k', %(max)s,"
                        " %(per)s::interval[], %(cost)s, '1 day', %(algorithm)s,"
                        " %(burst)s::integer[])",
                        {**limits, "cost": cost},
                    )
                )
                slot = now + round(wait / timedelta(microseconds=1))
                assert (waiter is None) == (slot == now)
                assert slot >= max((used[n][0] for n in waiting.values()), default=now)
                used[place] = (slot, cost)
                if waiter is not None:
                    waiting[waiter] = place
        assert _never_above(model, list(used.values()))
        # Once all have gone, nothing of them is left.
        clock.move(86400)
        granted, *_ = _row(database.execute(_TAKE, {**limits, "cost": 1}))
        assert granted == 1

    hold()


def test_what_is_given_back_can_be_taken_again_and_never_above_the_limit(
    database: psycopg.Connection[Any], clock: Clock
) -> None:
    step = st.tuples(_pause, st.integers(1, 3), st.booleans())

    @_QUICK
    @given(_model, st.lists(step, max_size=16), st.data())
    def hold(model: Model, steps: list[tuple[int, int, bool]], data: st.DataObject) -> None:
        _forget(database)
        limits = {**_limits([model]), "times": 1}
        used: dict[int, tuple[int, int]] = {}
        tickets: dict[int, tuple[Any, Any]] = {}
        for place, (pause, cost, back) in enumerate(steps):
            clock.move(pause / _SECOND)
            if back and used:
                place = data.draw(st.sampled_from(sorted(used)))
                taken_at, marks = tickets[place]
                amount = data.draw(st.integers(1, used[place][1]))
                database.execute(
                    "SELECT pgsync.rate_limit_refund('k', %(per)s::interval[], %(amount)s, %(at)s,"
                    " %(marks)s, %(algorithm)s)",
                    {**limits, "amount": amount, "at": taken_at, "marks": marks},
                )
                moment, had = used.pop(place)
                if had > amount:
                    used[place] = (moment, had - amount)
            elif cost <= getattr(model, "burst", model.max):
                granted, taken_at, marks = _row(
                    database.execute(
                        _TAKE.replace("remaining, retry_after, binding", "taken_at, marks"),
                        {**limits, "cost": cost},
                    )
                )
                if granted:
                    used[place] = (_now(clock), cost)
                    tickets[place] = (taken_at, marks)
        assert _never_above(model, list(used.values()))

    hold()


def test_a_bucket_is_not_fuller_than_full_for_what_came_back(
    database: psycopg.Connection[Any], clock: Clock
) -> None:
    # One permit a second. Without the five, the bucket would have been full when the one was taken.
    limits = {**_limits([TokenBucket(10, 10 * _SECOND, 10)]), "times": 1}
    take = _TAKE.replace("remaining, retry_after, binding", "taken_at, marks")
    _, taken_at, marks = _row(database.execute(take, {**limits, "cost": 5}))
    clock.move(4)
    assert _row(database.execute(_TAKE, {**limits, "cost": 1}))[0] == 1
    database.execute(
        "SELECT pgsync.rate_limit_refund('k', %(per)s::interval[], 5, %(at)s, %(marks)s,"
        " %(algorithm)s)",
        {**limits, "at": taken_at, "marks": marks},
    )
    assert _row(database.execute(_TAKE, {**limits, "cost": 1}))[:2] == (1, 8)


@pytest.mark.parametrize("kind", [FixedWindow, SlidingWindow, TokenBucket])
@pytest.mark.parametrize("others", [0, 2])
def test_who_stops_waiting_leaves_what_was_taken_before(
    database: psycopg.Connection[Any], clock: Clock, kind: Any, others: int
) -> None:
    limits = {**_limits([kind(2, _SECOND, *([2] if kind is TokenBucket else []))]), "times": 1}
    acquire = (
        "SELECT retry_after, waiter FROM pgsync.rate_limit_acquire('k', %(max)s,"
        " %(per)s::interval[], 1, '1 day', %(algorithm)s, %(burst)s::integer[])"
    )
    assert _row(database.execute(_TAKE, {**limits, "cost": 2}))[0] == 1
    for _ in range(others):
        database.execute(acquire, limits)
    before = _row(database.execute(_TAKE, {**limits, "cost": 1}))
    assert before[0] == 0
    _, waiter = _row(database.execute(acquire, limits))
    assert _row(database.execute(_TAKE, {**limits, "cost": 1}))[2] >= before[2]
    database.execute("SELECT pgsync.rate_limit_cancel_wait(%s)", [waiter])
    assert _row(database.execute(_TAKE, {**limits, "cost": 1})) == before
