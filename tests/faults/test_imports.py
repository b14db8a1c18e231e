"""An import that is killed half-way and resumed has the contacts of one in peace."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.import_run import run_on

pytestmark = pytest.mark.faults


def test_an_import_that_is_killed_in_a_chunk_goes_on_and_doubles_nothing(
    dsn: str, tmp_path: Path
) -> None:
    report = run_on(dsn, tmp_path, rows=2_000)
    assert report.violations == []
    assert report.faults["kill -9 in a chunk's transaction"] == 1
