"""``pgsync worker`` and ``pgsync daemon``: performing the jobs of an app."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

import click

from pgsync.cli.apps import open_app
from pgsync.cli.dashboard import dashboard_beside
from pgsync.cli.settings import Found, find_settings, log_level
from pgsync.coordinator import AsyncCoordinator
from pgsync.daemon import KINDS, Changes, begin_logging
from pgsync.errors import InvalidArgument

__all__ = ["daemon", "worker"]

F = TypeVar("F", bound=Callable[..., Any])


def _work_options(command: F) -> F:
    """The flags; what is not given is looked for in the environment and the file."""
    for option in (
        click.option("--log-format", type=click.Choice(["text", "json"])),
        click.option("--log-level", help="debug, info, warning or error."),
        click.option("--health-host", help="Where to serve it; this machine alone by default."),
        click.option(
            "--health-port", help="Serve /livez, /readyz and /metrics there; off by default."
        ),
        click.option("--grace", type=float, help="Seconds that running jobs have at the end."),
        click.option("--processes", type=int, help="So many, each with this concurrency."),
        click.option("--concurrency", type=int, help="Jobs at once; 10 by default."),
        click.option("--queues", help="Names in their order, or with weights: mail:3,default:1."),
        click.option("--queue", multiple=True, help="The same, one by one; repeat for more."),
        click.option("--app", help="package.module:coordinator"),
    ):
        command = option(command)
    return command


@click.command()
@_work_options
@click.option("--drain", is_flag=True, help="End when no job is available.")
def worker(drain: bool, **flags: Any) -> None:
    """Perform the jobs of an app until SIGTERM or Ctrl-C; a second one ends it at once.

    SIGHUP reloads the settings: see `pgsync config`.
    """
    _work(flags, scheduler=False, drain=drain)


@click.command()
@_work_options
@click.option("--dashboard-host", help="Where to serve it; this machine alone by default.")
@click.option("--dashboard-port", help="Serve the dashboard there too; off by default.")
@click.option(
    "--only", multiple=True, type=click.Choice(KINDS), help="Be just this; repeat for more."
)
def daemon(**flags: Any) -> None:
    """Worker, scheduler and maintenance of an app, until SIGTERM or Ctrl-C.

    With a dashboard its token is PGSYNC_DASHBOARD_TOKEN, as for `pgsync dashboard`.

    SIGHUP reloads the settings: see `pgsync config`.
    """
    _work(flags, scheduler=True, drain=False)


def _work(flags: dict[str, Any], *, scheduler: bool, drain: bool) -> None:
    if one_by_one := flags.pop("queue"):
        if flags["queues"]:
            raise InvalidArgument("give --queues or --queue, not both")
        flags["queues"] = one_by_one
    found = find_settings(flags)
    value = {name: each.value for name, each in found.items()}
    begin_logging((log_level(found), value["log_format"]))
    sync = open_app(value["app"], value["dsn"], value["direct_dsn"])
    options: dict[str, Any] = {name: value[name] for name in ("queues", "concurrency", "grace")}
    if value["only"] is not None and scheduler:
        options["only"] = value["only"]
    service: dict[str, Any] = {
        "app": value["app"],
        "scheduler": scheduler,
        "drain": drain,
        "processes": value["processes"],
        "health": None
        if value["health_port"] is None
        else (value["health_host"], value["health_port"]),
        "reload": lambda: _changes(find_settings(flags)),
    }
    with ExitStack() as stack:
        if scheduler and value["dashboard_port"] is not None:
            address = value["dashboard_host"], value["dashboard_port"]
            stack.enter_context(dashboard_beside(sync, *address))
        if isinstance(sync, AsyncCoordinator):
            report = asyncio.run(_work_async(sync, **service, **options))
        else:
            report = stack.enter_context(sync).run_worker(**service, **options)
    click.echo(report)


async def _work_async(sync: AsyncCoordinator, **options: Any) -> Any:
    async with sync:
        return await sync.run_worker(**options)


def _changes(found: dict[str, Found]) -> Changes:
    return Changes(found["queues"].value, found["concurrency"].value, log_level(found))
