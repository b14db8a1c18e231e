"""Crontab lines against oracles that share no code with ours: a minute-by-minute scan, cronsim."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
from cronsim import CronSim
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgsync.schedules import rhythm_from
from pgsync.schedules.jitter import jitter_of

MINUTE = timedelta(minutes=1)
BOUNDS = {"minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12), "weekday": (0, 7)}
NAMES = {
    "month": ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    "weekday": ["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
}


@st.composite
def _parts(draw: st.DrawFn, field: str) -> str:
    low, high = BOUNDS[field]
    first = draw(st.integers(low, high - 1))
    last = draw(st.integers(first + 1, high))
    step = draw(st.integers(1, 12))
    return draw(
        st.sampled_from(
            [
                str(first),
                f"{first}-{last}",
                f"{first}-{last}/{step}",
                f"*/{step}",
                _named(field, first),
            ]
        )
    )


def _named(field: str, value: int) -> str:
    names = NAMES.get(field)
    return str(value) if names is None else names[(value - BOUNDS[field][0]) % len(names)].upper()


@st.composite
def _field(draw: st.DrawFn, field: str) -> str:
    if draw(st.booleans()):
        return "*"
    return ",".join(draw(st.lists(_parts(field), min_size=1, max_size=3)))


lines = st.tuples(*(_field(field) for field in BOUNDS)).map(" ".join)


@lru_cache(maxsize=100_000)
def _matches(field: str, text: str, value: int) -> bool:
    """Whether a value is in a field, by crontab(5)."""
    low, high = BOUNDS[field]
    for part in text.split(","):
        body, _, step = part.partition("/")
        first, _, last = body.partition("-")
        start = low if first == "*" else _number(field, first)
        end = high if first == "*" else _number(field, last) if last else start
        if start <= value <= end and (value - start) % int(step or 1) == 0:
            return True
    return False


def _number(field: str, text: str) -> int:
    names = NAMES.get(field, [])
    return names.index(text.lower()) + BOUNDS[field][0] if text.lower() in names else int(text)


def _due(line: str, wall: datetime) -> bool:
    """Whether cron would run the line in the minute that the wall clock shows."""
    minute, hour, day, month, weekday = line.split()
    if not (
        _matches("minute", minute, wall.minute)
        and _matches("hour", hour, wall.hour)
        and _matches("month", month, wall.month)
    ):
        return False
    sunday = wall.isoweekday() % 7
    in_week = _matches("weekday", weekday, sunday) or (
        sunday == 0 and _matches("weekday", weekday, 7)
    )
    in_month = _matches("day", day, wall.day)
    if day.startswith("*") or weekday.startswith("*"):
        return in_week and in_month
    return in_week or in_month


def _scan(line: str, zone: ZoneInfo, start: datetime, end: datetime) -> list[datetime]:
    """Every minute between, by the rules that docs/schedules.md states."""
    fixed_hours = not line.split()[1].startswith("*")
    due: set[datetime] = set()
    moment = start + MINUTE
    offset = start.astimezone(zone).utcoffset()
    while moment <= end:
        wall = moment.astimezone(zone)
        if _due(line, wall.replace(tzinfo=None)) and not (fixed_hours and wall.fold):
            due.add(moment)
        now = wall.utcoffset()
        assert now is not None
        assert offset is not None
        if now > offset:  # The wall clock has jumped: what it left out is due that much later.
            for skipped in range(int((now - offset) / MINUTE)):
                if _due(line, (moment + offset + skipped * MINUTE).replace(tzinfo=None)):
                    due.add(moment + skipped * MINUTE)
        offset = now
        moment += MINUTE
    return sorted(moment for moment in due if moment <= end)


SUNDAYS = [
    ("UTC", "2026-02-27T22:00"),
    ("Asia/Kolkata", "2026-03-28T12:00"),
    ("Europe/Berlin", "2026-03-28T22:00"),
    ("Europe/Berlin", "2026-10-24T21:00"),
    ("America/New_York", "2026-03-08T04:00"),
    ("America/New_York", "2026-11-01T03:00"),
    ("Australia/Lord_Howe", "2026-10-03T10:00"),
    ("Australia/Lord_Howe", "2026-04-04T10:00"),
]


@given(line=lines, place=st.sampled_from(SUNDAYS))
@settings(max_examples=50, deadline=None)
def test_a_crontab_line_is_due_when_a_scan_of_every_minute_says(
    line: str, place: tuple[str, str]
) -> None:
    zone, start = ZoneInfo(place[0]), datetime.fromisoformat(place[1]).replace(tzinfo=UTC)
    end = start + timedelta(hours=9)
    expected = _scan(line, zone, start, end)
    try:
        rhythm = rhythm_from(line, place[0])
    except ValueError as error:
        assert "never due" in str(error)  # noqa: PT017 - as of 30 February
        assert not expected
        return
    found = []
    for moment in rhythm.after(start):
        if moment > end:
            break
        found.append(moment)
    assert found == expected


@given(line=lines, start=st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1)))  # noqa: DTZ001
@settings(max_examples=80, deadline=None)
def test_over_years_it_is_due_when_cronsim_says(line: str, start: datetime) -> None:
    start = start.replace(tzinfo=UTC, second=0, microsecond=0)
    expected = list(islice(CronSim(line, start), 5))
    try:
        found = list(islice(rhythm_from(line, "UTC").after(start), 5))
    except ValueError as error:
        assert "never due" in str(error)  # noqa: PT017
        found = []
    assert found == expected


_ON_ONE_DATABASE = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@given(
    name=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    microseconds=st.integers(0, 2 * 10**15),
    jitter=st.timedeltas(timedelta(0), timedelta(days=40)),
)
@_ON_ONE_DATABASE
def test_jitter_is_the_same_in_sql_and_python(
    database: psycopg.Connection[Any], name: str, microseconds: int, jitter: timedelta
) -> None:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    asked = database.execute(
        "SELECT pgsync.schedule_jitter(%s, %s, %s::interval)",
        [name, moment, f"{jitter // timedelta(microseconds=1)} microseconds"],
    ).fetchone()
    assert asked is not None
    assert asked[0] == jitter_of(name, moment, jitter)
    assert timedelta(0) <= asked[0] <= jitter


@given(
    seconds=st.integers(1, 10**12).map(lambda microseconds: microseconds / 10**6),
    after=st.datetimes(datetime(2001, 1, 1), datetime(2035, 1, 1)),  # noqa: DTZ001
    start=st.none() | st.datetimes(datetime(1999, 1, 1), datetime(2040, 1, 1)),  # noqa: DTZ001
)
@_ON_ONE_DATABASE
def test_intervals_are_the_same_in_sql_and_python(
    database: psycopg.Connection[Any],
    seconds: float,
    after: datetime,
    start: datetime | None,
) -> None:
    after = after.replace(tzinfo=UTC)
    rhythm = rhythm_from(seconds, "UTC", start and start.replace(tzinfo=UTC))
    asked = database.execute(
        "SELECT pgsync.interval_fire(%s, %s)", [rhythm.expression, after]
    ).fetchone()
    assert asked is not None
    assert asked[0] == rhythm.next_after(after)
