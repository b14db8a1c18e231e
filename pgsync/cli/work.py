"""``pgsync worker`` and ``pgsync daemon``: performing the jobs of an app."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from pgsync.coordinator import AsyncCoordinator, Coordinator
from pgsync.daemon import LOG_FORMAT, load_app
from pgsync.errors import InvalidArgument

__all__ = ["daemon", "worker"]

F = TypeVar("F", bound=Callable[..., Any])


def _work_options(command: F) -> F:
    for option in (
        click.option(
            "--processes",
            type=click.IntRange(1),
            default=1,
            show_default=True,
            help="So many, each with this concurrency.",
        ),
        click.option("--concurrency", type=click.IntRange(1), default=10, show_default=True),
        click.option(
            "--queue",
            "queues",
            multiple=True,
            default=("default",),
            help="Repeat for more, in order; or with weights, mail=3.",
        ),
        click.option("--app", required=True, help="package.module:coordinator"),
    ):
        command = option(command)
    return command


@click.command()
@_work_options
@click.option("--drain", is_flag=True, help="End when no job is available.")
def worker(app: str, queues: tuple[str, ...], **options: Any) -> None:
    """Perform the jobs of an app until SIGTERM or Ctrl-C; a second one ends it at once."""
    _work(app, queues=_weighted(queues), scheduler=False, **options)


@click.command()
@_work_options
def daemon(app: str, queues: tuple[str, ...], **options: Any) -> None:
    """Worker, scheduler and maintenance of an app, until SIGTERM or Ctrl-C."""
    _work(app, queues=_weighted(queues), scheduler=True, **options)


def _work(app: str, **options: Any) -> None:
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    sys.path.insert(0, str(Path.cwd()))
    sync = load_app(app)
    if isinstance(sync, AsyncCoordinator):
        report = asyncio.run(_work_async(sync, app=app, **options))
    elif isinstance(sync, Coordinator):
        with sync:
            report = sync.run_worker(app=app, **options)
    else:
        raise InvalidArgument(f"--app: {app} is a {type(sync).__name__}, not a coordinator")
    click.echo(report)


async def _work_async(sync: AsyncCoordinator, **options: Any) -> object:
    async with sync:
        return await sync.run_worker(**options)


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
