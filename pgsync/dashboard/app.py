"""The dashboard as an ASGI app, to be served alone or mounted into another under any prefix."""

from __future__ import annotations

import base64
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from starlette.applications import Starlette
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from pgsync.coordinator import AsyncCoordinator
from pgsync.daemon.metrics import CONTENT_TYPE, check_metrics, read_metrics, render_metrics
from pgsync.dashboard.access import MOST_BYTES, Access, BoundedBody, SecurityHeaders, Session
from pgsync.dashboard.actions import ACTIONS, Again, perform
from pgsync.dashboard.api import ENDPOINTS, Endpoint, read_rows
from pgsync.dashboard.indicator import indicator_tag, read_indicator
from pgsync.dashboard.live import LiveStreams, seconds_wanted, wants_events
from pgsync.dashboard.openapi import document
from pgsync.dashboard.pages import PAGES, Page
from pgsync.dashboard.reading import acting, reading
from pgsync.dashboard.rendering import Templates
from pgsync.errors import InvalidArgument, PgsyncError

__all__ = ["create_app"]

_HERE = Path(__file__).parent
_SHORTEST_TOKEN = 16
_MOST_FIELDS = 1_100  # A thousand jobs that are ticked, and what goes with them.
_SAID = "pgsync_said"

Handler = Callable[[Request], Awaitable[Response]]


def create_app(
    sync: AsyncCoordinator, token: str, read_token: str | None = None, *, hide_args: bool = False
) -> Starlette:
    """The dashboard of the coordinator's database, for those who have a token.

    ``token`` may look and act; ``read_token``, where it is given, may only look. With ``hide_args``
    no list shows arguments: only the page of a job does.

    Raises:
        InvalidArgument: if a token has under 16 characters, or both are the same.
    """
    for name, given in (
        ("PGSYNC_DASHBOARD_TOKEN", token),
        ("PGSYNC_DASHBOARD_READ_TOKEN", read_token),
    ):
        if given is not None and len(given) < _SHORTEST_TOKEN:
            raise InvalidArgument(
                f"the dashboard's token must have {_SHORTEST_TOKEN} characters or more; set "
                f"{name}, for example to the output of: openssl rand -hex 16"
            )
    if token == read_token:
        raise InvalidArgument("the token that only reads must differ from the other")
    dashboard = _Dashboard(sync, Access(token, read_token), hide_args)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await dashboard.close()

    return Starlette(
        routes=[
            *(Route(page.path, dashboard.page(page), name=page.name) for page in PAGES),
            Route("/sign-in", dashboard.sign_in_page, name="sign_in"),
            Route("/sign-in", dashboard.sign_in, methods=["POST"]),
            Route("/sign-out", dashboard.sign_out, methods=["POST"], name="sign_out"),
            Route("/do/{subject}/{action}", dashboard.act, methods=["POST"], name="act"),
            *(Route(_route(each), dashboard.answer(each)) for each in ENDPOINTS),
            Mount("/static", StaticFiles(directory=_HERE / "static"), name="static"),
        ],
        middleware=[Middleware(SecurityHeaders), Middleware(BoundedBody)],
        exception_handlers={
            HTTPException: dashboard.refused,
            PgsyncError: dashboard.refused,
            psycopg.Error: dashboard.refused,
        },
        lifespan=lifespan,
    )


class _Dashboard:
    def __init__(self, sync: AsyncCoordinator, access: Access, hide_args: bool) -> None:
        self._sync = sync
        # A pool of its own: what people look at never takes a connection from the app's work.
        self._database = sync.new_database(size=4)
        self._access = access
        self._templates = Templates(access, hide_args)
        self._streams = LiveStreams()

    async def close(self) -> None:
        await self._database.close()
        await self._sync.close()

    def page(self, page: Page) -> Handler:
        async def show(request: Request) -> Response:
            session = self._access.session(request)
            if session is None:
                if wants_events(request):
                    raise HTTPException(401, "sign in first")
                return RedirectResponse(request.url_for("sign_in").path, status_code=303)
            if wants_events(request):
                return self._streams.stream(
                    lambda: self._live_part(page, request, session), seconds_wanted(request)
                )
            async with reading(self._database) as read:
                context = await page.read(read, request)
            said = self._said(request)
            response = self._templates.response(
                request, page.name, {**context, "page": page, "said": said}, session=session
            )
            if said is not None:
                response.delete_cookie(_SAID, path=_root(request))
            return response

        return show

    async def _live_part(self, page: Page, request: Request, session: Session) -> str:
        async with reading(self._database) as read:
            context = await page.read(read, request)
        return self._templates.live(request, page.name, {**context, "page": page}, session)

    async def sign_in_page(self, request: Request) -> Response:
        return self._templates.response(request, "sign_in", {"refused": False})

    async def sign_in(self, request: Request) -> Response:
        async with request.form(max_files=0, max_fields=4, max_part_size=4096) as form:
            token, name = form.get("token"), form.get("name")
        role = self._access.role_of(token) if isinstance(token, str) else None
        if role is None:
            return self._templates.response(request, "sign_in", {"refused": True}, status=403)
        response = RedirectResponse(request.url_for("overview").path, status_code=303)
        self._access.sign_in(request, response, role, name if isinstance(name, str) else "")
        return response

    async def sign_out(self, request: Request) -> Response:
        await self._own_form(request)
        response = RedirectResponse(request.url_for("sign_in").path, status_code=303)
        self._access.sign_out(request, response)
        return response

    async def act(self, request: Request) -> Response:
        """Do what a form asks for, then show the page that it was on."""
        session, form = await self._own_form(request)
        if not session.may_act:
            raise HTTPException(403, "this token may look, but not act")
        action = ACTIONS.get((request.path_params["subject"], request.path_params["action"]))
        if action is None:
            raise HTTPException(404, "there is no such action")
        try:
            async with acting(self._database) as read:
                said = await perform(read, action, form, session.name)
        except HTTPException as error:
            if isinstance(action, Again):
                return await self._form_again(request, session, action, form, error)
            raise
        response = RedirectResponse(_back(request, form.get("back")), status_code=303)
        body = base64.urlsafe_b64encode(said.encode()).decode()
        response.set_cookie(
            _SAID,
            f"{body}.{self._access.sign('said', body)}",
            max_age=60,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
            path=_root(request),
        )
        return response

    async def _form_again(
        self,
        request: Request,
        session: Session,
        action: Again,
        form: FormData,
        error: HTTPException,
    ) -> Response:
        """The page of a form that was refused, with all that was typed and why."""
        async with reading(self._database) as read:
            context = await action.show(read, form)
        texts = {name: value for name, value in form.items() if isinstance(value, str)}
        fields = defaultdict(str, texts)  # what was not sent is shown empty
        page = next(page for page in PAGES if page.name == action.again)
        return self._templates.response(
            request,
            page.name,
            {**context, "page": page, "fields": fields, "wrong": error.detail},
            session=session,
            status=error.status_code,
        )

    async def _own_form(self, request: Request) -> tuple[Session, FormData]:
        session = self._access.session(request)
        if session is None:
            raise HTTPException(401, "sign in first")
        async with request.form(
            max_files=0, max_fields=_MOST_FIELDS, max_part_size=MOST_BYTES
        ) as form:
            if not self._access.is_own_form(session, form.get("form_token")):
                raise HTTPException(403, "this form is not of your session: load the page again")
            return session, form

    def _said(self, request: Request) -> str | None:
        """What the action that led here had to tell; signed, so that nobody puts words into it."""
        body, _, signature = request.cookies.get(_SAID, "").partition(".")
        if not self._access.is_signed(signature, "said", body):
            return None
        return base64.urlsafe_b64decode(body).decode()

    async def status(self, request: Request, _endpoint: Endpoint) -> Response:
        """The state of an operation on a key: HTML, or JSON where that is asked for."""
        async with reading(self._database) as read:
            state = await read_indicator(
                read, request.path_params["operation"], request.path_params["key"]
            )
        form = "json" if "application/json" in request.headers.get("accept", "") else "html"
        tag = indicator_tag(state, form)
        headers = {"etag": tag, "vary": "accept"}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        response = (
            JSONResponse(state)
            if form == "json"
            else self._templates.response(request, "indicator", {"run": state})
        )
        response.headers.update(headers)
        return response

    def answer(self, endpoint: Endpoint) -> Handler:
        """What answers an endpoint, to those who may ask."""
        handle: Callable[[Request, Endpoint], Awaitable[Response]] = {
            "api": self.rows,
            "document": self.document,
            "live": self.live,
            "metrics": self.metrics,
            "ready": self.ready,
            "status": self.status,
        }[endpoint.handler]

        async def answer(request: Request) -> Response:
            if endpoint.needs_token and self._access.session(request) is None:
                raise HTTPException(401, "send the token: Authorization: Bearer ...")
            return await handle(request, endpoint)

        return answer

    async def document(self, request: Request, _endpoint: Endpoint) -> Response:
        """The OpenAPI document."""
        return JSONResponse(document(_root(request)))

    async def rows(self, request: Request, endpoint: Endpoint) -> Response:
        """A list of the API, with a link to its next page where there is one."""
        async with reading(self._database) as read:
            found = await read_rows(read, endpoint, request)
        response = JSONResponse(found.rows)
        if found.next_before is not None:
            following = request.url.include_query_params(before=found.next_before)
            response.headers["link"] = f'<?{following.query}>; rel="next"'
        return response

    async def metrics(self, _request: Request, _endpoint: Endpoint) -> Response:
        """Metrics of the database, in the text format of Prometheus."""
        try:
            check_metrics()
        except InvalidArgument as error:
            raise HTTPException(501, str(error)) from None
        page = render_metrics(await self._database.run(read_metrics()))
        return Response(page, media_type=CONTENT_TYPE)

    async def live(self, _request: Request, _endpoint: Endpoint) -> Response:
        """Whether this process answers; never touches the database."""
        return PlainTextResponse("ok")

    async def ready(self, _request: Request, _endpoint: Endpoint) -> Response:
        """Whether the database answers too."""
        try:
            async with reading(self._database) as read:
                await read.rows("SELECT 1")
        except (PgsyncError, psycopg.Error) as error:
            return PlainTextResponse(f"not ready: {type(error).__name__}", status_code=503)
        return PlainTextResponse("ok")

    async def refused(self, request: Request, error: Exception) -> Response:
        """An error as a page, or as JSON for the API; says nothing of what is inside."""
        match error:
            case HTTPException():
                status, message = error.status_code, error.detail
            case InvalidArgument():
                status, message = 400, str(error)
            case psycopg.errors.QueryCanceled():
                status, message = 503, "the database took too long, and the query was ended"
            case psycopg.errors.UndefinedTable() | psycopg.errors.UndefinedFunction():
                status, message = 503, "the schema is older than this version: run pgsync migrate"
            case psycopg.errors.InsufficientPrivilege():
                status = 403
                message = (
                    f"the dashboard's role in the database may not: {error.diag.message_primary}"
                )
            case psycopg.errors.DataError():
                status, message = 400, error.diag.message_primary or "that cannot be read"
            case _:
                status, message = 503, f"the database did not answer ({type(error).__name__})"
        path = request.url.path[len(_root(request).rstrip("/")) :]
        if _is_for_programs(path) or wants_events(request):
            headers = error.headers if isinstance(error, HTTPException) else None
            return JSONResponse({"error": message}, status_code=status, headers=headers)
        return self._templates.response(
            request,
            "error",
            {"status": status, "message": message},
            session=self._access.session(request),
            status=status,
        )


def _route(endpoint: Endpoint) -> str:
    # The last parameter of a path may have slashes.
    return re.sub(r"}$", ":path}", endpoint.path)


def _is_for_programs(path: str) -> bool:
    firsts = {endpoint.path.split("/")[1] for endpoint in ENDPOINTS}
    return path.strip("/").partition("/")[0] in firsts


def _root(request: Request) -> str:
    return request.scope.get("root_path") or "/"


def _back(request: Request, given: object) -> str:
    """The page that a form names, if it is one of the dashboard's; else the overview."""
    overview = request.url_for("overview").path
    if not isinstance(given, str) or "\\" in given:
        return overview
    parts = urlsplit(given)
    if parts.scheme or parts.netloc or not parts.path.startswith(overview):
        return overview
    return given
