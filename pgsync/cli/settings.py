"""Settings of the daemon: from flags, else the environment, else a file, else the defaults.

The file is ``pgsync.toml``, or the table ``[tool.pgsync]`` of ``pyproject.toml``, in the folder
where the command is run; ``PGSYNC_CONFIG`` names another one.
"""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgsync.daemon import KINDS
from pgsync.database.dsn import masked
from pgsync.errors import InvalidArgument

__all__ = [
    "SETTINGS",
    "Found",
    "Queues",
    "find_settings",
    "log_level",
    "read_queues",
    "use_database_of_file",
]

Queues = list[str] | dict[str, int]

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_FORMATS = ("text", "json")
_QUEUES = "names, or names with weights of 1 or more, as mail:3,default:1"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: how its text is read, its default, and how it is shown."""

    name: str
    read: Callable[[Any], Any]
    default: Any
    about: str
    show: Callable[[Any], Any] = lambda value: value

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return f"PGSYNC_{self.name.upper()}"


@dataclass(frozen=True, slots=True)
class Found:
    """A setting's value, and where it is from."""

    value: Any
    source: str


def read_queues(given: Any) -> Queues:
    """Queues as they are given: ``mail,default`` in their order, or ``mail:3,default:1`` by weight.

    A file may have a list of names, or a table of weights, instead.
    """
    if isinstance(given, dict):
        given = [f"{name}:{weight}" for name, weight in given.items()]
    names = given.split(",") if isinstance(given, str) else list(given)
    weights: dict[str, int] = {}
    weighted = False
    for each in names:
        name, mark, weight = str(each).strip().rpartition(":")
        # As --queue had it before.
        name, mark, weight = (name, mark, weight) if mark else str(each).strip().rpartition("=")
        if not mark:
            name, weight = weight, "1"
        weighted = weighted or bool(mark)
        if not name or not weight.strip().isdecimal() or int(weight) < 1:
            raise ValueError(_QUEUES)
        weights[name] = int(weight)
    if not weights:
        raise ValueError(_QUEUES)
    return weights if weighted else list(weights)


def _number(least: float, kind: type[int] | type[float] = int) -> Callable[[Any], Any]:
    def read(given: Any) -> Any:
        try:
            value = kind(given)
        except (TypeError, ValueError):
            value = None
        if value is None or isinstance(given, bool) or not value >= least:
            raise ValueError(f"a number of {least:g} or more")
        return value

    return read


def _one_of(*words: str) -> Callable[[Any], str]:
    def read(given: Any) -> str:
        for word in words:
            if str(given).lower() == word.lower():
                return word
        raise ValueError(f"one of {', '.join(words)}")

    return read


def _some_of(*words: str) -> Callable[[Any], list[str]]:
    def read(given: Any) -> list[str]:
        if not isinstance(given, (str, list, tuple)):
            raise ValueError(f"a list of {', '.join(words)}")
        found = given.split(",") if isinstance(given, str) else given
        return [_one_of(*words)(str(each).strip()) for each in found]

    return read


def _port(given: Any) -> int | None:
    if given in (None, "", "off"):
        return None
    port: int = _number(0)(given)
    if port > 65535:
        raise ValueError("a port, of at most 65535")
    return port


_TEXT: Callable[[Any], str] = str

SETTINGS = (
    Setting("dsn", _TEXT, None, "the database; else the embedded server", masked),
    Setting("direct_dsn", _TEXT, None, "the same database without a pooler", masked),
    Setting("app", _TEXT, None, "package.module:coordinator"),
    Setting("queues", read_queues, ["default"], "names in their order, or mail:3,default:1"),
    Setting("concurrency", _number(1), 10, "so many jobs at once, in each process"),
    Setting("processes", _number(1), 1, "so many processes"),
    Setting("grace", _number(0, float), 30.0, "seconds that running jobs have when it is stopped"),
    Setting("only", _some_of(*KINDS), None, "some of worker, scheduler, maintenance"),
    Setting("health_host", _TEXT, "127.0.0.1", "where health and metrics are served"),
    Setting("health_port", _port, None, "on which port; off without one"),
    Setting("dashboard_host", _TEXT, "127.0.0.1", "where the daemon serves the dashboard"),
    Setting("dashboard_port", _port, None, "on which port; off without one"),
    Setting("log_level", _one_of(*_LEVELS), "INFO", "debug, info, warning or error"),
    Setting("log_format", _one_of(*_FORMATS), "text", "text or json"),
)


def find_settings(flags: Mapping[str, Any] | None = None) -> dict[str, Found]:
    """All settings by name; of ``flags`` those that were given, not None nor empty.

    Raises:
        InvalidArgument: if a value or the file cannot be read; it says where that came from.
    """
    path, in_file = _read_file()
    found = {}
    for setting in SETTINGS:
        flag = "--" + setting.name.replace("_", "-")
        given = (flags or {}).get(setting.name)
        if given not in (None, ()):
            found[setting.name] = Found(_read(setting, given, flag), "flag")
        elif variable := os.environ.get(setting.variable):
            found[setting.name] = Found(
                _read(setting, variable, setting.variable), f"environment {setting.variable}"
            )
        elif setting.name in in_file:
            value = _read(setting, in_file[setting.name], f"{path}: {setting.name}")
            found[setting.name] = Found(value, f"file {path}")
        else:
            found[setting.name] = Found(setting.default, "default")
    return found


def use_database_of_file() -> None:
    """Have every command find the database where it finds an environment's, if a file names it."""
    path, in_file = _read_file()
    for setting in SETTINGS[:2]:
        if setting.name in in_file and not os.environ.get(setting.variable):
            value = _read(setting, in_file[setting.name], f"{path}: {setting.name}")
            os.environ[setting.variable] = value


def _read(setting: Setting, given: Any, source: str) -> Any:
    try:
        return setting.read(given)
    except ValueError as error:
        # Not the value: it may be a secret in the wrong place.
        raise InvalidArgument(f"{source} must be {error}") from None


def _read_file() -> tuple[str, Mapping[str, Any]]:
    named = os.environ.get("PGSYNC_CONFIG")
    for path in [Path(named)] if named else [Path("pgsync.toml"), Path("pyproject.toml")]:
        try:
            table: Any = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            if named:
                raise InvalidArgument(f"PGSYNC_CONFIG: there is no file {path}") from None
            continue
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InvalidArgument(f"{path} cannot be read: {error}") from None
        if path.name == "pyproject.toml":
            table = table.get("tool", {}).get("pgsync")
            if table is None:
                continue
        unknown = sorted(set(table) - {setting.name for setting in SETTINGS})
        if unknown:
            names = ", ".join(setting.name for setting in SETTINGS)
            raise InvalidArgument(f"{path}: there is no setting {unknown[0]!r}; there are {names}")
        return str(path), table
    return "", {}


def log_level(found: Mapping[str, Found]) -> int:
    """The level as logging has it."""
    return logging.getLevelNamesMapping()[found["log_level"].value]
