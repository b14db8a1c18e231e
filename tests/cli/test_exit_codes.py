"""The exit codes that scripts are promised, and the help that tells of them."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import click
import psycopg
import pytest

from pgsync import Coordinator
from pgsync.cli.main import cli


def _run(*arguments: str) -> int:
    program = "from pgsync.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=240
    )
    assert "Traceback" not in done.stderr
    return done.returncode


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (0, ["jobs", "count"]),
        (1, ["locks", "run", "free", "--", "false"]),
        (2, ["jobs", "list", "--state", "done"]),
        (2, ["jobs", "show", "77"]),
        (3, ["jobs", "why", "77"]),
        (3, ["locks", "run", "report", "--", "true"]),
        (4, ["doctor"]),
        (4, ["maintenance"]),
    ],
)
def test_each_code_means_what_the_guide_says(
    code: int, arguments: list[str], dsn: str, sync: Coordinator, database: psycopg.Connection[Any]
) -> None:
    database.execute("SELECT pgsync.record_duty('keep floors', 'd', pgsync.clock(), '1 s', 0, 'x')")
    with sync.lock("report", ttl=60):
        assert _run(*arguments[:2], "--dsn", dsn, *arguments[2:]) == code


def _commands(group: click.Group, *path: str) -> Any:
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from _commands(command, *path, name)


def test_every_command_says_what_it_does_and_every_list_has_json() -> None:
    commands = dict(_commands(cli))
    assert ("contacts", "import") in commands
    for path, command in commands.items():
        assert command.get_short_help_str(200), path
        reads = path[-1] in ("list", "status", "show", "count", "doctor", "workers", "operations")
        if reads and not isinstance(command, click.Group):
            assert any("--json" in option.opts for option in command.params), path


def test_the_help_lists_each_command_once(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--help"], standalone_mode=False)
    lines = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:3].strip()]
    for name in cli.commands:
        assert lines.count(name) <= 1
    shown = [line for line in lines if line in cli.commands]
    assert sorted(shown) == sorted(cli.commands)


def test_the_shell_completes_what_the_guide_says() -> None:
    program = "import sys; sys.argv = ['pgsync']; from pgsync.cli import main; main()"
    words = {"COMP_WORDS": "pgsync jobs list --state dis", "COMP_CWORD": "4"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "_PGSYNC_COMPLETE": "bash_complete", **words},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.stdout == "plain,discarded\n"
