"""The demo as a newcomer runs it, on a smaller scale."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import psycopg
import requests

from tests.eventually import eventually

_ARGUMENTS = ("demo", "--once", "--json", "--templates", "130", "--rows", "400")


def _run(dsn: str) -> dict[str, Any]:
    program = "from pgsync.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *_ARGUMENTS, "--dsn", dsn],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    figures: dict[str, Any] = json.loads(line)
    return figures


def test_a_killed_demo_leaves_no_stand_in_behind() -> None:
    program = (
        "import time; from pgsync.cli.demo.graph import GraphProcess\n"
        "with GraphProcess(token='t', templates=1) as graph:\n"
        "    print(graph.url, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as demo:
        assert demo.stdout is not None
        url = demo.stdout.readline().decode().strip()
        assert requests.get(f"{url}/_standin/state", timeout=60).ok
        demo.kill()

    def has_gone() -> bool:
        try:
            requests.get(f"{url}/_standin/state", timeout=60)
        except requests.ConnectionError:
            return True
        return False

    eventually(has_gone)


def test_the_demo_runs_on_an_empty_database_and_again(empty_dsn: str) -> None:
    first = _run(empty_dsn)
    assert first["templates"] == {
        "total": 130,
        "created": 130,
        "updated": 0,
        "missing": 0,
        "errors": 0,
    }
    contacts = first["contacts"]
    assert contacts["rows"] == 400
    assert contacts["imported"] + contacts["duplicates"] + contacts["rejected"] == 400
    assert min(contacts.values()) > 0
    campaign = first["campaign"]
    assert campaign["recipients"] == campaign["sent"] == contacts["imported"]
    assert (campaign["failed"], campaign["unknown"], campaign["duplicate_sends"]) == (0, 0, 0)
    messages = {blocked["operation"]: blocked["message"] for blocked in first["blocked"]}
    assert messages["template_sync"] == "Template sync is already in progress"
    assert messages["contact_import"] == "Contact import is already in progress"
    # A campaign that waits for permits goes on in a next job.
    assert first["jobs"]["completed"] >= 2
    assert first["jobs"]["failed"] == 0
    with psycopg.connect(empty_dsn) as connection:
        rejects = connection.execute(
            'SELECT count(*), count(reason), count("row")'
            " FROM pgsync_modules.contact_import_rejects"
        ).fetchone()
        assert rejects == (contacts["rejected"],) * 3

    second = _run(empty_dsn)
    assert second["templates"] == {**first["templates"], "created": 0, "updated": 130}
    assert second["contacts"]["imported"] == 0
    assert second["contacts"]["rejected"] == contacts["rejected"]
    assert second["campaign"]["duplicate_sends"] == 0
