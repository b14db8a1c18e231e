"""The dashboard as an ASGI app, to be served alone or mounted into another under any prefix."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from pgsync.coordinator import AsyncCoordinator
from pgsync.daemon.metrics import CONTENT_TYPE, check_metrics, read_metrics, render_metrics
from pgsync.dashboard.access import Access, SecurityHeaders
from pgsync.dashboard.panels import PANELS, json_value, read_panel, shown
from pgsync.errors import InvalidArgument, PgsyncError
from pgsync.version import __version__

__all__ = ["create_app"]

_HERE = Path(__file__).parent
_SHORTEST_TOKEN = 16


def create_app(sync: AsyncCoordinator, token: str) -> Starlette:
    """The dashboard of the coordinator's database, for those who have the token.

    Raises:
        InvalidArgument: if the token has under 16 characters.
    """
    if len(token) < _SHORTEST_TOKEN:
        raise InvalidArgument(
            f"the dashboard's token must have {_SHORTEST_TOKEN} characters or more; set "
            "PGSYNC_DASHBOARD_TOKEN, for example to the output of: openssl rand -hex 16"
        )
    dashboard = _Dashboard(sync, Access(token))

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await sync.close()

    return Starlette(
        routes=[
            Route("/", dashboard.overview, name="overview"),
            Route("/sign-in", dashboard.sign_in_page, name="sign_in"),
            Route("/sign-in", dashboard.sign_in, methods=["POST"]),
            Route("/api/{panel}", dashboard.api),
            Route("/livez", dashboard.live),
            Route("/healthz", dashboard.live),
            Route("/readyz", dashboard.ready),
            Route("/metrics", dashboard.metrics),
            Mount("/static", StaticFiles(directory=_HERE / "static"), name="static"),
        ],
        middleware=[Middleware(SecurityHeaders)],
        lifespan=lifespan,
    )


class _Dashboard:
    def __init__(self, sync: AsyncCoordinator, access: Access) -> None:
        self._sync = sync
        self._access = access
        self._templates = Jinja2Templates(_HERE / "templates")
        self._templates.env.filters["shown"] = shown
        self._templates.env.globals["version"] = __version__

    async def overview(self, request: Request) -> Response:
        if not self._access.is_signed_in(request):
            return RedirectResponse(request.url_for("sign_in"), status_code=303)
        panels: list[tuple[Any, list[dict[str, Any]] | None]] = []
        async with self._sync.database.connection() as connection:
            for panel in PANELS:
                try:
                    panels.append((panel, await read_panel(connection, panel)))
                except Exception:  # noqa: BLE001 - one slow panel must not hide the others
                    panels.append((panel, None))
        return self._templates.TemplateResponse(request, "overview.html", {"panels": panels})

    async def sign_in_page(self, request: Request) -> Response:
        return self._templates.TemplateResponse(request, "sign_in.html", {"refused": False})

    async def sign_in(self, request: Request) -> Response:
        async with request.form(max_files=0, max_fields=4, max_part_size=4096) as form:
            given = form.get("token")
        if not isinstance(given, str) or not self._access.accepts(given):
            return self._templates.TemplateResponse(
                request, "sign_in.html", {"refused": True}, status_code=403
            )
        response = RedirectResponse(request.url_for("overview"), status_code=303)
        self._access.sign_in(request, response)
        return response

    async def api(self, request: Request) -> Response:
        if not self._access.is_signed_in(request):
            raise HTTPException(401, "send the token: Authorization: Bearer ...")
        panel = next((each for each in PANELS if each.name == request.path_params["panel"]), None)
        if panel is None:
            raise HTTPException(404, f"one of {', '.join(each.name for each in PANELS)}")
        async with self._sync.database.connection() as connection:
            rows = await read_panel(connection, panel)
        return JSONResponse(
            [{name: json_value(value) for name, value in row.items()} for row in rows]
        )

    async def metrics(self, request: Request) -> Response:
        """Metrics of the database, in the text format of Prometheus."""
        if not self._access.is_signed_in(request):
            raise HTTPException(401, "send the token: Authorization: Bearer ...")
        try:
            check_metrics()
        except InvalidArgument as error:
            raise HTTPException(501, str(error)) from None
        page = render_metrics(await self._sync.database.run(read_metrics()))
        return Response(page, media_type=CONTENT_TYPE)

    async def live(self, _request: Request) -> Response:
        """Whether this process answers; never touches the database."""
        return PlainTextResponse("ok")

    async def ready(self, _request: Request) -> Response:
        """Whether the database answers too."""
        try:
            async with self._sync.database.connection() as connection:
                await connection.execute("SELECT 1")
        except PgsyncError as error:
            return PlainTextResponse(f"not ready: {type(error).__name__}", status_code=503)
        return PlainTextResponse("ok")
