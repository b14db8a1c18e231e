"""``pgsync dashboard``: the pages, served from this process, or beside a daemon."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from pgsync.cli.output import dsn_option
from pgsync.coordinator import AsyncCoordinator, Coordinator
from pgsync.errors import InvalidArgument

if TYPE_CHECKING:
    import uvicorn

__all__ = ["dashboard", "dashboard_beside"]

_GRACE = 3  # Seconds that streams of open pages have to end, at a stop.


@click.command()
@dsn_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Loopback unless told.")
@click.option("--port", type=click.IntRange(0, 65535), default=8484, show_default=True)
@click.option("--token", envvar="PGSYNC_DASHBOARD_TOKEN", help="Better by PGSYNC_DASHBOARD_TOKEN.")
@click.option(
    "--read-token",
    envvar="PGSYNC_DASHBOARD_READ_TOKEN",
    help="May look, but not act. Better by PGSYNC_DASHBOARD_READ_TOKEN.",
)
@click.option(
    "--hide-args",
    envvar="PGSYNC_DASHBOARD_HIDE_ARGS",
    is_flag=True,
    help="Show arguments of jobs on their own pages only, in no list.",
)
def dashboard(
    dsn: str | None,
    host: str,
    port: int,
    token: str | None,
    read_token: str | None,
    hide_args: bool,
) -> None:
    """Serve the dashboard; the daemon has it too, with --dashboard-port."""
    server = _server(AsyncCoordinator(dsn), (token, read_token), host, port, hide_args=hide_args)
    click.echo(f"http://{host}:{port}/")
    server.run()


@contextmanager
def dashboard_beside(sync: Coordinator | AsyncCoordinator, host: str, port: int) -> Iterator[None]:
    """Serve the dashboard of the same database in a thread, beside what the caller does.

    The tokens are those of the environment.

    Raises:
        InvalidArgument: if there is no token, or the address cannot be had.
    """
    server = _server(
        AsyncCoordinator(sync.dsn, sync.direct_dsn),
        (
            os.environ.get("PGSYNC_DASHBOARD_TOKEN"),
            os.environ.get("PGSYNC_DASHBOARD_READ_TOKEN"),
        ),
        host,
        port,
        hide_args=click.BOOL.convert(
            os.environ.get("PGSYNC_DASHBOARD_HIDE_ARGS") or "no", None, None
        ),
    )
    try:
        line = socket.create_server((host, port))
    except OSError as error:
        raise InvalidArgument(
            f"the dashboard cannot listen on {host}:{port}: {error.strerror}; give another"
            " --dashboard-port"
        ) from None
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [line]}, name="pgsync-dashboard", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(2 * _GRACE)


def _server(
    sync: AsyncCoordinator,
    tokens: tuple[str | None, str | None],
    host: str,
    port: int,
    *,
    hide_args: bool,
) -> uvicorn.Server:
    try:
        import uvicorn

        from pgsync.dashboard import create_app
    except ImportError:
        raise InvalidArgument(
            'the dashboard needs more packages: pip install "pgsync-coordination[dashboard]"'
        ) from None
    return uvicorn.Server(
        uvicorn.Config(
            create_app(sync, tokens[0] or "", tokens[1] or None, hide_args=hide_args),
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_GRACE,
        )
    )
