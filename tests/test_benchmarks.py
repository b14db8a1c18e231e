"""The benchmarks run, and their arithmetic is right; no time is asserted."""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks.charts import chart
from benchmarks.claims import CLAIMS, verdicts
from benchmarks.contended import contend
from benchmarks.frame import Contender, Pace, Run, compare, latencies
from benchmarks.limits import fill, summary
from benchmarks.machine import machine
from benchmarks.peers import LIMIT_PEERS, LOCK_PEERS, found_peers
from benchmarks.publish import DOCS, pages, publish
from benchmarks.redis_server import find_redis, redis_server

_ROOT = Path(__file__).parents[1]


def test_a_comparison_has_medians_quartiles_and_ratios() -> None:
    # The first run warms up and must not count.
    slow = iter([Run(1, 1000.0), *(Run(100, seconds) for seconds in (1.0, 2.0, 4.0, 5.0, 10.0))])
    fast = iter(
        [Run(1, 1000.0), *(Run(count, 1.0, {"n": count}) for count in (50, 70, 10, 90, 60))]
    )
    comparison = compare(
        "two", [Contender("slow", lambda: next(slow)), Contender("fast", lambda: next(fast))], 5
    )
    first, second = comparison.results
    assert (first.name, first.lower, first.median, first.upper) == ("slow", 20, 25, 50)
    assert (second.name, second.lower, second.median, second.upper) == ("fast", 50, 60, 70)
    assert (first.ratio, second.ratio) == (1, 2.4)
    assert (first.extras, second.extras) == ({}, {"n": 60})
    assert comparison.as_json()["results"][1]["extras"] == {"n": 60}


def test_a_contender_that_times_nothing_is_timed_whole() -> None:
    result = compare("one", [Contender("counts", lambda: 3)], 3).results[0]
    assert result.median > 0
    assert result.ratio == 1


def test_latencies_are_percentiles_in_milliseconds() -> None:
    figures = latencies([number / 1000 for number in range(101)])
    assert figures == pytest.approx({"p50_ms": 50, "p99_ms": 99})
    assert latencies([0.5]) == {}


def test_a_pace_shares_work_and_leaves_some() -> None:
    assert Pace(7).count(300) == 300
    assert Pace(3, 0.01).count(300) == 3
    assert Pace(3, 0.01).count(5) == 1
    assert Pace(3, 0.5).seconds(2) == 1


def test_contention_counts_handoffs_and_sees_two_holders() -> None:
    shared = [0, 0]
    holders = itertools.cycle([1, 2])

    def take() -> Callable[[], object]:
        shared[0] = next(holders)  # as if that process had the lock before
        return lambda: None

    ticks = itertools.count()  # asked at 0, granted at 1, asked at 2, and so on
    waited, handoffs = contend(take, 1, shared, 20, lambda: float(next(ticks)))
    assert waited == [1.0] * 10
    assert handoffs == 5
    with pytest.raises(RuntimeError, match="processes 2 and 1 hold the lock at once"):
        contend(take, 1, [0, 2], 0)


def test_a_limiter_that_admits_too_many_ends_the_run() -> None:
    left = itertools.chain([True] * 3, itertools.repeat(False))
    assert fill(lambda _key: next(left), "hot") == 3
    assert summary("exact", [(7, 300), (5, 100)], 2.0).extras == {"admitted_of_400": 400}
    with pytest.raises(RuntimeError, match="lax admitted 401 hits of a limit of 400"):
        summary("lax", [(7, 300), (5, 101)], 2.0)


def test_peers_that_are_not_installed_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with found_peers() as peers:
        assert (peers.names, peers.limiters, peers.pgqueuer) == ((), (), False)
        missing = [line.partition(":")[0] for line in peers.missing]
        assert missing == [*LOCK_PEERS, *LIMIT_PEERS, "PgQueuer"]


def test_the_redis_of_a_run_ends_with_it() -> None:
    program = find_redis()
    if program is None and not os.environ.get("CI"):
        pytest.skip("redis-server is not installed")
    assert program is not None, "redis-server is not installed, which in CI is a failure"
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.settimeout(10)
        with redis_server(program) as path:
            client.connect(path)
            client.sendall(b"CONFIG GET save\r\n")
            assert client.recv(1024) == b"*2\r\n$4\r\nsave\r\n$0\r\n\r\n"  # writes no snapshots
        assert client.recv(1) == b""
    assert not Path(path).parent.exists()


@pytest.mark.timeout(600)
def test_every_benchmark_runs(dsn: str) -> None:
    """A hundredth of the work, on the test's own database and without peers."""
    measured = _measure(dsn, "locks", "limits", "contacts")
    assert measured["redis"] is None
    assert measured["missing"] == []
    titles = [comparison["title"] for comparison in measured["comparisons"]]
    assert [title for title in titles if "lock" in title] == [
        "lock + unlock, one thread",
        "contended lock, handoffs among 4 processes",
        "lock + unlock, 16 threads of one process, distinct names",
        "take 96 locks and hold them all, 16 threads",
    ]
    _check(measured)
    for result in measured["comparisons"][
        titles.index("contended lock, handoffs among 4 processes")
    ]["results"]:
        assert 0 <= result["extras"]["handoff_share"] <= 1
        assert 0 < result["extras"]["p50_ms"] <= result["extras"]["p99_ms"]


@pytest.mark.timeout(600)
def test_the_benchmarks_of_queues_run_and_tell_what_a_job_costs(dsn: str) -> None:
    measured = _measure(dsn, "queues", "flatness")
    _check(measured)
    flat = [each for each in measured["comparisons"] if "beside itself" in each["title"]]
    assert len(flat) == 1
    assert [result["name"].partition(", ")[2] for result in flat[0]["results"]] == [
        "empty tables",
        "10,000 jobs waiting in another queue",
        "10,000 jobs waiting in the same queue",
        "10,000 jobs in the history",
        "the jobs in 10 queues",
        "1 workers idle",
    ]
    for result in flat[0]["results"]:
        assert result["extras"]["wal_bytes"] > 100
        assert result["extras"]["transactions"] > 0


def _comparison(title: str, subject: str, *contenders: tuple[str, float]) -> dict[str, Any]:
    return {
        "subject": subject,
        "title": title,
        "rounds": 3,
        "results": [
            {
                "name": name,
                "median": rate,
                "lower": rate * 0.9,
                "upper": rate * 1.1,
                "ratio": rate / contenders[0][1],
                "extras": {},
            }
            for name, rate in contenders
        ],
    }


_BULK = ("enqueue in bulk", "queues", ("COPY", 200_000.0), ("pgsync", 80_000.0))


def test_a_claim_is_judged_beside_the_best_that_took_part() -> None:
    contended = ("contended lock", "locks", ("redis-py Lock", 20.0), ("python-redis-lock", 100.0))
    for ours, kept in ((150.0, True), (149.0, False)):
        (verdict,) = verdicts([_comparison(*contended, ("pgsync", ours))])
        assert (verdict.beside, verdict.figure) == ("python-redis-lock", ours / 100)
        assert verdict.kept is kept
    assert list(verdicts([_comparison(*_BULK)])) == []  # the peer did not take part


def test_a_chart_has_a_bar_for_each_contender() -> None:
    drawn = ET.fromstring(chart(_comparison(*_BULK, ("<&>", 20_000.0))))
    assert "<&>" in [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    bars = [
        float(bar.get("width", ""))
        for bar in drawn.iter("{http://www.w3.org/2000/svg}rect")
        if bar.get("class") != "page"
    ]
    assert [bar / bars[0] for bar in bars] == pytest.approx([1, 0.4, 0.1], abs=0.001)


def test_pictures_of_an_earlier_run_do_not_stay(tmp_path: Path) -> None:
    measured = {
        "machine": machine(),
        "postgresql": {"version": "18.1", "fsync": "on"},
        "redis": None,
        "missing": [],
        "pace": {"rounds": 3, "share": 1.0, "full": False},
    }
    for title in ("enqueue in bulk", "enqueue & drain"):
        publish({**measured, "comparisons": [_comparison(title, *_BULK[1:])]}, tmp_path)
    assert [path.name for path in tmp_path.glob("images/*")] == ["bench-enqueue-drain.svg"]
    assert "images/bench-enqueue-drain.svg" in (tmp_path / "performance.md").read_text()


def test_what_is_published_is_of_the_figures() -> None:
    figures = DOCS / "performance.json"
    if not figures.exists():
        pytest.skip("no run has been published yet: make performance")
    for path, text in pages(json.loads(figures.read_text())).items():
        assert (DOCS / path).read_text() == text, f"run: python -m benchmarks.publish {figures}"


def _check(measured: dict[str, Any]) -> None:
    _check_claims(measured["comparisons"])
    page = pages(measured)["performance.md"]
    assert "not a measurement" in page
    assert "@" not in page
    for comparison in measured["comparisons"]:
        assert "pgsync" in comparison["results"][-1]["name"]
        assert comparison["results"][0]["ratio"] == 1
        for result in comparison["results"]:
            assert 0 < result["lower"] <= result["median"] <= result["upper"]


def _check_claims(comparisons: list[dict[str, Any]]) -> None:
    """Each claim on what was measured names a contender, whatever the sizes in their names."""
    judged = 0
    for claim, comparison in itertools.product(CLAIMS, comparisons):
        if comparison["title"].startswith(claim.comparison):
            names = [_without_numbers(result["name"]) for result in comparison["results"]]
            assert _without_numbers(claim.ours) in names
            judged += 1
    assert judged


def _without_numbers(name: str) -> str:
    return re.sub(r"[\d,]+ ", "", name)


def _measure(dsn: str, *subjects: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks", "--rounds", "3"]
    done = subprocess.run(
        [*command, *subjects, "--quick", "--no-peers", "--json"],
        cwd=_ROOT,
        env={**os.environ, "PGSYNC_BENCH_DSN": dsn},
        stdout=subprocess.PIPE,
        check=True,
        timeout=580,
    )
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured
