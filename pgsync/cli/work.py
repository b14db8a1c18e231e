"""``pgsync worker`` and ``pgsync daemon``: performing the jobs of an app."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from pgsync.coordinator import AsyncCoordinator, Coordinator
from pgsync.errors import InvalidArgument

__all__ = ["daemon", "load_app", "worker"]


def load_app(path: str) -> Coordinator | AsyncCoordinator:
    """The coordinator that ``package.module:name`` names; a function is called to make it.

    Raises:
        InvalidArgument: if there is none.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise InvalidArgument("--app must be like package.module:coordinator")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        if error.name and not module_name.startswith(error.name):
            raise
        raise InvalidArgument(f"--app: there is no module {module_name!r} here") from None
    except AttributeError:
        raise InvalidArgument(f"--app: module {module_name!r} has no {name!r}") from None
    if inspect.isfunction(found):
        found = found()
    if not isinstance(found, (Coordinator, AsyncCoordinator)):
        raise InvalidArgument(f"--app: {path} is a {type(found).__name__}, not a coordinator")
    return found


@click.command()
@click.option("--app", required=True, help="package.module:coordinator")
@click.option(
    "--queue",
    "queues",
    multiple=True,
    default=("default",),
    help="Repeat for more, in order; or with weights, mail=3.",
)
@click.option("--concurrency", type=click.IntRange(1), default=10, show_default=True)
@click.option("--drain", is_flag=True, help="End when no job is available.")
def worker(app: str, queues: tuple[str, ...], concurrency: int, drain: bool) -> None:
    """Perform the jobs of an app until SIGTERM or Ctrl-C."""
    _work(app, queues, concurrency, drain=drain, scheduler=False)


@click.command()
@click.option("--app", required=True, help="package.module:coordinator")
@click.option(
    "--queue",
    "queues",
    multiple=True,
    default=("default",),
    help="Repeat for more, in order; or with weights, mail=3.",
)
@click.option("--concurrency", type=click.IntRange(1), default=10, show_default=True)
def daemon(app: str, queues: tuple[str, ...], concurrency: int) -> None:
    """Worker, scheduler and maintenance of an app, until SIGTERM or Ctrl-C."""
    _work(app, queues, concurrency, drain=False, scheduler=True)


def _work(
    app: str, queues: tuple[str, ...], concurrency: int, *, drain: bool, scheduler: bool
) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    sync = load_app(app)
    wanted = _weighted(queues)
    if isinstance(sync, AsyncCoordinator):
        report = asyncio.run(_work_async(sync, wanted, concurrency, drain, scheduler))
    else:
        with sync:
            report = sync.run_worker(
                queues=wanted, concurrency=concurrency, drain=drain, scheduler=scheduler
            )
    click.echo(report)


def _weighted(queues: tuple[str, ...]) -> Sequence[str] | Mapping[str, int]:
    """The queues as they were given: names in their order, or each with its weight."""
    pairs = [queue.rpartition("=") for queue in queues]
    if not any(name for name, _, _ in pairs):
        return queues
    try:
        return {name: int(weight) for name, _, weight in pairs if name} | {
            weight: 1 for name, _, weight in pairs if not name
        }
    except ValueError:
        raise InvalidArgument("--queue: a weight is a whole number, for example mail=3") from None


async def _work_async(
    sync: AsyncCoordinator,
    queues: Sequence[str] | Mapping[str, int],
    concurrency: int,
    drain: bool,
    scheduler: bool,
) -> object:
    async with sync:
        return await sync.run_worker(
            queues=queues, concurrency=concurrency, drain=drain, scheduler=scheduler
        )
