"""Settings: a flag goes before the environment, that before a file, that before the default."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pgsync.cli.main import cli
from pgsync.cli.settings import SETTINGS, find_settings, read_queues
from pgsync.errors import InvalidArgument


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder without files, and an environment without settings."""
    monkeypatch.chdir(tmp_path)
    for setting in SETTINGS:
        monkeypatch.delenv(setting.variable, raising=False)
    monkeypatch.delenv("PGSYNC_CONFIG", raising=False)


def shown() -> dict[str, tuple[Any, str]]:
    done = CliRunner().invoke(cli, ["config", "--json"], catch_exceptions=False)
    return {row["setting"]: (row["value"], row["source"]) for row in json.loads(done.stdout)}


def test_the_strongest_source_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert shown()["concurrency"] == (10, "default")
    (tmp_path / "pyproject.toml").write_text("[tool.pgsync]\nconcurrency = 20\nprocesses = 2\n")
    assert shown()["concurrency"] == (20, "file pyproject.toml")
    (tmp_path / "pgsync.toml").write_text("concurrency = 30\n")
    assert shown()["concurrency"] == (30, "file pgsync.toml")
    assert shown()["processes"] == (1, "default")  # one file, not two
    monkeypatch.setenv("PGSYNC_CONCURRENCY", "40")
    assert shown()["concurrency"] == (40, "environment PGSYNC_CONCURRENCY")
    found = find_settings({"concurrency": 50, "queues": None})
    assert (found["concurrency"].value, found["concurrency"].source) == (50, "flag")
    (tmp_path / "other.toml").write_text("grace = 1.5\n")
    monkeypatch.setenv("PGSYNC_CONFIG", str(tmp_path / "other.toml"))
    assert shown()["grace"] == (1.5, f"file {tmp_path / 'other.toml'}")


def test_passwords_are_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PGSYNC_DSN", "postgresql://u:sesame@db/x")
    (tmp_path / "pgsync.toml").write_text("direct_dsn = 'host=db password=sesame user=u'\n")
    output = CliRunner().invoke(cli, ["config", "--json"]).output
    assert "sesame" not in output
    assert "host=db" in output


@pytest.mark.parametrize(
    ("given", "queues"),
    [
        ("mail", ["mail"]),
        ("mail, default", ["mail", "default"]),
        ("high:10,default:2", {"high": 10, "default": 2}),
        ("mail=3,*", {"mail": 3, "*": 1}),
        (("mail=3", "other"), {"mail": 3, "other": 1}),
        (["a", "b"], ["a", "b"]),
        ({"a": 2, "b": 1}, {"a": 2, "b": 1}),
        ("team:a:3", {"team:a": 3}),
    ],
)
def test_queues_are_read_in_every_form(given: Any, queues: Any) -> None:
    assert read_queues(given) == queues


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("concurrency = 0", ["concurrency", "1 or more"]),
        ("concurrency = true", ["concurrency"]),
        ("queues = 'mail:x'", ["queues", "mail:3"]),
        ("queues = []", ["queues"]),
        ("only = ['cook']", ["only", "worker, scheduler, maintenance"]),
        ("health_port = 70000", ["health_port", "65535"]),
        ("log_level = 'loud'", ["log_level"]),
        ("concurency = 3", ["concurency", "concurrency"]),
        ("= 3", ["pgsync.toml", "cannot be read"]),
    ],
)
def test_what_a_file_cannot_say_is_told_with_its_place(
    tmp_path: Path, file: str, words: list[str]
) -> None:
    (tmp_path / "pgsync.toml").write_text(file)
    with pytest.raises(InvalidArgument) as refused:
        find_settings()
    for word in ["pgsync.toml", *words]:
        assert word in str(refused.value)


def test_a_file_that_is_named_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSYNC_CONFIG", "nowhere.toml")
    with pytest.raises(InvalidArgument, match=r"PGSYNC_CONFIG.*nowhere\.toml"):
        find_settings()


def test_a_refused_value_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSYNC_QUEUES", "sesame:sesame")
    with pytest.raises(InvalidArgument, match="PGSYNC_QUEUES") as refused:
        find_settings()
    assert "sesame" not in str(refused.value)


def test_other_commands_find_the_database_of_the_file_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dsn: str
) -> None:
    monkeypatch.setenv("PGSYNC_DSN", "")  # what the command sets is undone with this
    (tmp_path / "pgsync.toml").write_text(f"dsn = {json.dumps(dsn)}\n")
    done = CliRunner().invoke(cli, ["workers", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout) == []
