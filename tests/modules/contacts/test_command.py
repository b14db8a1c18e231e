"""Contacts imported and exported on the command line, with a bar for whoever watches."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from pgsync import Coordinator, InvalidArgument, OperationBlocked
from pgsync.cli.main import cli, exit_code
from pgsync.cli.progress import showing_progress
from pgsync.operations import OperationRun
from tests.eventually import eventually


@pytest.fixture
def run(dsn: str) -> Callable[..., str]:
    """Runs ``pgsync contacts`` and returns what it printed."""

    def contacts(*arguments: Any) -> str:
        command = ["contacts", *map(str, arguments), "--dsn", dsn]
        done = CliRunner().invoke(cli, command, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    return contacts


def test_a_file_goes_in_and_comes_out(run: Any, book: Any, tmp_path: Path) -> None:
    people = book.file("phone,name,Size", "+12015550123,Ann,M", "+12015550124,Bob,", "12,Cy,")
    done = json.loads(run("import", book.workspace, people, "--keep-others"))
    assert (done["imported"], done["rejected"]) == (2, 1)
    exported = tmp_path / "out.csv"
    run("export", book.workspace, exported, "--custom", "Size")
    header, ann, bob = exported.read_text("utf-8-sig").splitlines()
    assert (header.split(",")[-1], ann.split(",")[-1], bob.split(",")[-1]) == ("Size", "M", "")
    assert json.loads(run("export", book.workspace, exported, "--status", "blocked"))["rows"] == 0
    wide = run("export", book.workspace, tmp_path / "out", "--tag", "vip", "--format", "xlsx")
    assert json.loads(wide)["format"] == "xlsx"
    (shown,) = json.loads(run("imports", book.workspace, "--json"))
    assert (shown["state"], shown["imported"], shown["rejected"]) == ("completed", 2, 1)
    assert "4,Invalid phone number" in run("rejects", done["import_id"], "-")
    to_file = json.loads(run("rejects", done["import_id"], tmp_path / "rejects.csv"))
    assert to_file["rows"] == 1


def test_a_dry_run_tells_and_does_nothing(run: Any, book: Any) -> None:
    people = book.file("Kunde;Handy;name", "Zoë;0151 23456789;x", ";12;", ";015123456789;")
    options = ("--map", "Handy=phone", "--map", "Kunde=name", "--country", "DE", "--dry-run")
    told = json.loads(run("import", book.workspace, people, *options, "--json"))
    assert (told["rows"], told["imported"], told["duplicates"], told["rejected"]) == (3, 1, 1, 1)
    assert told["repeats"] == ["Row 4: its number is that of row 2"]
    assert told["first"][0] == {"row": 2, "phone": "+4915123456789", "name": "Zoë"}
    text = run("import", book.workspace, people, *options, "--merge", "overwrite")
    assert "phone: Handy; name: Kunde" in text
    assert not book.all()


def test_a_map_that_is_none_is_refused(dsn: str, book: Any) -> None:
    people = book.file("phone", "+12015550123")
    for wrong in ("Handy", "Handy="):
        done = CliRunner().invoke(
            cli, ["contacts", "import", str(book.workspace), people, "--map", wrong, "--dsn", dsn]
        )
        assert isinstance(done.exception, InvalidArgument)
        assert "COLUMN=FIELD" in str(done.exception)


def test_consent_and_merges_by_hand(run: Any, book: Any, dsn: str) -> None:
    letter = ("--source", "letter", "--evidence", "page 3", "--at", "2026-01-01")
    out = json.loads(run("opt-out", book.workspace, "+12015550123", *letter))
    assert (out["status"], out["at"], out["changed"]) == (
        "opted_out",
        "2026-01-01T00:00:00+00:00",
        True,
    )
    form = ("--source", "form", "--evidence", "/signup/7")
    new = json.loads(run("opt-in", book.workspace, "(201) 555-0124", *form))
    assert (new["status"], new["changed"]) == ("active", True)
    merged = json.loads(run("merge", book.workspace, new["contact_id"], out["contact_id"]))
    assert merged == {"contacts": 1, "recipients_moved": 0, "recipients_skipped": 0}
    (shown,) = json.loads(run("show", book.workspace, "+12015550123", "--json"))
    assert (shown["phone"], shown["status"]) == ("+12015550124", "opted_out")
    assert {event["event"] for event in shown["events"]} == {"opted_in", "opted_out", "merged"}
    assert "letter" in run("show", book.workspace, "+12015550124")
    none = CliRunner().invoke(
        cli, ["contacts", "show", str(book.workspace), "+12015550129", "--dsn", dsn]
    )
    assert none.exit_code == 3


def test_a_second_import_of_the_workspace_is_exit_3(dsn: str, book: Any, sync: Coordinator) -> None:
    people = book.file("phone,name", "+12015550123,Ann")
    with sync.lock(f"contact_import:workspace:{book.workspace}", ttl=60):
        done = CliRunner().invoke(
            cli, ["contacts", "import", str(book.workspace), people, "--dsn", dsn]
        )
    assert isinstance(done.exception, OperationBlocked)
    assert exit_code(done.exception) == 3


@pytest.mark.parametrize("watched", [True, False])
def test_the_bar_follows_the_run_on_a_terminal_only(watched: bool, sync: Coordinator) -> None:
    told = io.StringIO()
    console = Console(file=told, force_terminal=watched, width=100)

    @sync.operation("count_up", lock="count_up", ttl=60)
    def count_up(run: OperationRun) -> None:
        run.progress(3, 8)
        if watched:
            eventually(lambda: "3/8" in told.getvalue())

    with showing_progress(sync, "count_up", console):
        count_up()
    assert ("count_up" in told.getvalue()) == watched
