"""Two processes start the same operation at once: the seed's messages, and nothing doubled."""

from __future__ import annotations

import pytest

from tests.faults.seed_run import run

pytestmark = pytest.mark.faults


def test_two_processes_at_once_never_double_a_template_a_contact_or_a_send(dsn: str) -> None:
    report = run(dsn, rounds=3)
    assert report.violations == []
