"""Each command with a wrong value in each place: words, and a documented exit code."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest
from click.testing import CliRunner

from pgsync.cli.main import cli, exit_code
from pgsync.errors import PgsyncError

_WRONG = (
    "",
    " ",
    "'; DROP SCHEMA pgsync CASCADE; --",
    '<script>alert("x")</script>',
    "%s %(name)s {} \\",
    "line\nbreak\x1b[31m",
    "n" * 1_100,
    "\udcff",
    "-1",
    "0",
    "NaN",
    "1e400",
    "99999999999999999999",
    "2999-13-01",
    "../../nowhere",
)
_AT_ONE_PLACE = 4
# Those that serve until they are told to stop, and those that are about another program.
_LEFT_OUT = {"daemon", "dashboard", "db", "demo", "locks run", "worker"}


def _commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[str]:
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from _commands(each, (*path, name))
    elif path[0] not in _LEFT_OUT and " ".join(path) not in _LEFT_OUT:
        yield " ".join(path)


def _command(name: str) -> click.Command:
    command: click.Command = cli
    for part in name.split():
        assert isinstance(command, click.Group)
        command = command.commands[part]
    return command


def _plain(parameter: click.Parameter, folder: Path) -> str:
    match parameter.type:
        case click.Choice(choices=[first, *_]):
            return str(first)
        case click.Path() | click.File():
            file = folder / "contacts.csv"
            file.write_text("phone\n+4915112345678\n")
            return str(file)
        case click.DateTime():
            return "2030-01-01"
        case _ if parameter.name == "limit":
            return "5/60"
        case kind:
            return "report" if kind.name == "text" else "1"


def _calls(command: click.Command, folder: Path) -> Iterator[list[str]]:
    """Argument lists: each place in turn has a few wrong values, the required others plain ones."""
    values = cycle(_WRONG)
    arguments = [each for each in command.params if isinstance(each, click.Argument)]
    for place in command.params:
        if isinstance(place, click.Option) and (
            place.is_flag or place.name in ("dsn", "direct_dsn")
        ):
            continue
        for wrong in islice(values, _AT_ONE_PLACE):
            options = [place.opts[0], wrong] if isinstance(place, click.Option) else []
            given = [wrong if each is place else _plain(each, folder) for each in arguments]
            yield [*options, "--", *given]


@pytest.mark.parametrize("name", sorted(_commands(cli)))
def test_a_wrong_value_at_any_place_is_told_in_words(
    name: str, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PGSYNC_DSN", dsn)
    faults = []
    for arguments in _calls(_command(name), tmp_path):
        done = CliRunner().invoke(cli, [*name.split(), *arguments], input="")
        error: Any = done.exception
        if error is not None and not isinstance(error, (SystemExit, PgsyncError)):
            faults.append(f"{arguments!r:.150}: {error!r:.150}")
        code = exit_code(error) if isinstance(error, PgsyncError) else done.exit_code
        if code not in range(5):
            faults.append(f"{arguments!r:.150}: exit code {code}")
    assert not faults, "\n".join(faults)
    with psycopg.connect(dsn) as connection:
        connection.execute("SELECT FROM pgsync.queues")  # It would fail if the schema had gone.
