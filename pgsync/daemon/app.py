"""Apps by name, ``package.module:coordinator``, so that another process can load them too."""

from __future__ import annotations

import importlib
import inspect
import sys
from types import ModuleType
from typing import Any

from pgsync.errors import InvalidArgument

__all__ = ["find_app", "load_app"]


def load_app(path: str) -> Any:
    """What ``package.module:name`` names; a function is called to make it.

    Raises:
        InvalidArgument: if there is none.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise InvalidArgument("--app must be like package.module:coordinator")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        if error.name and not module_name.startswith(error.name):
            raise
        raise InvalidArgument(f"--app: there is no module {module_name!r} here") from None
    except AttributeError:
        raise InvalidArgument(f"--app: module {module_name!r} has no {name!r}") from None
    coordinator = found() if inspect.isfunction(found) else found
    if getattr(coordinator, "app", path) is None:
        coordinator.app = path  # Its schedules are known as this app's.
    return coordinator


def find_app(coordinator: object) -> str:
    """The path by which another process can load this very coordinator.

    Raises:
        InvalidArgument: if it is no global of a module that can be imported.
    """
    for module_name, module in list(sys.modules.items()):
        # A program's own module can be loaded from its file, but not from a prompt or ``-c``. Some
        # put what is no module there.
        if not isinstance(module, ModuleType) or getattr(module, "__file__", None) is None:
            continue
        for name, value in list(module.__dict__.items()):
            if value is coordinator:
                return f"{module_name}:{name}"
    raise InvalidArgument(
        "several processes must import the coordinator, and it is no global of a module: make it "
        'one, or name a function that makes it: app="package.module:function"'
    )
