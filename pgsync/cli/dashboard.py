"""``pgsync dashboard``: the pages, served from this process."""

from __future__ import annotations

import click

from pgsync.cli.output import dsn_option
from pgsync.coordinator import AsyncCoordinator
from pgsync.errors import InvalidArgument

__all__ = ["dashboard"]

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
def dashboard(
    dsn: str | None, host: str, port: int, token: str | None, read_token: str | None
) -> None:
    """Serve the dashboard."""
    try:
        import uvicorn

        from pgsync.dashboard import create_app
    except ImportError:
        raise InvalidArgument(
            'the dashboard needs more packages: pip install "pgsync-coordination[dashboard]"'
        ) from None
    app = create_app(AsyncCoordinator(dsn), token or "", read_token or None)
    click.echo(f"http://{host}:{port}/")
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_GRACE,
    )
