"""The lock harness, for a short while: guarded writes stay right, unguarded ones do not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgsync.database.embedded import EmbeddedServer
from tests.faults.locks import Harness

pytestmark = pytest.mark.faults


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "server") as server:
        yield server


def test_guarded_sections_stay_right_whatever_is_broken(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    harness = Harness(server, tmp_path, seed=20261124)
    harness.prepare()
    report = harness.run(15, crash_every=6)
    assert report.violations == [], report.lines()
    assert report.figures["handoffs between processes"] > 100
    assert report.figures["locks lost, and told"] > 0
    assert {"kill", "freeze", "end lock session", "crash"} <= set(harness.faults)


def test_without_the_guard_updates_are_lost(server: EmbeddedServer, tmp_path: Path) -> None:
    harness = Harness(server, tmp_path, seed=1, guarded=False, overrun=0.3)
    harness.prepare()
    report = harness.run(8)
    assert any("updates were lost" in each for each in report.violations), report.lines()
