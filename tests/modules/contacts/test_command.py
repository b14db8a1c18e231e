"""Contacts imported and exported on the command line, with a bar for whoever watches."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from pgsync import Coordinator, OperationBlocked
from pgsync.cli.main import cli, exit_code
from pgsync.cli.progress import showing_progress
from pgsync.operations import OperationRun
from tests.eventually import eventually


def test_a_file_goes_in_and_comes_out(dsn: str, book: Any, tmp_path: Path) -> None:
    people = book.file("phone,name", "+12015550123,Ann", "+12015550124,Bob")

    def contacts(*arguments: str) -> Any:
        done = CliRunner().invoke(cli, ["contacts", *arguments, "--dsn", dsn])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    assert contacts("import", str(book.workspace), people)["imported"] == 2
    exported = tmp_path / "out.csv"
    contacts("export", str(book.workspace), str(exported))
    assert "Bob" in exported.read_text()


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
