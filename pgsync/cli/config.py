"""``pgsync config``: the settings that hold here, and where each is from."""

from __future__ import annotations

import click

from pgsync.cli.output import json_option, show
from pgsync.cli.settings import SETTINGS, find_settings

__all__ = ["config"]


@click.command()
@json_option
def config(as_json: bool) -> None:
    """The settings of the daemon that hold in this folder, and where each is from.

    A flag goes before the environment, that before the file, that before the default. Passwords are
    not shown.
    """
    found = find_settings()
    rows = [
        {
            "setting": setting.name,
            "value": None if (value := found[setting.name].value) is None else setting.show(value),
            "source": found[setting.name].source,
            "what": setting.about,
        }
        for setting in SETTINGS
    ]
    show(rows, as_json=as_json, empty="")
