"""From templates to text: everything that they print is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from pgsync.dashboard.access import Access, Session
from pgsync.dashboard.formats import FILTERS
from pgsync.dashboard.live import EVERY
from pgsync.dashboard.pages import PAGES
from pgsync.dashboard.rhythms import in_words
from pgsync.version import __version__

__all__ = ["Templates"]

_FOLDER = Path(__file__).parent / "templates"


class Templates:
    """Renders whole pages, and the part of a page that changes by itself (its block ``live``)."""

    def __init__(self, access: Access, hide_args: bool) -> None:
        self._access = access
        self._environment = Environment(
            loader=FileSystemLoader(_FOLDER),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(FILTERS)
        self._environment.filters["rhythm"] = lambda it: in_words(it["kind"], it["expression"])
        self._environment.globals.update(
            version=__version__,
            hide_args=hide_args,
            refreshes=EVERY,
            navigation=[page for page in PAGES if page.key],
            ui=self._environment.get_template("macros.html").module,
        )

    def response(
        self,
        request: Request,
        name: str,
        context: Mapping[str, Any],
        *,
        session: Session | None = None,
        status: int = 200,
    ) -> Response:
        """A whole page."""
        template = self._environment.get_template(f"{name}.html")
        text = template.render(self._context(request, context, session))
        return HTMLResponse(text, status_code=status)

    def live(
        self, request: Request, name: str, context: Mapping[str, Any], session: Session
    ) -> str:
        """The part of a page that changes by itself."""
        template = self._environment.get_template(f"{name}.html")
        return "".join(
            template.blocks["live"](template.new_context(self._context(request, context, session)))
        )

    def _context(
        self, request: Request, context: Mapping[str, Any], session: Session | None
    ) -> dict[str, Any]:
        def link(to: str, **parameters: Any) -> str:
            return request.url_for(to, **parameters).path

        url = request.url.remove_query_params("every")  # That of a stream, not of its page.
        return {
            "link": link,
            "here": url.path + (f"?{url.query}" if url.query else ""),
            "session": session,
            "form_token": self._access.form_token(session) if session else "",
            "said": None,
            "page": None,
            **context,
        }
