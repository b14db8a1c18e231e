"""When schedules are due: crontab lines, intervals and dates, over changes of clocks too."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from pgsync import InvalidArgument
from pgsync.schedules import Rhythm, rhythm_from
from pgsync.schedules.calls import Due
from pgsync.schedules.firing import fires_of

pytestmark = pytest.mark.core

SUNDAY = datetime(2026, 11, 1, tzinfo=UTC)


def due(given: Any, start: datetime, count: int, timezone: str = "UTC") -> list[str]:
    """The next due times after ``start``, in UTC, as month-day hour:minute:second."""
    rhythm = rhythm_from(given, timezone)
    moments: list[str] = []
    while len(moments) < count:
        following = rhythm.next_after(start)
        assert following is not None
        assert following > start
        start = following
        moments.append(f"{start:%m-%d %H:%M:%S}")
    return moments


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("* * * * *", ["11-01 00:01:00", "11-01 00:02:00"]),
        ("*/20 3 * * *", ["11-01 03:00:00", "11-01 03:20:00", "11-01 03:40:00"]),
        ("5-10/5 0 * * *", ["11-01 00:05:00", "11-01 00:10:00", "11-02 00:05:00"]),
        ("0 12 * * 0", ["11-01 12:00:00", "11-08 12:00:00"]),
        ("0 12 * * 7", ["11-01 12:00:00", "11-08 12:00:00"]),
        ("0 12 * * 1", ["11-02 12:00:00", "11-09 12:00:00"]),
        ("0 12 * * MON,wed", ["11-02 12:00:00", "11-04 12:00:00", "11-09 12:00:00"]),
        ("0 12 * * 5-7", ["11-01 12:00:00", "11-06 12:00:00", "11-07 12:00:00", "11-08 12:00:00"]),
        ("0 12 * * fri-sun", ["11-01 12:00:00", "11-06 12:00:00", "11-07 12:00:00"]),
        ("0 12 * * */3", ["11-01 12:00:00", "11-04 12:00:00", "11-07 12:00:00"]),
        ("0 12 3 * *", ["11-03 12:00:00", "12-03 12:00:00"]),
        ("0 12 3 * 5", ["11-03 12:00:00", "11-06 12:00:00", "11-13 12:00:00"]),
        ("0 0 1 jan *", ["01-01 00:00:00"]),
        ("0 0 29 2 *", ["02-29 00:00:00"]),
        ("0 0 1 nov-dec,2 *", ["12-01 00:00:00", "02-01 00:00:00"]),
        ("0-1/5 0 * * *", ["11-02 00:00:00"]),
        ("0 12 * * 0-0", ["11-01 12:00:00", "11-08 12:00:00"]),
        ("0 12 * * 5/2", ["11-06 12:00:00", "11-13 12:00:00"]),
        ("@hourly", ["11-01 01:00:00", "11-01 02:00:00"]),
        ("@daily", ["11-02 00:00:00"]),
        ("@weekly", ["11-08 00:00:00"]),
        ("@monthly", ["12-01 00:00:00"]),
        ("@yearly", ["01-01 00:00:00"]),
        ("*/20 * * * * *", ["11-01 00:00:20", "11-01 00:00:40", "11-01 00:01:00"]),
    ],
)
def test_a_crontab_line_is_due_when_cron_would_run_it(line: str, expected: list[str]) -> None:
    assert due(line, SUNDAY, len(expected)) == expected


@pytest.mark.parametrize(
    ("line", "timezone", "start", "expected"),
    [
        # Clocks go from 02:00 to 03:00: 02:30 comes at what the wall shows as 03:30.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["03-29 01:30", "03-30 00:30"]),
        ("0 3 * * *", "Europe/Berlin", "2026-03-28T12:00", ["03-29 01:00", "03-30 01:00"]),
        ("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:15", ["03-29 00:30", "03-29 01:00"]),
        ("30 2 * * *", "America/New_York", "2026-03-07T12:00", ["03-08 07:30", "03-09 06:30"]),
        # Clocks go back from 03:00 to 02:00: fixed hours count once, every hour counts twice.
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", ["10-25 00:30", "10-26 01:30"]),
        ("30 1-3 * * *", "Europe/Berlin", "2026-10-25T00:00", ["10-25 00:30", "10-25 02:30"]),
        ("30 * * * *", "Europe/Berlin", "2026-10-25T00:00", ["10-25 00:30", "10-25 01:30"]),
        ("30 1 * * *", "America/New_York", "2026-10-31T12:00", ["11-01 05:30", "11-02 06:30"]),
        ("30 * * * *", "America/New_York", "2026-11-01T05:00", ["11-01 05:30", "11-01 06:30"]),
        ("0 */2 * * *", "America/New_York", "2026-03-08T06:00", ["03-08 07:00", "03-08 08:00"]),
        # Half an hour, at 02:00: 02:15 comes at 02:45, and 01:45 is passed twice.
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00", ["10-03 15:45", "10-04 15:15"]),
        ("0 * * * *", "Australia/Lord_Howe", "2026-10-03T14:00", ["10-03 14:30", "10-03 15:30"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00", ["04-04 14:45", "04-05 15:15"]),
        ("45 * * * *", "Australia/Lord_Howe", "2026-04-04T14:00", ["04-04 14:45", "04-04 15:15"]),
        ("0 * * * *", "Australia/Lord_Howe", "2026-04-04T14:00", ["04-04 15:30", "04-04 16:30"]),
        # Clocks that are never changed, and one that is two hours off in summer.
        ("30 2 * * *", "Asia/Kolkata", "2026-03-28T12:00", ["03-28 21:00", "03-29 21:00"]),
        ("30 2 * * *", "UTC", "2026-03-28T12:00", ["03-29 02:30", "03-30 02:30"]),
        ("30 2 * * *", "Antarctica/Troll", "2026-03-28T12:00", ["03-29 02:30", "03-30 00:30"]),
    ],
)  # fmt: skip
def test_a_change_of_clocks_is_met_as_documented(
    line: str, timezone: str, start: str, expected: list[str]
) -> None:
    after = datetime.fromisoformat(start).replace(tzinfo=UTC)
    found = [moment[:11] for moment in due(line, after, len(expected), timezone)]
    assert found == expected


def test_triggers_of_apscheduler_mean_what_they_say() -> None:
    assert due(CronTrigger(hour=2, minute=30, timezone="UTC"), SUNDAY, 1) == ["11-01 02:30:00"]
    assert due(CronTrigger(day_of_week="mon", timezone="UTC"), SUNDAY, 1) == ["11-02 00:00:00"]
    assert due(IntervalTrigger(minutes=5), SUNDAY, 1) == ["11-01 00:05:00"]


def test_intervals_are_aligned_whoever_counts_them() -> None:
    rhythm = rhythm_from(timedelta(minutes=7), "UTC")
    moments = {rhythm.next_after(SUNDAY + timedelta(seconds=n)) for n in range(0, 420, 13)}
    assert len(moments) <= 2
    for seconds in (1_234_567, 0.125, 86_400 * 400):
        assert float(rhythm_from(seconds, "UTC").expression) == seconds


def test_a_date_is_due_once() -> None:
    rhythm = rhythm_from(SUNDAY, "UTC")
    assert rhythm.next_after(SUNDAY - timedelta(days=1)) == SUNDAY
    assert rhythm.next_after(SUNDAY) is None


@pytest.mark.parametrize(
    "given",
    [
        *("", "x", "* * * *", "60 * * * *", "*/0 * * * *", "0 12 0 * *", "0 12 * 13 *"),
        *("0 12 * * 8", "0 12 * * 1-8", "0 12 * * mon-", "0 12 * * 5-1", "0 12 * * 1/0"),
        *(
            "0 0 31 feb *",
            "0 0 * * sun-sat/0",
            "0 0 * foo *",
            "1,,2 * * * *",
            "0 24 * * *",
            "foo='1'",
            "hour='1'; x",
            "@never",
        ),
        *(0, -1, True, None, float("nan"), datetime(2030, 1, 1), []),  # noqa: DTZ001
    ],
)
def test_a_rhythm_that_cannot_work_is_refused(given: Any) -> None:
    with pytest.raises(InvalidArgument):
        rhythm_from(given, "UTC")
    with pytest.raises(InvalidArgument, match="unknown time zone"):
        rhythm_from("* * * * *", "Mars/Olympus")


@pytest.mark.parametrize(("misfire", "expected"), [("skip", 1), ("once", 2), ("all", 5)])
def test_missed_fires_are_made_up_for_by_policy(misfire: str, expected: int) -> None:
    now = SUNDAY + timedelta(minutes=40, seconds=10)
    late = Due("s", Rhythm("interval", "600"), misfire, timedelta(minutes=1), 1000, SUNDAY, now)
    times, following = fires_of(late)
    assert times == [SUNDAY + timedelta(minutes=10 * n) for n in range(5 - expected, 5)]
    assert following == SUNDAY + timedelta(minutes=50)


def test_an_interval_is_counted_from_its_start() -> None:
    rhythm = rhythm_from(600, "UTC", SUNDAY + timedelta(seconds=7))
    assert rhythm.next_after(SUNDAY) == SUNDAY + timedelta(seconds=7)
    assert rhythm.next_after(SUNDAY + timedelta(minutes=1)) == SUNDAY + timedelta(seconds=607)
    with pytest.raises(InvalidArgument, match="only an interval"):
        rhythm_from("* * * * *", "UTC", SUNDAY)
    with pytest.raises(InvalidArgument, match="time zone"):
        rhythm_from(600, "UTC", datetime(2026, 1, 1))  # noqa: DTZ001


def test_the_last_due_times_are_found_over_years_without_any() -> None:
    yearly = rhythm_from("* * 1 1 *", "UTC")
    end = datetime(2026, 12, 1, tzinfo=UTC)
    last = datetime(2026, 1, 1, 23, 59, tzinfo=UTC)
    assert yearly.last_before(end, 1, end - timedelta(days=4000)) == [last]
    assert yearly.last_before(end, 1, end - timedelta(days=30)) == []
    assert yearly.last_before(last, 1, last) == []


def test_a_long_absence_is_made_up_for_in_bounded_time() -> None:
    now = SUNDAY + timedelta(days=3650, milliseconds=1)
    late = Due("s", Rhythm("interval", "1"), "all", timedelta(minutes=1), 1000, SUNDAY, now)
    times, following = fires_of(late)
    assert len(times) == 1000
    assert times[-1] == SUNDAY + timedelta(days=3650)
    assert following == times[-1] + timedelta(seconds=1)
